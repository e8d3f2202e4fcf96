"""Arbitrary frames, and ``websockets``' Sans-I/O to judge them.

::

    rng = random.Random(seed)
    oracle = Oracle(client=False)
    for segment in pieces(rng, make_stream(rng, mask=True)):
        oracle.feed(segment)
    oracle.found, oracle.code       -> [(1, b'text'), (9, b'ping')], 1002

Where it may be wrong, :func:`excused` says why.
"""
from __future__ import annotations

import codecs
import random
import struct
from collections.abc import Iterator
from typing import Any

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Opcode
from websockets.protocol import OPEN, Protocol, Side

from cp_wsrpc.framing import FrameStream

from ..rawpeer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    client_frame,
)

__all__ = ['MAX_MESSAGE_BYTES', 'Oracle', 'PADDING', 'excused', 'feed_all',
           'make_payload', 'make_stream', 'ours', 'pieces']

MAX_MESSAGE_BYTES = 2000
#: What ends any frame that is not refused.
PADDING = bytes(MAX_MESSAGE_BYTES + 14)

STRICTER = {'the length is not in its shortest form',
            'the top bit of the length is set',
            'a control frame of more than 125 bytes'}

TEXTS = [b'', b'a', 'häßlich €uro 𝄞'.encode(), b'\xed\xa0\x80', b'\xc0\xaf',
         b'\xf4\x90\x80\x80', '𝄞'.encode()[:3], b'\x80', b'x' * 125,
         b'y' * 126, b'z' * 1999, b'z' * 2001, b'{"jsonrpc":"2.0"}']
CODES = [0, 999, *range(1000, 1017), 1100, 2999, 3000, 4999, 5000, 65535]
LENGTHS = [0, 1, 125, 126, 127, 1999, 2000, 2001, 65535, 65536, 1 << 31,
           1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


# -- what is fed ------------------------------------------------------------

def make_frame(rng: random.Random, mask: bool) -> bytes:
    """One frame: mostly right, now and then wrong in one of all ways."""
    kind = rng.random()
    if kind < .5:
        opcode = rng.choice((TEXT, BINARY, CONTINUATION, CONTINUATION))
        return client_frame(opcode, make_payload(rng),
                            fin=rng.random() < .5, mask=mask)
    if kind < .7:
        return client_frame(rng.choice((PING, PONG)),
                            rng.randbytes(rng.choice((0, 3, 125))),
                            mask=mask)
    if kind < .75:
        return client_frame(CLOSE, make_close(rng), mask=mask)
    if kind < .95:
        payload = make_payload(rng)
        length = rng.choice(LENGTHS) if rng.random() < .2 else len(payload)
        shortest = 0 if length < 126 else 2 if length < 65536 else 8
        return client_frame(
            rng.randrange(16), payload, fin=rng.random() < .7,
            mask=mask if rng.random() < .9 else not mask,
            rsv=rng.randrange(8) if rng.random() < .3 else 0,
            length=length, length_bytes=rng.choice(
                [n for n in (0, 2, 8) if n >= shortest]))
    return rng.randbytes(rng.randrange(1, 20))


def make_payload(rng: random.Random) -> bytes:
    if rng.random() < .7:
        return rng.choice(TEXTS)
    return rng.randbytes(rng.choice((1, 5, 125, 126, 1000)))


def make_close(rng: random.Random) -> bytes:
    if rng.random() < .2:
        return rng.choice((b'', b'\x03'))
    reason = rng.choice((b'', b'bye', 'ä'.encode(), b'\xff', b'r' * 123))
    return struct.pack('!H', rng.choice(CODES)) + reason


def make_stream(rng: random.Random, mask: bool) -> bytes:
    data = bytearray().join(make_frame(rng, mask)
                            for _ in range(rng.randrange(1, 7)))
    if rng.random() < .2:
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if rng.random() < .2:
        del data[rng.randrange(len(data)):]
    return bytes(data)


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """``data`` as a network may bring it."""
    count = rng.choice((0, 0, 1, 3, 10))
    if rng.random() < .02:
        cuts = list(range(1, len(data)))
    else:
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(count))
    return [data[start:stop] for start, stop in
            zip([0, *cuts], [*cuts, len(data)], strict=True)]


