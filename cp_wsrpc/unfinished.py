"""Payloads that come in parts, until all is there.  Layer 1, pure.

::

    frame = UnfinishedFrame(0x81, 5, b'mask')
    frame.take(b'..', 0, 2)     -> two bytes, unmasked; frame.left == 3
    message = UnfinishedMessage(0x01)
    message.add(b'he', False); message.add(b'llo', True)
    message.buffer.getvalue()   -> b'hello'

``framing`` has at most one of each, and says what they are given.
"""
from __future__ import annotations

import io

from .frame_rules import OPCODE, RSV1, TEXT
from .frames import apply_mask
from .utf8 import check_piece

__all__ = ['UnfinishedFrame', 'UnfinishedMessage', 'unmask']

#: A payload of which this much has come gets room for all of it, up to
#: _ROOM_BYTES (beyond: four times what has come).  Grown bit by bit it is
#: copied, and the kernel gives and takes its pages, each time: 1 MiB echoed
#: 2 250 times a second rather than 1 900.  Less would be a gift to those
#: who announce much and send nothing (threats B1).
_ROOM_FROM_BYTES, _ROOM_BYTES = 64 * 1024, 1 << 20

#: A slice of less than this is copied rather than viewed: making the
#: memoryview costs as much as copying some kB.
_VIEW_FROM_BYTES = 2048


class UnfinishedFrame:
    """A frame whose header is there and whose payload is not all there."""

    __slots__ = ('control', 'first', 'key', 'left')

    def __init__(self, first: int, length: int, key: bytes) -> None:
        self.first = first
        self.left = length      # bytes
        self.key = key          # turned to where the payload goes on
        self.control = bytearray()      # data go to the message instead

    def take(self, data: bytes | memoryview, start: int, stop: int
             ) -> bytes:
        """Return the payload that stands there, unmasked."""
        chunk = unmask(data, start, stop, self.key)
        self.left -= stop - start
        turn = (stop - start) & 3
        self.key = self.key[turn:] + self.key[:turn]
        return chunk


class UnfinishedMessage:
    """A message of which more is to come.

    The buffer is a BytesIO: it grows by an eighth, so that 4 MB in segments
    of 1 byte are linear and cost no object each, and gives its bytes away
    without another copy.
    """

    __slots__ = ('announced', 'begun', 'buffer', 'checked', 'first',
                 'fragments', 'room')

    def __init__(self, first: int) -> None:
        self.first = first
        self.announced = 0      # bytes, by the headers so far
        self.fragments = 0
        self.buffer = io.BytesIO()
        self.room = _ROOM_FROM_BYTES    # bytes, that the buffer may have
        self.checked = first & (RSV1 | OPCODE) == TEXT
        self.begun = b''        # a code point that a chunk cut, see utf8

    def add(self, chunk: bytes, last: bool) -> None:
        """Append; UnicodeDecodeError as soon as it can be no more UTF-8."""
        if self.checked:
            self.begun = check_piece(self.begun, chunk, last)
        buffer = self.buffer
        size = buffer.tell() + len(chunk)
        if self.room < size < self.announced:
            self._make_room(size)
        buffer.write(chunk)

    def _make_room(self, size: int) -> None:
        self.room = min(self.announced, max(_ROOM_BYTES, 4 * size))
        position = self.buffer.tell()
        self.buffer.seek(self.room - 1)
        self.buffer.write(b'\0')
        self.buffer.seek(position)


def unmask(data: bytes | memoryview, start: int, stop: int, key: bytes
           ) -> bytes:
    """Copy ``data[start:stop]``, once, unmasked; no ``key``: it was not."""
    if not key:
        return bytes(data[start:stop])
    if stop - start < _VIEW_FROM_BYTES:
        return apply_mask(data[start:stop], key)
    return apply_mask(memoryview(data)[start:stop], key)
