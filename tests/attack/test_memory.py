"""Threats B1, B2, B4-B7: more than a server can hold, or has time for."""
from __future__ import annotations

import contextlib
import json
import selectors
import time

import pytest

from ..rawpeer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    PeerClosed,
    client_frame,
)
from ..serving import wait_until
from . import FULL, in_time
from .victim import ending_of, loop_s

LIMIT = 1 << 20
OUT_LIMIT = 4 << 20
DEFLATE = {'Sec-WebSocket-Extensions':
           'permessage-deflate; client_max_window_bits'}
PATHS = pytest.mark.parametrize('path', ['/api', '/echo'])


# -- B1 --------------------------------------------------------------------


@PATHS
@pytest.mark.parametrize('length, code', [
    (LIMIT + 1, 1009), (1 << 31, 1009), (1 << 32, 1009), (1 << 62, 1009),
    (1 << 63, 1002), ((1 << 64) - 1, 1002)])
@pytest.mark.parametrize('opcode', [TEXT, BINARY])
def test_b1_announced_lengths(wire, path, length, code, opcode):
    before = wire.stats()
    with wire.peer(path) as peer:
        begun = time.monotonic()
        peer.send_frame(opcode, b'', length=length, length_bytes=8)
        assert ending_of(peer) == code
        assert time.monotonic() - begun < in_time(0.1)
    after = wire.stats()
    assert after['loop_s'] - before['loop_s'] < 0.1
    assert after['rss'] <= before['rss'] + (1 << 20)


def test_b1_the_limit_itself_is_no_attack(wire):
    with wire.peer('/echo') as peer:
        peer.send_frame(TEXT, b'x' * LIMIT)
        assert peer.recv_frame() == (TEXT, b'x' * LIMIT)


def test_b1_a_fragment_that_is_one_byte_too_much(wire):
    with wire.peer('/echo') as peer:
        peer.send_frame(TEXT, b'x' * (LIMIT - 1), fin=False)
        peer.send_frame(CONTINUATION, b'', length=2, length_bytes=0)
        assert ending_of(peer) == 1009


def test_b1_what_is_announced_is_not_reserved(attacked, measured):
    count = 1000 if FULL else 100
    before = attacked.stats()['rss']
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            peer = stack.enter_context(attacked.peer('/echo'))
            peer.send_frame(TEXT, b'x', length=LIMIT, length_bytes=8)
        each = (attacked.stats()['rss'] - before) / count
    measured(f'B1 {count} x 1 MiB announced', kib_each=each / 1024)
    assert each < 64 << 10


# -- B2 --------------------------------------------------------------------


@PATHS
def test_b2_endless_fragments_end_at_the_limit_of_a_message(wire, path):
    with wire.peer(path) as peer:
        piece = b'x' * (1 << 16)
        peer.send_frame(TEXT, piece, fin=False)
        for _ in range(15):
            peer.send_frame(CONTINUATION, piece, fin=False)
        peer.send_frame(PING)
        assert peer.recv_frame() == (PONG, b'')
        peer.send_frame(CONTINUATION, b'x', fin=False)
        assert ending_of(peer) == 1009


@PATHS
@pytest.mark.parametrize('payload', [b'', b'x'])
def test_b2_fragments_past_1_024(wire, path, payload, measured):
    count = 1_000_000 if FULL else 10_000
    frames = (client_frame(TEXT, payload, fin=False)
              + client_frame(CONTINUATION, payload, fin=False) * count)

    def attack():
        with wire.peer(path) as peer:
            with contextlib.suppress(OSError):
                peer.send_raw(frames)
            assert ending_of(peer) == 1008

    measured(f'B2 {count} fragments of {len(payload)} B',
             loop_s=loop_s(wire, attack))


def test_b2_1_024_fragments_are_no_attack(wire):
    with wire.peer('/echo') as peer:
        peer.send_raw(client_frame(TEXT, b'a', fin=False)
                      + client_frame(CONTINUATION, b'b', fin=False) * 1022
                      + client_frame(CONTINUATION, b'c'))
        assert peer.recv_frame() == (TEXT, b'a' + b'b' * 1022 + b'c')


@pytest.mark.parametrize('size', [0, 1])
def test_b2_fragments_where_they_are_let_in_cost_the_same_each(
        wire, size, measured):
    def attack(count):
        middle = client_frame(CONTINUATION, b'x' * size, fin=False)
        with wire.peer('/fragments', timeout_s=50) as peer:
            peer.send_raw(client_frame(TEXT, b'a', fin=False)
                          + middle * count + client_frame(CONTINUATION))
            assert peer.recv_frame() == (TEXT, b'a' + b'x' * size * count)

    check_linear(wire, attack, 250_000 if FULL else 10_000, measured,
                 f'fragments of {size} B')


