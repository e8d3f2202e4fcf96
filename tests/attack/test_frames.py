"""Threats B8-B10, D11: what is no frame, and what ends a connection.

What may be is for ``websockets``' Sans-I/O to say; see ``fuzz.oracle``.
"""
from __future__ import annotations

import contextlib
import itertools
import random
import struct
import time
from collections import Counter

import pytest

from ..fuzz.oracle import PADDING, Oracle, excused, make_stream, ours, pieces
from ..fuzz.seeds import told
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
from . import FULL
from .victim import ending_of

#: How long connections are made for a test in full size.
FULL_S = 60.0
PATHS = pytest.mark.parametrize('path', ['/api', '/echo'])


# -- the oracle over sockets -----------------------------------------------

#: {path: its limit of a message}; both echo
LIMITS = {'/echo': 1 << 20, '/small': 2000}


def answers_to(found):
    """What an echo answers: (messages in order, pongs in any)."""
    messages = [each for each in found if each[0] in (TEXT, BINARY)]
    return messages, Counter(each[1] for each in found if each[0] == PING)


def check_by_oracle(wire, path, segments):
    """An echo takes and refuses what the oracle does, by the same code."""
    data, limit = b''.join(segments), LIMITS[path]
    oracle = Oracle(client=False, max_message_bytes=limit)
    oracle.feed(data)
    expected = answers_to(oracle.found)
    closes = [each[1] for each in oracle.found if each[0] == CLOSE]
    code = oracle.code or (closes[0] if closes else None)
    got, got_code = what_comes(wire, path, segments, expected, code)
    if got_code is not None and code is None:
        oracle.feed(PADDING)    # we refuse by the header
        code = oracle.code
    if got_code == code and (got == expected or (
            closes and got[0] == expected[0][:len(got[0])])):
        return      # a handler's answers after the peer's Close are lost
    found, our_code, reason = ours([data], False, limit)
    assert excused(found, our_code, reason, oracle), (
        f'{data[:300]!r}: {got!r:.300} {got_code}, the oracle: '
        f'{expected!r:.300} {code}')
    closes = [each[1] for each in found if each[0] == CLOSE]
    assert got_code == (our_code or (closes[0] if closes else None))


def what_comes(wire, path, segments, expected, code):
    """((messages, pongs), the Close's code or None) as far as expected."""
    messages, pongs, got_code = [], Counter(), None
    with wire.peer(path) as peer:
        with contextlib.suppress(OSError):
            for segment in segments:
                peer.send_raw(segment)
        while (code is not None or len(messages) < len(expected[0])
               or pongs.total() < expected[1].total()):
            try:
                opcode, payload = peer.recv_frame(timeout_s=2)
            except (PeerClosed, TimeoutError):      # or it is excused
                break
            if opcode == CLOSE:
                got_code = int.from_bytes(payload[:2], 'big') or 1005
                break
            if opcode == PONG:
                pongs[payload] += 1
            else:
                messages.append((opcode, payload))
        if not wire.tls:
            peer.reset()        # a FIN would keep the port for a minute
    return (messages, pongs), got_code


def seeded(count, full_count=1 << 60):
    """Seeds for ``count`` cases, or for as many as fit into FULL_S."""
    first = random.randrange(1 << 32)
    print(f'seed {first}')
    until = time.monotonic() + FULL_S
    for number in range(full_count if FULL else count):
        if FULL and time.monotonic() > until:
            break
        yield first + number


# -- B8 --------------------------------------------------------------------


def frame_that_begins(first, second):
    """A frame whose first two bytes these are, complete and minimal."""
    masked, length = second & 0x80, second & 0x7f
    head = bytes([first, second])
    if length == 126:
        head += struct.pack('!H', length)
    elif length == 127:
        length = 1 << 16
        head += struct.pack('!Q', length)
    return head + (b'\0' * 4 if masked else b'') + b'a' * length


