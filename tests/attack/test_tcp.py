"""Frames and TCP as no row of the threats has them: whoever tries things."""
from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import zlib

import pytest

from ..rawhttp import connect
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

CALL = client_frame(TEXT, b'{"jsonrpc":"2.0","method":"count","id":1}')
DEFLATE = {'Sec-WebSocket-Extensions': 'permessage-deflate'}


def upgrade(port, extra=''):
    return (f'GET /api HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n'
            'Upgrade: websocket\r\nConnection: Upgrade\r\n'
            'Sec-WebSocket-Version: 13\r\n'
            'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n'
            f'{extra}\r\n').encode()


def request(port):
    return f'GET /stats HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n'.encode()


def read_until(sock, *ends):
    """What comes, up to one of these, or the end of the stream."""
    data = b''
    with contextlib.suppress(ConnectionError):
        while not any(end in data for end in ends):
            more = sock.recv(1 << 16)
            if not more:
                break
            data += more
    return data


# -- two protocols on one connection ----------------------------------------


@pytest.mark.parametrize('more', [
    request(80), upgrade(80), b'\r\n', b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ids=lambda more: more[:4].decode().strip() or 'CRLF')
@pytest.mark.parametrize('apart', [False, True])
def test_http_after_the_upgrade_is_no_frame(wire, more, apart):
    with wire.peer(early=b'' if apart else more) as peer:
        assert peer.status == 101
        if apart:
            peer.send_raw(more)
        assert peer.recv_close()[0] == 1002
        assert peer.recv_eof() == b''


def test_requests_before_the_upgrade_on_one_connection(wire):
    with connect(wire.port, tls=wire.tls) as sock:
        sock.sendall(request(wire.port) * 3 + upgrade(wire.port) + CALL)
        data = read_until(sock, b'"result"')
    assert data.count(b'HTTP/1.1 200') == 3
    assert data.count(b'HTTP/1.1 101') == 1 and b'"result"' in data


@pytest.mark.parametrize('extra, body', [
    (f'Content-Length: {len(CALL)}\r\n', CALL),
    ('Content-Length: 5\r\n', b'hello' + CALL),
    ('Transfer-Encoding: chunked\r\n', b'0\r\n\r\n' + CALL),
    ('Transfer-Encoding: chunked\r\nContent-Length: 5\r\n',
     b'0\r\n\r\n' + CALL)])
def test_no_frame_is_smuggled_in_the_body_of_a_handshake(wire, extra, body):
    run = wire.stats()['run']
    with connect(wire.port, tls=wire.tls) as sock:
        sock.sendall(upgrade(wire.port, extra) + body)
        data = read_until(sock)
    assert data.startswith(b'HTTP/1.1 400'), data[:200]
    assert wire.stats()['run'] == run


# -- TCP ---------------------------------------------------------------------


def test_urgent_data_is_no_part_of_the_stream(attacked):
    with attacked.peer() as peer:
        before = attacked.stats()['loop_s']
        # Of two that wait the first becomes a part of the stream.
        for _ in range(20):
            peer.sock.send(b'!', socket.MSG_OOB)
            assert peer.call('ping') == 'pong'
        with pytest.raises(TimeoutError):
            peer.recv_frame(timeout_s=0.3)
        assert attacked.stats()['loop_s'] - before < 0.1


@pytest.mark.parametrize('how', [socket.SHUT_RD, socket.SHUT_WR,
                                 socket.SHUT_RDWR])
def test_half_closed_sockets_leave_nothing(attacked, how):
    before = attacked.stats()['sockets']
    for _ in range(20):
        with attacked.peer() as peer:
            peer.send_raw(CALL * 20)
            peer.sock.shutdown(how)
            if how == socket.SHUT_WR:
                peer.recv_eof()
    wait_until(lambda: attacked.stats()['sockets'] <= before)


def test_a_reader_of_a_byte_at_a_time_holds_nobody_up(wire, measured):
    with wire.peer(receive_buffer=4096) as tiny:
        tiny.call('rpc.subscribe', ['t'])
        before = wire.stats()['rss']
        tiny.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        took_s, queued = [], 0
        for _ in range(20 if FULL else 3):
            more_s, more = json.loads(wire.page(
                '/publish?count=30&size=100000', timeout_s=20).body)
            took_s, queued = took_s + more_s, max(queued, more)
            with contextlib.suppress(OSError):
                tiny.sock.recv(1)
        grown = wire.stats()['rss'] - before
        measured('tiny reads', publish_max_ms=max(took_s) * 1000,
                 queued_kib=queued >> 10, kib=grown >> 10)
        assert grown < 12 << 20
        assert max(took_s) < in_time(0.1)


def test_connections_by_the_hundred_that_come_and_go(wire, measured):
    """In every state, ended in every way."""
    seed = random.randrange(1 << 32)
    print(f'seed {seed}')
    rng = random.Random(seed)
    before = wire.stats()
    # OpenSSL keeps what 600 connections at a time have made it take.
    count = (500 if wire.tls else 2000) if FULL else 200
    left = []
    for _ in range(count):
        asked = upgrade(wire.port) + CALL * 2
        with contextlib.suppress(OSError):
            sock = connect(wire.port, tls=wire.tls)
            left.append(sock)
            sock.sendall(asked[:rng.choice((0, 1, 50, -5, len(asked)))])
        if rng.random() < .7 and left:
            end(rng, left.pop(rng.randrange(len(left))))
    for sock in left:
        end(rng, sock)
    with wire.peer(timeout_s=30) as peer:       # behind all of them
        assert peer.call('ping') == 'pong'
    wait_until(lambda: wire.stats()['sockets'] <= before['sockets'], 15)
    measured(f'{count} connections that come and go')


def end(rng, sock):
    if rng.random() < .5:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                        struct.pack('ii', 1, 0))
    elif rng.random() < .5:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
    sock.close()


