"""Threats B8-B10, D11: what is no frame, and what ends a connection."""
from __future__ import annotations

import contextlib
import random
import struct

import pytest

from ..rawpeer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    client_frame,
)
from . import FULL

def ending_of(peer, timeout_s=5):
    """The code of the server's Close; frames before it are skipped."""
    return peer.recv_close(timeout_s)[0]


# -- B8 --------------------------------------------------------------------


def frame_that_begins(first, second):
    """A frame whose first two bytes these are, complete and minimal."""
    masked, length = second & 0x80, second & 0x7f
    head = bytes([first, second])
    if length == 126:
        length = 126
        head += struct.pack('!H', length)
    elif length == 127:
        length = 1 << 16
        head += struct.pack('!Q', length)
    return head + (b'\0' * 4 if masked else b'') + b'a' * length


def verdict_on(first, second):
    """None where the frame is good, else the code it must be closed with.

    RFC 6455 5.2 and 5.5, in other words than the code's.
    """
    fin, rsv, opcode = first >> 7, first >> 4 & 7, first & 15
    masked, length = second >> 7, second & 0x7f
    if rsv or not masked or opcode not in (0, 1, 2, 8, 9, 10):
        return 1002
    if opcode >= 8 and (not fin or length > 125):
        return 1002
    if opcode == 0:
        return 1002             # continues nothing
    if opcode == 8:
        # 'aa' is code 24929.
        return 1005 if length == 0 else 1002
    return None


def check_first_bytes(attacked, first, second):
    with attacked.peer('/echo') as peer:
        data = frame_that_begins(first, second)
        with contextlib.suppress(ConnectionError):
            peer.send_raw(data + client_frame(PING, b'end'))
        expected = verdict_on(first, second)
        while True:
            opcode, payload = peer.recv_frame()
            if opcode == CLOSE:
                code = int.from_bytes(payload[:2], 'big') or 1005
                assert code == expected, hex(first << 8 | second)
                return
            if (opcode, payload) == (PONG, b'end'):
                assert expected is None, hex(first << 8 | second)
                return


def test_b8_the_first_two_bytes(attacked):
    pairs = [(first, second) for first in range(256)
             for second in range(256)]
    if not FULL:
        seed = random.randrange(1 << 32)
        print(f'seed {seed}')
        chosen = random.Random(seed).sample(pairs, 300)
        pairs = chosen + [
            (first, second) for first in range(256)
            for second in (0x00, 0x80) if not first & 0x70]
    for first, second in pairs:
        check_first_bytes(attacked, first, second)


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
@pytest.mark.parametrize('path', ['/api', '/echo'])
def test_b8_frames_that_no_client_may_send(attacked, path, frame):
    with attacked.peer(path) as peer:
        peer.send_raw(frame)
        assert ending_of(peer) == 1002
        assert peer.recv_eof() == b''


# -- B9 --------------------------------------------------------------------

INVALID = [b'\xff', b'\xc0\x80', b'\xed\xa0\x80', b'\xf4\x90\x80\x80',
           b'\xe2\x82', b'ok\xfe', b'\xf8\x88\x80\x80\x80']


@pytest.mark.parametrize('path', ['/api', '/echo'])
@pytest.mark.parametrize('text', INVALID, ids=lambda text: text.hex())
def test_b9_invalid_utf_8(attacked, path, text):
    with attacked.peer(path) as peer:
        peer.send_frame(TEXT, text)
        assert ending_of(peer) == 1007
    with attacked.peer(path) as peer:
        for n in range(len(text)):
            peer.send_frame(TEXT if n == 0 else CONTINUATION,
                            text[n:n + 1], fin=n == len(text) - 1)
        assert ending_of(peer) == 1007


def test_b9_a_bad_byte_is_found_before_its_frame_ends(attacked):
    with attacked.peer('/echo') as peer:
        peer.send_frame(TEXT, b'ok\xff', length=1000, length_bytes=2)
        assert ending_of(peer) == 1007


def test_b9_split_code_points_are_good(attacked):
    text = '\N{EURO SIGN}\U0001f600'.encode()
    with attacked.peer('/echo') as peer:
        for n in range(len(text)):
            peer.send_frame(TEXT if n == 0 else CONTINUATION,
                            text[n:n + 1], fin=n == len(text) - 1)
        assert peer.recv_frame() == (TEXT, text)


def test_b9_a_close_between_fragments_is_a_close(attacked):
    with attacked.peer('/echo') as peer:
        peer.send_frame(TEXT, b'\xe2', fin=False)
        peer.send_frame(CLOSE, struct.pack('!H', 4321) + b'bye')
        assert ending_of(peer) == 4321


# -- B10 -------------------------------------------------------------------

LEGAL = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013,
         1014, 3000, 4401, 4999]
ILLEGAL = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000,
           65535]


@pytest.mark.parametrize('path', ['/api', '/echo'])
@pytest.mark.parametrize('code, answer', [
    *((code, code) for code in LEGAL), *((code, 1002) for code in ILLEGAL)])
def test_b10_codes_of_a_close(attacked, path, code, answer):
    with attacked.peer(path) as peer:
        peer.send_raw(client_frame(CLOSE, struct.pack('!H', code) + b'why')
                      + client_frame(TEXT, b'after the Close'))
        assert ending_of(peer) == answer
        assert peer.recv_eof() == b''


@pytest.mark.parametrize('body, answers', [
    (b'', {1005}), (b'\x03', {1002}),
    (struct.pack('!H', 1000) + b'\xff', {1002, 1007}),
    (struct.pack('!H', 1000) + b'x' * 124, {1002})])
def test_b10_bodies_of_a_close(attacked, body, answers):
    with attacked.peer('/echo') as peer:
        peer.send_frame(CLOSE, body)
        assert ending_of(peer) in answers
        assert peer.recv_eof() == b''