def test_b2_4_mb_in_segments_of_one_byte(attacked, measured):
    def attack(size):
        data = client_frame(BINARY, b'x' * size)
        with attacked.peer('/fragments', timeout_s=50) as peer:
            send = peer.sock.send
            for n in range(len(data)):
                send(data[n:n + 1])
            assert peer.recv_frame() == (BINARY, b'x' * size)

    check_linear(attacked, attack, 1_000_000 if FULL else 10_000, measured,
                 'B in segments of one')


def check_linear(attacked, attack, count, measured, what):
    """Four times as much costs the I/O loop four times the CPU, not 16."""
    attack(count // 10)         # what is made once
    small_s = loop_s(attacked, attack, count)
    large_s = loop_s(attacked, attack, 4 * count)
    measured(f'B2 {count} and {4 * count} {what}', loop_s=small_s,
             four_times=large_s)
    assert large_s < 8 * small_s + 0.05


# -- B4 --------------------------------------------------------------------

#: What never ends, and what is sent of it again and again.
NEVER_ENDING = {
    'a payload': (client_frame(BINARY, b'x', length=1000, length_bytes=2),
                  b'x'),
    'a header': (b'\x81\xff\x00', b'\x00'),
    'a message': (client_frame(TEXT, b'x', fin=False),
                  client_frame(CONTINUATION, b'x', fin=False)),
    'a ping': (client_frame(PING, b'', length=125), b'x'),
    'a message with pings in it': (
        client_frame(BINARY, b'x', fin=False),
        client_frame(CONTINUATION, b'x', fin=False) + client_frame(PING)),
    'a compressed one': (
        client_frame(TEXT, b'\x00', fin=False, rsv=4),
        client_frame(CONTINUATION, b'\x00', fin=False)),
}


@pytest.mark.timeout(120)
def test_b4_frames_that_never_end(attacked, measured):
    """One byte each 10 s from 1 000 sockets; quick: 100, hastier."""
    path, count, pause_s, limit_s = (
        ('/deflate', 1000, 10.0, 30.0) if FULL else
        ('/hasty', 100, 0.3, 1.0))
    took_s = []
    with contextlib.ExitStack() as stack, \
            selectors.DefaultSelector() as ends:
        kinds = list(NEVER_ENDING.values())
        for n in range(count):
            peer = stack.enter_context(attacked.peer(path, headers=DEFLATE))
            first, more = kinds[n % len(kinds)]
            peer.send_raw(first)
            ends.register(peer.sock, selectors.EVENT_READ,
                          (peer, more, time.monotonic()))
        while ends.get_map():
            # Nobody is told anything before the time is over ...
            for key, _ in ends.select(pause_s):
                peer, more, begun = key.data
                opcode, payload = peer.recv_frame()
                if opcode == CLOSE:
                    # ... and then in time.
                    assert payload[:2] == (1008).to_bytes(2, 'big')
                    took_s.append(time.monotonic() - begun)
                    ends.unregister(peer.sock)
                else:
                    assert opcode == PONG
            now = time.monotonic()
            for key in list(ends.get_map().values()):
                peer, more, begun = key.data
                peer.last = getattr(peer, 'last', begun)
                if now - peer.last >= pause_s:
                    peer.last = now
                    with contextlib.suppress(OSError):
                        peer.send_raw(more)
    measured(f'B4 {count} sockets', first_s=min(took_s), last_s=max(took_s))
    assert len(took_s) == count
    assert min(took_s) > limit_s - 0.1
    assert max(took_s) < limit_s + 1.5


# -- B5, B6, B7 ------------------------------------------------------------


@pytest.mark.parametrize('opcode', [PING, PONG])
@PATHS
def test_b5_control_frames_from_a_peer_that_reads_nothing(
        wire, path, opcode, measured):
    before = wire.stats()['rss']
    count = 1_000_000 if FULL else 10_000
    with wire.peer(path, receive_buffer=4096) as peer:
        frames = client_frame(opcode, b'x' * 125) * 100
        with contextlib.suppress(OSError):
            for _ in range(count // 100):
                peer.send_raw(frames)
        grown = wire.stats()['rss'] - before
        pongs, code = 0, 0
        with contextlib.suppress(PeerClosed):
            while code == 0:
                opcode_of, payload = peer.recv_frame()
                if opcode_of == CLOSE:
                    code = int.from_bytes(payload[:2], 'big')
                else:
                    pongs += opcode_of == PONG
    measured(f'B5 {count} of opcode {opcode} unread', pongs=pongs,
             code=code, kib=grown >> 10)
    assert pongs <= 250
    assert code == 1008
    assert grown < 4 << 20


def test_b5_50_pings_a_second_are_no_attack(wire):
    with wire.peer('/echo') as peer:
        peer.send_raw(client_frame(PING, b'?') * 250)
        assert [peer.recv_frame() for _ in range(250)] == (
            [(PONG, b'?')] * 250)
        peer.send_frame(TEXT, b'still there')
        assert peer.recv_frame() == (TEXT, b'still there')
        peer.send_frame(PING, b'one more')
        assert ending_of(peer) == 1008


@pytest.mark.parametrize('path', ['/api', '/deflated'])
@pytest.mark.timeout(120)
def test_b6_empty_objects_are_answered(wire, path, measured):
    count = 1_000_000 if FULL else 20_000
    frames = client_frame(TEXT, b'{}') * 1000
    threads = wire.stats()['threads']

    def attack():
        with wire.peer(path, timeout_s=30) as peer:
            peer.send_frame(TEXT, b'{}')
            _, answer = peer.recv_frame()
            assert json.loads(answer)['error']['code'] == -32600
            each = len(answer) + (2 if len(answer) < 126 else 4)
            for _ in range(count // 1000):
                peer.send_raw(frames)
                left = 1000 * each
                while left:
                    left -= len(peer.sock.recv(min(left, 1 << 16)))

    used_s = loop_s(wire, attack)
    measured(f'B6 {count} x {{}}', loop_s=used_s)
    assert wire.stats()['threads'] == threads


@pytest.mark.parametrize('text', [
    b'[', b'{}', b'[' + b'1,' * 99 + b'1]', b'[' + b'{},' * 99 + b'{}]'],
    ids=lambda text: text[:4].decode())
def test_b6_others_have_their_turn_within_what_one_read_brings(
        wire, text, measured):
    """256 KiB of these are up to 1.2 s of work; quick: 64."""
    frame, size = client_frame(TEXT, text), 1 << (18 if FULL else 16)
    frames = frame * (size // len(frame)) + client_frame(PING, b'end')
    position = len(wire.process.lines)
    with wire.peer('/api', timeout_s=20) as peer:
        used_s = loop_s(wire, read_all, peer, frames)
    measured(f'B6 {size >> 10} KiB of {text[:4].decode()}', loop_s=used_s)
    assert 'held the I/O loop' not in wire.lines_since(position)


def read_all(peer, frames):
    """Send, which the sockets' buffers take, and read up to the pong."""
    peer.send_raw(frames)
    while peer.recv_frame()[0] != PONG:
        pass


def test_b6_all_floods_together_get_a_part_of_each_turn(
        attacked, victim, measured):
    frame = client_frame(TEXT, b'[' + b'1,' * 99 + b'1]')
    frames = frame * (1000 if FULL else 50) + client_frame(PING, b'end')
    since = len(victim.took_s)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(attacked.peer(timeout_s=30))
                 for _ in range(8)]
        for peer in peers:
            peer.send_raw(frames)
        for peer in peers:
            while peer.sock.recv(1 << 16)[-5:] != b'\x8a\x03end':
                pass
    measured('B6 eight floods of batches')
    assert victim.p99_s(since) < 0.5, 'with all of them at once'


def test_b6_reading_pauses_while_the_peer_takes_nothing(wire, measured):
    frames = client_frame(TEXT, b'{}') * 10_000
    before = wire.stats()
    with wire.peer('/api', receive_buffer=4096) as peer:
        peer.timeout_s = 0.5        # in which nothing more is taken
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 1_000_000:
                peer.send_raw(frames)
                sent += 10_000
        now = wire.stats()
        grown = now['rss'] - before['rss']
        measured('B6 {} unread', taken=sent, kib=grown >> 10)
        assert sent < 1_000_000, 'the server reads on'
        assert now['threads'] == before['threads']
        assert grown < OUT_LIMIT + (1 << 20)
        if FULL:
            wait_until(lambda: wire.stats()['sockets'] == before['sockets'],
                       15)


@pytest.mark.parametrize('path', ['/api', '/deflated'][:2 if FULL else 1])
def test_b7_a_peer_that_never_reads(wire, path, measured):
    count = 1000 if FULL else 100
    with wire.peer(path, receive_buffer=4096) as deaf:
        deaf.call('rpc.subscribe', ['t'])
        before = wire.stats()
        took_s, queued = json.loads(wire.page(
            f'/publish?count={count}&size=100000', timeout_s=60).body)
        p99_s = took_s[len(took_s) * 99 // 100 - 1]
        wait_until(lambda: wire.stats()['sockets'] < before['sockets'])
        grown = wire.stats()['rss'] - before['rss']
        measured(f'B7 {count} x 100 kB unread', publish_p99_ms=p99_s * 1000,
                 queued_kib=queued >> 10, kib=grown >> 10)
        assert p99_s < in_time(0.005)
        assert queued <= OUT_LIMIT + 100_000
        assert grown < 16 << 20