def test_slow_handshakes_are_no_business_of_open_connections(
        attacked, victim, measured):
    """They hold CherryPy's HTTP threads, of which the target has 20."""
    since = len(victim.took_s)
    asked = upgrade(attacked.port)
    with contextlib.ExitStack() as stack, attacked.peer() as peer:
        slow = [stack.enter_context(connect(attacked.port))
                for _ in range(40)]
        for at in range(20):
            for sock in slow:
                sock.send(asked[at:at + 1])
            assert peer.call('ping', timeout_s=in_time(1)) == 'pong'
        for sock in slow:
            sock.sendall(asked[20:] + CALL)
        for sock in slow:
            assert b'"result"' in read_until(sock, b'"result"')
    measured('40 slow handshakes')
    assert victim.p99_s(since) < in_time(0.5)


# -- TLS ---------------------------------------------------------------------


@pytest.mark.parametrize('record', [
    b'\x17\x03\x03\x00\x20' + os.urandom(32), b'\x15\x03\x03\x00\x02\x02\x28',
    b'\x16\x03\x03\x00\x04\x00\x00\x00\x00', b'GET / HTTP/1.1\r\n\r\n',
    b'\xff' * 64], ids=lambda record: record[:5].hex())
def test_what_is_no_tls_record_ends_the_connection(attacked, record):
    before = attacked.stats()['sockets']
    with attacked.secure.peer() as peer:
        beneath = socket.socket(fileno=os.dup(peer.sock.fileno()))
        with beneath:
            beneath.sendall(record)
            wait_until(lambda: attacked.stats()['sockets'] <= before)


def test_half_a_tls_record_keeps_nobody_busy(attacked):
    with attacked.secure.peer() as peer:
        beneath = socket.socket(fileno=os.dup(peer.sock.fileno()))
        with beneath:
            beneath.sendall(b'\x17\x03\x03\x40\x00' + bytes(100))
            before = attacked.stats()['loop_s']
            beneath.settimeout(0.3)
            with pytest.raises(TimeoutError):
                beneath.recv(1)
            assert attacked.stats()['loop_s'] - before < 0.1


# -- frames ------------------------------------------------------------------


@pytest.mark.parametrize('path', ['/deflate', '/context', '/hasty'])
def test_control_frames_between_the_bytes_of_a_compressed_text(wire, path):
    text = 'häßlich €uro 𝄞 '.encode() * 50
    codec = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = (codec.compress(text) + codec.flush(zlib.Z_SYNC_FLUSH))[:-4]
    with wire.peer(path, headers=DEFLATE) as peer:
        peer.send_raw(
            client_frame(TEXT, data[:1], rsv=4, fin=False)
            + b''.join(client_frame(PING, b'%d' % at)
                       + client_frame(CONTINUATION, data[at:at + 1],
                                      fin=False)
                       for at in range(1, len(data)))
            + client_frame(PONG) + client_frame(CONTINUATION))
        for at in range(1, len(data)):
            assert peer.recv_frame() == (PONG, b'%d' % at)
        opcode, payload = peer.recv_frame()
        assert opcode == TEXT
        if peer.rsv:
            payload = zlib.decompressobj(-15).decompress(payload)
        assert payload == text


@pytest.mark.parametrize('empty', [b'\x00', b'\x02\x00', b'\x03\x00',
                                   b'\x00\x00\x00\xff\xff\x00'],
                         ids=lambda empty: empty.hex())
@pytest.mark.parametrize('path', ['/deflate', '/context'])
def test_compressed_texts_of_nothing_are_empty_texts(wire, path, empty):
    with wire.peer(path, headers=DEFLATE) as peer:
        for _ in range(100):
            peer.send_frame(TEXT, empty, rsv=4)
            assert peer.recv_frame() == (TEXT, b'')


def test_a_close_in_the_middle_of_a_flood_is_heard(wire):
    """Frames before it are served, none after, and nobody is kept busy."""
    flood = client_frame(TEXT, b'{}') * 20_000
    with wire.peer('/api', timeout_s=10) as peer:
        peer.send_raw(flood + client_frame(CLOSE, b'\x03\xe8') + CALL)
        answers, opcode = 0, TEXT
        with contextlib.suppress(PeerClosed):
            while opcode == TEXT:
                opcode, payload = peer.recv_frame()
                answers += opcode == TEXT
        assert opcode == CLOSE and payload[:2] == b'\x03\xe8'
        assert answers == 20_000
        before = wire.stats()['loop_s']
        with pytest.raises((TimeoutError, PeerClosed)):
            peer.recv_frame(timeout_s=0.3)
        assert wire.stats()['loop_s'] - before < 0.1


def test_a_refusal_in_the_middle_of_a_flood_is_the_end_of_it(wire):
    """Its rest is read and dropped, so that the peer's end is seen."""
    before = wire.stats()
    with wire.peer('/api') as peer:
        peer.send_raw(client_frame(BINARY, b'x')
                      + client_frame(TEXT, b'{}') * 5000)
        assert peer.recv_close()[0] == 1003
    wait_until(lambda: wire.stats()['sockets'] == before['sockets'], 1.5)
    assert wire.stats()['loop_s'] - before['loop_s'] < 0.1