# -- the two readers ----------------------------------------------------------

def feed_all(stream: FrameStream, segments: list[bytes]) -> Iterator[Any]:
    for segment in segments:
        yield from stream.feed(segment)
        while stream.has_more:
            yield from stream.feed(b'')


def ours(segments: list[bytes], client: bool,
         max_message_bytes: int = MAX_MESSAGE_BYTES
         ) -> tuple[list[Any], int | None, str]:
    """(what was found, the failure's code, its reason)."""
    stream = FrameStream(client=client, max_fragments=1 << 30,
                         max_message_bytes=max_message_bytes)
    found: list[Any] = []
    for item in feed_all(stream, segments):
        if type(item) is bytes:
            found.append((TEXT, item))
        elif item.opcode == CLOSE:
            found.append((CLOSE, item.code, bytes(item.reason)))
        else:
            found.append((item.opcode, bytes(item.data)))
    failure = stream.failure
    if failure is None:
        return found, None, ''
    assert not stream.unfinished, 'nothing is held after a failure'
    return found, int(failure.code), failure.reason


class Oracle:
    """``websockets``, and its connections' way to join fragments.

    Its Sans-I/O part gives frames; texts are decoded here, frame by frame.
    """

    def __init__(self, client: bool,
                 max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._limit = max_message_bytes
        self._protocol = Protocol(
            Side.CLIENT if client else Side.SERVER, state=OPEN,
            max_size=max_message_bytes)
        self._decoder: codecs.IncrementalDecoder | None = None
        self._opcode = 0
        self._parts = b''
        self.found: list[Any] = []
        self.code: int | None = None

    @property
    def in_message(self) -> bool:
        """A message has begun and its last frame has not come."""
        return self._opcode != 0

    @property
    def near_limit(self) -> bool:
        """Less than a control frame may have is left for the message."""
        size = self._protocol.current_size
        return size is not None and size > self._limit - 125

    def feed(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if self.code is None:
                try:
                    self._take(event)
                except UnicodeDecodeError:
                    self.code = 1007
        if self.code is None:
            self.code = {
                type(None): None, ProtocolError: 1002, PayloadTooBig: 1009,
                UnicodeDecodeError: 1007,
            }[type(self._protocol.parser_exc)]

    def _take(self, event: Any) -> None:
        opcode, data = event.opcode, bytes(event.data)
        if opcode in (Opcode.PING, Opcode.PONG):
            self.found.append((int(opcode), data))
        elif opcode is Opcode.CLOSE:
            close = self._protocol.close_rcvd
            self.found.append((CLOSE, int(close.code), data[2:]))
        else:
            if opcode is not Opcode.CONT:
                self._opcode, self._parts = int(opcode), b''
                self._decoder = (codecs.getincrementaldecoder('utf-8')()
                                 if opcode is Opcode.TEXT else None)
            if self._decoder is not None:
                self._decoder.decode(data, event.fin)
                pending, _ = self._decoder.getstate()
                if b'\xed\xa0' <= pending[:2] <= b'\xed\xbf':
                    # Python waits for the rest of a surrogate.
                    pending.decode()
            self._parts += data
            if event.fin:
                self.found.append((self._opcode, self._parts))
                self._opcode = 0


def excused(found: list[Any], code: int | None, reason: str,
            oracle: Oracle) -> bool:
    """Whether they may differ there.

    * RFC 6455 5.2 wants lengths in their shortest form, and below 2^63;
      the oracle does not look.  A control frame's has one byte.
    * A header that is wrong and too long: the oracle looks at the length
      first.
    * A control frame between fragments: the oracle counts it in.
    * A Close between the fragments of a message: the oracle refuses it,
      RFC 6455 5.5.1 and 5.4 allow it.
    """
    if reason in STRICTER and oracle.found[:len(found)] == found:
        return True
    if oracle.code == 1009 and oracle.near_limit:
        return found[:len(oracle.found)] == oracle.found
    if (code, oracle.code) == (1002, 1009):
        return found == oracle.found
    return (code is None and oracle.code == 1002 and oracle.in_message
            and found[:-1] == oracle.found and found[-1][0] == CLOSE)
