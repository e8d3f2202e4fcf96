"""Arbitrary frames: ``framing`` against ``websockets``' Sans-I/O.

Both read the same bytes, cut differently, at either end of the wire.  They
must find the same messages and refuse at the same frame with the same code.
"""
from __future__ import annotations

import random
import time
import zlib

import pytest
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from cp_wsrpc.compression import Inflater
from cp_wsrpc.frame_rules import BINARY, CONTINUATION
from cp_wsrpc.framing import FrameStream

from ..rawpeer import client_frame
from .oracle import (
    MAX_MESSAGE_BYTES,
    PADDING,
    Oracle,
    excused,
    feed_all,
    make_payload,
    make_stream,
    ours,
    pieces,
)
from .seeds import cases, told

#: No feed of one case may take longer, in seconds of CPU.
MAX_CASE_S = 0.1


def check_case(rng: random.Random) -> None:
    client = rng.random() < .3
    data = make_stream(rng, mask=not client)
    began = time.thread_time()
    found, code, reason = ours(pieces(rng, data), client)
    assert time.thread_time() - began < MAX_CASE_S, 'a hang'
    oracle = Oracle(client)
    for segment in pieces(rng, data):
        oracle.feed(segment)
    if code is not None and oracle.code is None:
        # We refuse by the header, or by the first bytes of the payload.
        oracle.feed(PADDING)
    if (found, code) != (oracle.found, oracle.code):
        assert excused(found, code, reason, oracle), '\n'.join((
            f'{data[:500]!r}', f'ours:   {code} {reason} {found!r:.500}',
            f'oracle: {oracle.code} {oracle.found!r:.500}'))


@pytest.mark.timeout(1800)
def test_arbitrary_frames_are_read_as_the_oracle_reads_them() -> None:
    for seed in cases(5000):
        with told(seed):
            check_case(random.Random(seed))


@pytest.mark.full          # tests/test_framing.py has it, too
def test_all_first_two_bytes() -> None:
    for first in range(256):
        for second in range(256):
            header = bytes((first, second))
            for client in (False, True):
                found, code, reason = ours([header], client)
                oracle = Oracle(client)
                oracle.feed(header)
                if code is not None and oracle.code is None:
                    oracle.feed(PADDING)
                if (found, code) != (oracle.found, oracle.code):
                    assert excused(found, code, reason, oracle), header


# -- compressed messages ----------------------------------------------------

def make_deflated(rng: random.Random) -> bytes:
    """A message's deflated payload, with any settings, maybe damaged."""
    payload = b''.join(make_payload(rng) for _ in range(rng.randrange(4)))
    if rng.random() < .1:
        payload = bytes(rng.choice((1999, 2000, 2001, 10000)))
    codec = zlib.compressobj(
        rng.randrange(10), wbits=-rng.randrange(9, 16),
        memLevel=rng.randrange(1, 10), strategy=rng.randrange(5))
    data = bytearray()
    for _ in range(rng.choice((1, 1, 1, 3))):
        data += codec.compress(payload)
        data += codec.flush(rng.choice((zlib.Z_SYNC_FLUSH,
                                        zlib.Z_FULL_FLUSH)))
    del data[-4:]
    if rng.random() < .1:
        data += codec.flush() + b'\x00'
    if data and rng.random() < .4:
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def check_deflated(rng: random.Random) -> None:
    data = make_deflated(rng)
    cuts = pieces(rng, data)
    frames = [client_frame(CONTINUATION if at else BINARY, piece,
                           fin=at == len(cuts) - 1, rsv=0 if at else 4)
              for at, piece in enumerate(cuts)]
    stream = FrameStream(inflater=Inflater(15), max_fragments=1 << 30,
                         max_message_bytes=MAX_MESSAGE_BYTES)
    began = time.thread_time()
    found = [bytes(item.data) for item in feed_all(
        stream, pieces(rng, b''.join(frames)))]
    assert time.thread_time() - began < MAX_CASE_S, 'a hang'
    failure = stream.failure
    assert (failure is None) == (len(found) == 1)
    expected = inflate_by_oracle(data)
    if failure is not None and failure.reason.endswith('after its end'):
        return      # the oracle drops what follows
    if len(data) > MAX_MESSAGE_BYTES + MAX_MESSAGE_BYTES // 7 + 64:
        expected.append(1009)       # refused by its header
    got = found[0] if failure is None else int(failure.code)
    assert got in expected, (data[:500], got, expected)


def inflate_by_oracle(data: bytes) -> list[bytes | int]:
    """What may come of it: the message, or the codes of a refusal."""
    codec = PerMessageDeflate(True, True, 15, 15)
    try:
        inflated = bytes(codec.decode(
            Frame(Opcode.BINARY, data, rsv1=True), max_size=1 << 24).data)
    except PayloadTooBig:
        # Its end was taken for bytes of a block that has not ended.
        return [1009]
    except ProtocolError:
        try:
            head = zlib.decompressobj(-15).decompress(
                data + b'\0\0\xff\xff', MAX_MESSAGE_BYTES)
        except zlib.error:
            return [1002]
        # What came before the fault may have been too much already.
        return [1002, 1009] if len(head) == MAX_MESSAGE_BYTES else [1002]
    return [inflated if len(inflated) <= MAX_MESSAGE_BYTES else 1009]


@pytest.mark.timeout(1800)
def test_arbitrary_deflated_messages_are_read_as_the_oracle_reads_them(
        ) -> None:
    for seed in cases(3000):
        with told(seed):
            check_deflated(random.Random(seed))