def test_b8_the_first_two_bytes(wire, measured):
    pairs = [(first, second) for first in range(256)
             for second in range(256)]
    if not FULL or wire.tls:
        seed = random.randrange(1 << 32)
        print(f'seed {seed}')
        pairs = random.Random(seed).sample(
            pairs, 4096 if FULL else 50 if wire.tls else 300) + [
            (first, second) for first in range(256)
            for second in (0x00, 0x80) if not first & 0x70]
    begun = time.monotonic()
    for first, second in pairs:
        check_by_oracle(wire, '/echo', [frame_that_begins(first, second)
                                        + client_frame(PING, b'end')])
    measured(f'B8 {len(pairs)} first two bytes',
             seconds=time.monotonic() - begun)


@pytest.mark.parametrize('frame', [
    *(client_frame(opcode, b'x' * size, mask=False)
      for opcode in (TEXT, BINARY, CLOSE, PING, PONG)
      for size in (0, 1, 126)),
    client_frame(TEXT, b'x', length_bytes=2),
    client_frame(TEXT, b'x' * 125, length_bytes=2),
    client_frame(TEXT, b'x', length_bytes=8),
    client_frame(TEXT, b'x' * 126, length_bytes=8),
    client_frame(TEXT, b'', length_bytes=8),
    *(client_frame(TEXT, b'x', rsv=bits) for bits in (1, 2, 4, 7)),
    *(client_frame(opcode, b'') for opcode in (3, 7, 11, 15)),
    client_frame(PING, b'x', fin=False), client_frame(CLOSE, fin=False),
    client_frame(PING, b'x' * 126), client_frame(CONTINUATION, b'x'),
    client_frame(TEXT, b'a', fin=False) + client_frame(TEXT, b'b'),
], ids=lambda frame: frame[:10].hex())
@PATHS
def test_b8_frames_that_no_client_may_send(wire, path, frame):
    with wire.peer(path) as peer:
        peer.send_raw(frame)
        assert ending_of(peer) == 1002
        assert peer.recv_eof() == b''


# -- B9 --------------------------------------------------------------------

INVALID = [b'\xff', b'\xc0\x80', b'\xed\xa0\x80', b'\xf4\x90\x80\x80',
           b'\xe2\x82', b'ok\xfe', b'\xf8\x88\x80\x80\x80', b'\x80',
           b'\xf0\x80\x80\x80', b'\xe0\x80\x80', b'\xf0\x9f\x98']
VALID = '\x7f\x80\u07ff\u0800\ud7ff\ue000\ufffd\uffff\U00010000\U0010ffff'


def in_fragments(text, cuts):
    """A text's frames, cut there."""
    parts = [text[start:stop] for start, stop in
             zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return b''.join(
        client_frame(CONTINUATION if at else TEXT, part,
                     fin=at == len(parts) - 1)
        for at, part in enumerate(parts))


@PATHS
@pytest.mark.parametrize('text', INVALID, ids=lambda text: text.hex())
def test_b9_invalid_utf_8(wire, path, text):
    for cuts in ([], *([cut] for cut in range(len(text) + 1)),
                 list(range(1, len(text)))):
        with wire.peer(path) as peer:
            peer.send_raw(in_fragments(text, cuts))
            assert ending_of(peer) == 1007


@PATHS
def test_b9_a_bad_byte_is_found_before_its_frame_ends(wire, path):
    with wire.peer(path) as peer:
        peer.send_frame(TEXT, b'ok\xff', length=1000, length_bytes=2)
        assert ending_of(peer) == 1007
    with wire.peer(path) as peer:
        peer.send_frame(TEXT, b'\xed', fin=False)
        peer.send_frame(PING, b'between')
        assert peer.recv_frame() == (PONG, b'between')
        peer.send_frame(CONTINUATION, b'\xa0', fin=False)
        assert ending_of(peer) == 1007


def test_b9_invalid_utf_8_inside_a_compressed_text(wire):
    deflate = {'Sec-WebSocket-Extensions': 'permessage-deflate'}
    with wire.peer('/deflate', headers=deflate) as peer:
        stored = b'\x00\x02\x00\xfd\xffk\xff\x00'   # a stored block, 'k\xff'
        peer.send_frame(TEXT, stored, rsv=4)
        assert ending_of(peer) == 1007


def test_b9_split_code_points_are_good(wire):
    text = VALID.encode()
    with wire.peer('/echo') as peer:
        for cut in range(len(text) + 1):
            peer.send_raw(in_fragments(text, [cut]))
            assert peer.recv_frame() == (TEXT, text)
        peer.send_raw(in_fragments(text, list(range(1, len(text)))))
        assert peer.recv_frame() == (TEXT, text)


@PATHS
def test_b9_a_close_between_fragments_is_a_close(wire, path):
    with wire.peer(path) as peer:
        peer.send_frame(TEXT, b'\xe2', fin=False)
        peer.send_frame(CLOSE, struct.pack('!H', 4321) + b'bye')
        assert ending_of(peer) == 4321
        assert peer.recv_eof() == b''


# -- B10 -------------------------------------------------------------------

LEGAL = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013,
         1014, 3000, 4401, 4999]
