"""Threats B3: bytes that are many more when they are inflated."""
from __future__ import annotations

import zlib

import pytest

from ..rawpeer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    client_frame,
)
from . import FULL
from .victim import ending_of, loop_s

LIMIT = 1 << 20

MIB_OF_ZEROS = zlib.compressobj(9, zlib.DEFLATED, -15)
MIB_OF_ZEROS = (MIB_OF_ZEROS.compress(bytes(LIMIT))
                + MIB_OF_ZEROS.flush(zlib.Z_FULL_FLUSH))    # 1 kB
DEFLATE = {'Sec-WebSocket-Extensions':
           'permessage-deflate; client_max_window_bits'}


@pytest.mark.parametrize('path', ['/deflate', '/deflated', '/context'])
@pytest.mark.parametrize('mib', [2, 10, 1000])
@pytest.mark.parametrize('opcode', [TEXT, BINARY])
def test_b3_a_bomb_is_not_inflated_past_the_limit(
        wire, path, mib, opcode, measured):
    payload = MIB_OF_ZEROS * mib
    before = wire.stats()['rss']

    def attack():
        with wire.peer(path, headers=DEFLATE) as peer:
            assert 'permessage-deflate' in (
                peer.headers['sec-websocket-extensions'])
            peer.send_frame(opcode, payload, rsv=4)
            assert ending_of(peer) == 1009

    used_s = loop_s(wire, attack)
    grown = wire.stats()['rss'] - before
    measured(f'B3 {len(payload)} B -> {mib} MiB', loop_s=used_s,
             kib=grown >> 10)
    assert used_s < 0.1
    assert grown <= 4 << 20


def test_b3_a_bomb_in_fragments(wire):
    with wire.peer('/deflate', headers=DEFLATE) as peer:
        cut = [MIB_OF_ZEROS[n:n + 1] for n in range(len(MIB_OF_ZEROS))]
        peer.send_raw(
            client_frame(TEXT, MIB_OF_ZEROS, rsv=4, fin=False)
            + b''.join(client_frame(CONTINUATION, piece, fin=False)
                       for piece in cut[:1000])
            + client_frame(CONTINUATION, MIB_OF_ZEROS[1000:]))
        assert ending_of(peer) == 1009


@pytest.mark.parametrize('path', ['/deflated', '/deflate'])
def test_b3_messages_that_are_a_bomb_together(attacked, path, measured):
    """Each within the limit; 10 MB that are 10 GB."""
    count = {'/deflated': 10_000, '/deflate': 1000}[path] if FULL else 100
    frame = client_frame(TEXT, MIB_OF_ZEROS, rsv=4)
    answers = 0

    def attack():
        nonlocal answers
        with attacked.peer(path, headers=DEFLATE, timeout_s=300) as peer:
            # A few at a time: who reads no answers is another attack.
            for _ in range(count // 20):
                peer.send_raw(frame * 20)
                for _ in range(20):
                    opcode, _ = peer.recv_frame()
                    assert opcode == TEXT
                    answers += 1

    used_s = loop_s(attacked, attack)
    measured(f'B3 {count} messages of 1 kB -> 1 MiB, {path}', loop_s=used_s)
    assert answers == count


@pytest.mark.parametrize('offer', [
    'permessage-deflate; client_max_window_bits=7',
    'permessage-deflate; client_max_window_bits=16',
    'permessage-deflate; server_max_window_bits=7',
    'permessage-deflate; server_max_window_bits=8',
    'permessage-deflate; server_max_window_bits=16',
    'permessage-deflate; server_max_window_bits="1' + '0' * 1000 + '"',
    'permessage-deflate; server_max_window_bits=-1',
    'x-webkit-deflate-frame', None])
def test_b3_no_window_of_another_size_and_nothing_unasked(wire, offer):
    headers = {} if offer is None else {'Sec-WebSocket-Extensions': offer}
    with wire.peer('/deflate', headers=headers) as peer:
        assert 'sec-websocket-extensions' not in peer.headers
        peer.send_frame(TEXT, MIB_OF_ZEROS, rsv=4)
        assert ending_of(peer) == 1002


@pytest.mark.parametrize('path', ['/api', '/echo'])
def test_b3_compression_where_it_is_off(wire, path):
    with wire.peer(path, headers=DEFLATE) as peer:
        assert 'sec-websocket-extensions' not in peer.headers
        peer.send_frame(TEXT, MIB_OF_ZEROS[:-4], rsv=4)
        assert ending_of(peer) == 1002


@pytest.mark.parametrize('frames', [
    client_frame(TEXT, b'\x00', rsv=4, fin=False)
    + client_frame(CONTINUATION, b'', rsv=4),
    client_frame(PING, b'\x00', rsv=4), client_frame(CLOSE, rsv=4),
    client_frame(TEXT, b'\x00', rsv=2), client_frame(TEXT, b'\x00', rsv=5),
    client_frame(TEXT, b'\xff' * 100, rsv=4),
    client_frame(TEXT, b'\x03\x00more', rsv=4),
    client_frame(TEXT, b'\x05', rsv=4)], ids=lambda frames: frames[:9].hex())
@pytest.mark.parametrize('path', ['/deflate', '/context', '/deflated'])
def test_b3_what_is_no_deflate_stream(wire, path, frames):
    with wire.peer(path, headers=DEFLATE) as peer:
        peer.send_raw(frames)
        assert ending_of(peer) == 1002
