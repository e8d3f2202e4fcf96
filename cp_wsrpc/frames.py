"""WebSocket frames, built.  Layer 1, pure.

::

    text_frame(b'hi')       -> b'\\x81\\x02hi'
    close_frame(1001, 'bye') -> b'\\x88\\x05\\x03\\xe9bye'

The other half, reading them, is ``framing``.  The module itself is a
:class:`Framer`.
"""
from __future__ import annotations

import os
from collections import deque
from struct import Struct
from typing import Protocol

from ws4py.messaging import (
    BinaryMessage,
    CloseControlMessage,
    PingControlMessage,
    PongControlMessage,
    TextMessage,
)

from .errors import CloseCode
from .frame_rules import (
    CLOSE,
    CONTINUATION,
    CONTROL,
    FIN,
    MASKED,
    PING,
    PONG,
    RSV1,
    TEXT,
    check_close_code,
)

try:
    from websockets.speedups import apply_mask
except ImportError:     # its wheel was built without a C compiler
    from websockets.utils import apply_mask

__all__ = [
    'Binary', 'Close', 'Framer', 'Ping', 'Pong', 'Text', 'apply_mask',
    'close_frame', 'frame', 'frame_parts', 'ping_frame', 'pong_frame',
    'text_frame',
]

_UINT16, _UINT64 = Struct('!H'), Struct('!Q')
# Keys to come; any thread takes one.
_keys: deque[bytes] = deque()
if hasattr(os, 'register_at_fork'):     # else both would mask alike
    os.register_at_fork(after_in_child=_keys.clear)
_TEXT_HEADERS = [bytes((FIN | TEXT, n)) for n in range(126)]


class Framer(Protocol):
    """What builds a connection's data frames.

    This module, or a ``compression.Deflater`` where compression was agreed
    upon.
    """

    def text_frame(self, payload: bytes, /) -> bytes:
        """Build a whole text, unmasked."""

    def frame(self, opcode: int, payload: bytes, /, *,
              mask: bool = False) -> bytes:
        """Build a whole message."""

    def frame_parts(self, opcode: int, payload: bytes, /
                    ) -> tuple[bytes, bytes]:
        """The same, unmasked, as a header and what follows it."""


def text_frame(payload: bytes) -> bytes:
    """Build a whole text, unmasked, as a server sends it.

    ``payload`` must be UTF-8; that is the caller's word, not checked here.
    """
    length = len(payload)
    if length < 126:
        return _TEXT_HEADERS[length] + payload
    return _header(FIN | TEXT, length, 0) + payload


def frame(opcode: int, payload: bytes, *, mask: bool = False,
          fin: bool = True, rsv1: bool = False) -> bytes:
    """Build any frame; ``mask`` as a client must, ``rsv1``: compressed.

    Raises ValueError, the caller's fault, for what RFC 6455 5.5 forbids: a
    control frame in fragments or of more than 125 bytes.
    """
    length = len(payload)
    if opcode & CONTROL and (length > 125 or not fin or rsv1):
        raise ValueError('a control frame is one frame of at most 125 '
                         f'bytes, not compressed; this one has {length}')
    first = opcode | (FIN if fin else 0) | (RSV1 if rsv1 else 0)
    if not mask:
        return _header(first, length, 0) + payload
    key = _draw_key()
    return b''.join((_header(first, length, MASKED), key,
                     apply_mask(payload, key)))


def frame_parts(opcode: int, payload: bytes, *, rsv1: bool = False
                ) -> tuple[bytes, bytes]:
    """(header, payload) of a data frame, unmasked; for ``sendmsg``.

    What is large is better not joined: see ``OutQueue.send_now``.
    """
    first = FIN | opcode | (RSV1 if rsv1 else 0)
    return _header(first, len(payload), 0), payload


def close_frame(code: int, reason: str | bytes = '',
                mask: bool = False) -> bytes:
    """Build a Close that is legal whatever the reason is.

    The reason is cut at 123 bytes on a code point, and what is not UTF-8 in
    it becomes ``?``; the codes 1005, 1006 and 1015, which say that there
    was no code, give an empty body.  Raises ValueError, the caller's fault,
    for other codes that may not stand on the wire (RFC 6455 7.4).
    """
    return frame(CLOSE, _close_body(code, _close_reason(reason)), mask=mask)


def ping_frame(payload: bytes = b'', mask: bool = False) -> bytes:
    """Build a ping; ValueError for more than 125 bytes of payload."""
    return frame(PING, payload, mask=mask)


def pong_frame(payload: bytes = b'', mask: bool = False) -> bytes:
    """Build the answer to a ping, with the ping's own payload."""
    return frame(PONG, payload, mask=mask)


def _draw_key() -> bytes:
    """Four bytes that no page can foretell (RFC 6455 10.3).

    Of the system's, 256 at a time: one by one they are 2 us of a client's
    call, in which another thread may take the interpreter.
    """
    try:
        return _keys.popleft()
    except IndexError:
        drawn = os.urandom(256 * 4)
        _keys.extend(drawn[n:n + 4] for n in range(4, len(drawn), 4))
        return drawn[:4]


def _header(first: int, length: int, masked: int) -> bytes:
    """Return the header without its key, the length in its shortest form."""
    if length < 126:
        return bytes((first, masked | length))
    if length < 0x10000:
        return bytes((first, masked | 126)) + _UINT16.pack(length)
    return bytes((first, masked | 127)) + _UINT64.pack(length)


def _close_reason(reason: str | bytes) -> bytes:
    if isinstance(reason, bytes):
        reason = reason.decode('utf-8', 'replace')
    # All is valid before the cut, so only the cut code point is ignored.
    return (reason.encode('utf-8', 'replace')[:123]
            .decode('utf-8', 'ignore').encode())


def _close_body(code: int, reason: bytes) -> bytes:
    if code in (CloseCode.NO_STATUS, CloseCode.ABNORMAL, 1015):
        return b''
    check_close_code(code)
    return _UINT16.pack(code) + reason


# -- ws4py's messages, built by the functions above -------------------------

class _Framed:
    """Builds a ws4py message's frames; ws4py masks byte by byte."""

    opcode: int
    data: bytes

    def single(self, mask: bool = False) -> bytes:
        return frame(self.opcode, self.data, mask=mask)

    def fragment(self, first: bool = False, last: bool = False,
                 mask: bool = False) -> bytes:
        return frame(self.opcode if first else CONTINUATION, self.data,
                     mask=mask, fin=last)


class Text(_Framed, TextMessage):      # type: ignore[misc]
    pass


class Binary(_Framed, BinaryMessage):      # type: ignore[misc]
    pass


class Ping(_Framed, PingControlMessage):       # type: ignore[misc]
    pass


class Pong(_Framed, PongControlMessage):       # type: ignore[misc]
    pass


class Close(_Framed, CloseControlMessage):     # type: ignore[misc]
    """A Close whose ``code`` is also right where the body is empty."""

    def __init__(self, code: int, reason: str | bytes) -> None:
        reason = _close_reason(reason)
        body = _close_body(code, reason)
        super().__init__(code, reason)
        self.data = body