ILLEGAL = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000,
           65535]


@PATHS
@pytest.mark.parametrize('code, answer', [
    *((code, code) for code in LEGAL), *((code, 1002) for code in ILLEGAL)])
def test_b10_codes_of_a_close(wire, path, code, answer):
    with wire.peer(path) as peer:
        peer.send_raw(client_frame(CLOSE, struct.pack('!H', code) + b'why')
                      + client_frame(TEXT, b'after the Close'))
        assert ending_of(peer) == answer
        assert peer.recv_eof() == b''


def test_b10_any_code_of_a_close(attacked, measured):
    codes = range(65536)
    if not FULL:
        seed = random.randrange(1 << 32)
        print(f'seed {seed}')
        codes = random.Random(seed).sample(codes, 100)
    for code in codes:
        check_by_oracle(attacked, '/echo', [
            client_frame(CLOSE, struct.pack('!H', code))])
    measured(f'B10 {len(codes)} codes')


@PATHS
@pytest.mark.parametrize('body, answers', [
    (b'', {1005}), (b'\x03', {1002}),
    (struct.pack('!H', 1000) + b'\xff', {1002, 1007}),
    (struct.pack('!H', 1000) + b'\xe2\x82', {1002, 1007}),
    (struct.pack('!H', 1000) + b'x' * 123, {1000}),
    (struct.pack('!H', 1000) + b'x' * 124, {1002})])
def test_b10_bodies_of_a_close(wire, path, body, answers):
    with wire.peer(path) as peer:
        peer.send_frame(CLOSE, body)
        assert ending_of(peer) in answers
        assert peer.recv_eof() == b''


@pytest.mark.parametrize('method', ['count', 'count_async', 'count_loop'])
@pytest.mark.parametrize('end', [
    client_frame(CLOSE, struct.pack('!H', 1000)), client_frame(CLOSE),
    client_frame(TEXT, b'not masked', mask=False),
    client_frame(PING, b'x' * 126)], ids=lambda end: end[:2].hex())
@pytest.mark.parametrize('apart', [False, True])
def test_b10_nothing_is_served_after(wire, method, end, apart):
    run = wire.stats()['run']
    call = client_frame(TEXT, (f'{{"jsonrpc":"2.0","method":"{method}",'
                               '"id":1}').encode()) * 3
    with wire.peer('/api') as peer:
        if apart:
            peer.send_raw(end)
            code = ending_of(peer)
            with contextlib.suppress(OSError):
                peer.send_raw(call)
        else:
            peer.send_raw(end + call)
            opcode, payload = peer.recv_frame()
            assert opcode == CLOSE
            code = int.from_bytes(payload[:2], 'big') or 1005
        assert code in (1000, 1002, 1005)
        assert peer.recv_eof() == b''
    assert wire.stats()['run'] == run


# -- D11 -------------------------------------------------------------------


def test_d11_fuzzed_streams_over_sockets(wire, measured):
    """10^6 cases without sockets: ``tests/fuzz``."""
    streams = sent = 0
    # Each TLS handshake leaves 1.3 KiB, with CherryPy's own pages as well
    # (docs/deployment.rst): 23 000 streams came to 27 MiB.
    most = 6_000 if wire.tls else None
    for seed in itertools.islice(seeded(30 if wire.tls else 300), most):
        with told(seed):
            rng = random.Random(seed)
            data = make_stream(rng, mask=True)
            cuts = pieces(rng, data)
            check_by_oracle(wire, '/small',
                            cuts if len(cuts) < 20 else [data])
            streams, sent = streams + 1, sent + len(data)
    measured(f'D11 {streams} fuzzed streams', bytes=sent)
