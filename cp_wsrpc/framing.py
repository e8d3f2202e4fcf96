"""Bytes -> WebSocket messages, for either end of the wire.  Layer 1, pure.

::

    stream = FrameStream()                       # the server's end
    stream.feed(b'\\x81\\x82mask\\x0c\\n')           -> [b'ak']
    stream.feed(b'\\x89\\x80mask')                 -> [PingControlMessage]
    stream.feed(b'\\x81\\x02hi')                   -> []
    stream.failure   -> ProtocolFailure(1002, 'a client masks its frames')

Above it stand ``frame_rules``, ``frames``, which builds them, and
``unfinished``, where payloads wait for their rest; ``receiving`` and
``client_socket`` feed it with what they read.  Its one class is long, as
all of its methods are about the same few states.

**The two ways through** :meth:`FrameStream.feed`.  What a program sends all
day - a whole text of less than 126 bytes - is cut out of the buffer by
``_cut_masked`` (``_cut_unmasked`` at a client), with slices and no object
per frame.  Everything else, down to the first half of such a frame, goes
through the states:

=============  =================  ==========================================
``_frame``     ``_message``       what the next byte is
=============  =================  ==========================================
None           None               of a header, of any frame but continuation
None           a message          of a header, of a continuation or control
a frame        None               of the payload of a control frame
a frame        a message          of the payload of either
=============  =================  ==========================================

A part of a header waits in ``_rest``.  Each rule is checked as soon as the
byte that breaks it is there, in the order of the bytes: so the verdict does
not depend on where the network cut the stream.
"""
from __future__ import annotations

from struct import Struct
from typing import Any, Protocol

from ws4py.streaming import Stream

from .errors import CloseCode
from .frame_rules import (
    COMPRESSED,
    CONTROL,
    FIN,
    MASKED,
    OPCODE,
    PING,
    PLAIN,
    PONG,
    RSV1,
    TEXT,
    ProtocolFailure,
    is_legal_close_code,
    protocol_error,
    why_not,
)
from .frames import Binary, Close, Ping, Pong, Text, apply_mask
from .unfinished import UnfinishedFrame, UnfinishedMessage, unmask

__all__ = ['FrameStream', 'Inflater']

_UINT16, _UINT64 = Struct('!H'), Struct('!Q')

#: What one feed takes before it leaves the rest for the next, so that other
#: peers have their turn.  A read of 256 KiB can be 37 000 messages of one
#: byte, of which each wants an error of 10 us; or 1 250 batches of 100 errors;
#: or 250 MiB of deflated zeros.  Give or take a frame; and what is short of
#: ``_MIN_FRAMES`` is taken whole, however large, but where ``take_less`` says
#: that such frames are dear.
_MAX_FRAMES, _MIN_FRAMES = 256, 16
_MAX_BYTES = 8 * 1024
_MAX_INFLATED_BYTES = 1 << 20
#: Small texts are cut out of so much before somebody counts, bytes.
_UNCOUNTED_BYTES = 2048


class Inflater(Protocol):
    """What undoes the peer's compression (RFC 7692)."""

    def inflate(self, payload: bytes, limit: int) -> bytes:
        """Inflate one whole message, to at most ``limit`` bytes.

        Raises :class:`ProtocolFailure`: 1009 past the limit, of which
        nothing may be held in memory, 1002 for what is no deflate stream.
        """


class FrameStream(Stream):      # type: ignore[misc]
    """What one peer has sent so far, and what it means.

    Used by one thread at a time (the loop's); it never blocks, and holds no
    more than one message of ``max_message_bytes``.  Idle it takes about 200
    bytes, as ws4py's constructor is not run and what it sets stands in the
    class.

    ``client``
        Which end this is: a server's peer must mask, a client's must not
        (RFC 6455 5.1).  ws4py's ``always_mask`` and ``expect_masking`` say
        the same and may be set as ws4py's client does.
    ``max_message_bytes``
        Over all fragments, and after inflating.  Default 1 MiB; past it
        1009, before any of the frame's payload is held.  Deflated bytes
        may be a seventh more: what cannot be compressed grows by it.
    ``max_fragments``
        Frames of one message.  Default 1 024; past it 1008.
    ``inflater``
        Lets compressed messages in; None, the default: 1002.

    ``failure``: None, or the :class:`ProtocolFailure` that ended it; send
    its Close.  ``closing``: None, or the peer's Close.  After either
    nothing more is parsed.  ``has_more``: this has taken long enough; let
    others have their turn, then ``feed(b'')``, before anything is read.
    """

    __slots__ = ('_at_once', '_cut_below', '_ended', '_frame', '_inflated',
                 '_last_frames', '_message', '_rest', 'always_mask',
                 'expect_masking', 'failure', 'has_more', 'inflater',
                 'max_fragments', 'max_message_bytes', 'unfinished')

    # What ws4py's constructor would set, for its WebSocket to look at.
    message = None
    closing: Any = None
    pings: tuple[Any, ...] = ()
    pongs: tuple[Any, ...] = ()
    errors: tuple[Any, ...] = ()
    _parser = None

    def __init__(self, *, client: bool = False,
                 max_message_bytes: int = 1048576,
                 max_fragments: int = 1024,
                 inflater: Inflater | None = None) -> None:
        self.always_mask = client
        self.expect_masking = not client
        self.max_message_bytes = max_message_bytes
        self.max_fragments = max_fragments
        self.inflater = inflater
        self.failure: ProtocolFailure | None = None
        self.has_more = False
        #: a message or a frame has begun and is not complete
        self.unfinished = False
        self._inflated = 0      # bytes, since feed() returned
        self._at_once = _MAX_FRAMES
        #: of the last feed that was counted, which few frames are not
        self._last_frames = _MIN_FRAMES
        self._cut_below = min(126, max_message_bytes + 1)
        self._ended = False
        self._rest = b''
        self._frame: UnfinishedFrame | None = None
        self._message: UnfinishedMessage | None = None

    def feed(self, data: bytes | memoryview) -> list[Any]:
        """Take what was read; return what it completed, in order.

        A memoryview is done with at the return: read into it anew.  The
        payload of a large frame is taken out of it without another copy.

        A text is plain ``bytes``, proven UTF-8; the rest are ws4py's
        ``BinaryMessage`` (``.data``), ``PingControlMessage``,
        ``PongControlMessage`` and ``CloseControlMessage`` (``.code``, 1005
        if it was empty, and ``.reason`` as bytes).  Never raises for what
        a peer sends: look at ``failure`` after each feed.
        """
        found: list[Any] = []
        if self._ended:
            return found
        if type(data) is memoryview and self._frame is None:
            data = data.tobytes()
        if self._rest:      # at most 13 bytes, or has_more
            data = self._rest + data
            self._rest = b''
            if self.has_more:
                self.has_more = False
                self._at_once = min(_MAX_FRAMES, 2 * self._at_once)
        pos, end, frames = 0, len(data), 0
        try:
            while pos < end:
                if self._frame is not None:
                    pos = self._continue_frame(data, pos, end, found)
                    continue
                if type(data) is memoryview:    # a frame that went on in it
                    data = data.tobytes()
                if self._message is None:
                    if self.expect_masking:
                        pos = self._cut_masked(data, pos, end, found)
                    else:
                        pos = self._cut_unmasked(data, pos, end, found)
                    if pos == end:
                        break
                pos = self._begin_frame(data, pos, end, found)
                frames += 1
                if (self._inflated or frames + len(found) >= _MIN_FRAMES
                        or self._at_once < _MIN_FRAMES):
                    pos = self._maybe_pause(data, pos, end,
                                            frames + len(found))
        except ProtocolFailure as failure:
            self._end(failure.code, failure.reason)
        except UnicodeDecodeError:
            self._end(CloseCode.INVALID_DATA, 'invalid UTF-8')
        self.unfinished = (self._message is not None
                           or self._frame is not None or self._rest != b'')
        return found

    def _maybe_pause(self, data: bytes, pos: int, end: int,
                     frames: int) -> int:
        """Leave the rest for later, if this was enough for now."""
        self._last_frames = frames
        if pos == end:
            self._inflated = 0
        elif (frames >= self._at_once or self._inflated >= _MAX_INFLATED_BYTES
                or (pos >= _MAX_BYTES and frames >= _MIN_FRAMES)):
            self._inflated = 0
            self._rest = data[pos:]
            self.has_more = True
            return end
        return pos

    def _cut_masked(self, data: bytes, pos: int, end: int,
                    found: list[Any]) -> int:
        """Cut some whole small texts; return where to read on."""
        small = MASKED + self._cut_below
        last = end - 6          # min() would cost a read 60 ns
        if last > pos + _UNCOUNTED_BYTES:
            last = pos + _UNCOUNTED_BYTES
        while pos <= last and data[pos] == 0x81:
            second = data[pos + 1]
            start = pos + 6
            stop = start + second - MASKED
            if not MASKED <= second < small or stop > end:
                break
            payload = apply_mask(data[start:stop], data[pos + 2:start])
            if not payload.isascii():
                payload.decode()
            found.append(payload)
            pos = stop
        return pos

    def _cut_unmasked(self, data: bytes, pos: int, end: int,
                      found: list[Any]) -> int:
        """The same at a client's end."""
        small = self._cut_below
        last = end - 2
        if last > pos + _UNCOUNTED_BYTES:
            last = pos + _UNCOUNTED_BYTES
        while pos <= last and data[pos] == 0x81:
            start = pos + 2
            length = data[pos + 1]
            stop = start + length
            if length >= small or stop > end:
                break
            payload = data[start:stop]
            if not payload.isascii():
                payload.decode()
            found.append(payload)
            pos = stop
        return pos

    def _begin_frame(self, data: bytes, pos: int, end: int,
                     found: list[Any]) -> int:
        """Read a frame, as far as it is there; return where to read on."""
        header = self._read_header(data, pos, end)
        if header is None:
            self._rest = data[pos:]
            return end
        first, length, key, start = header
        stop = start + length
        if first & CONTROL:
            if stop <= end:
                self._take_control(
                    first, unmask(data, start, stop, key), found)
                return end if self._ended else stop
        elif stop <= end and first & FIN and self._message is None:
            self._take_message(
                first, unmask(data, start, stop, key), True, found)
            return stop
        else:
            self._begin_fragment(first, length)
        self._frame = UnfinishedFrame(first, length, key)
        return self._continue_frame(data, start, end, found)

    def _read_header(self, data: bytes, pos: int, end: int
                     ) -> tuple[int, int, bytes, int] | None:
        """Return first byte, length, key, where the payload begins.

        None when more bytes are needed (RFC 6455 5.2).
        """
        first = data[pos]
        self._check_first(first)
        start = pos + 2
        if start > end:
            return None
        masked, length = data[pos + 1] & MASKED, data[pos + 1] & 0x7f
        self._check_second(first, masked, length)
        if length == 126:
            start += 2
            if start > end:
                return None
            length = data[pos + 2] << 8 | data[pos + 3]
            if length < 126:
                raise protocol_error('the length is not in its shortest form')
        elif length == 127:
            start += 8
            if start > end:
                return None
            length, = _UINT64.unpack_from(data, pos + 2)
            if length < 0x10000:
                raise protocol_error('the length is not in its shortest form')
            if length >> 63:
                raise protocol_error('the top bit of the length is set')
        if not first & CONTROL:
            self._check_size(first, length)
        if not masked:
            return first, length, b'', start
        if start + 4 > end:
            return None
        return first, length, data[start:start + 4], start + 4

    def _continue_frame(self, data: bytes | memoryview, pos: int, end: int,
                        found: list[Any]) -> int:
        """Read on in a payload; return where to read on."""
        begun = self._frame
        assert begun is not None
        stop = min(end, pos + begun.left)
        chunk = begun.take(data, pos, stop)
        whole = not begun.left
        if whole:
            self._frame = None
        if not begun.first & CONTROL:
            self._continue_message(begun.first, chunk, whole, found)
        else:
            begun.control += chunk
            if whole:
                self._take_control(begun.first, bytes(begun.control), found)
        return end if self._ended else stop

    # What may come next.  Each is asked again when the header comes in
    # parts, so none changes anything.

    def _check_first(self, first: int) -> None:
        if first not in PLAIN and (self.inflater is None
                                    or first not in COMPRESSED):
            raise protocol_error(why_not(first))
        if first & CONTROL:
            return
        message = self._message
        if first & OPCODE:
            if message is not None:
                raise protocol_error(
                    'a new message inside of a fragmented one')
        elif message is None:
            raise protocol_error('a continuation of nothing')
        elif message.fragments >= self.max_fragments:
            raise ProtocolFailure(
                CloseCode.POLICY,
                f'a message of more than {self.max_fragments} fragments')

    def _check_second(self, first: int, masked: int, length: int) -> None:
        if self.expect_masking:
            if not masked:
                raise protocol_error('a client masks its frames')
        elif masked:
            raise protocol_error('a server does not mask its frames')
        if first & CONTROL and length > 125:
            raise protocol_error('a control frame of more than 125 bytes')

    def _check_size(self, first: int, length: int) -> None:
        limit = self.max_message_bytes
        if self._message is not None:
            length += self._message.announced
            first = self._message.first
        # zlib's deflateBound, for any window, memory and strategy: Huffman
        # codes of 9 bits for a byte, and what begins and ends blocks.
        if first & RSV1:
            limit += limit // 7 + 64
        if length > limit:
            raise ProtocolFailure(
                CloseCode.TOO_BIG,
                f'a message of more than {self.max_message_bytes} bytes')

    # What has come.

    def _begin_fragment(self, first: int, length: int) -> None:
        """Count a data frame in; its payload may come in parts."""
        message = self._message
        if message is None:
            message = self._message = UnfinishedMessage(first)
        message.fragments += 1
        message.announced += length

    def _continue_message(self, first: int, chunk: bytes, whole: bool,
                          found: list[Any]) -> None:
        """Add to the message; ``whole``: the frame ends with ``chunk``."""
        message = self._message
        assert message is not None
        last = whole and first & FIN != 0
        message.add(chunk, last)
        if last:
            self._message = None
            self._take_message(message.first, message.buffer.getvalue(),
                               False, found)

    def _take_message(self, first: int, payload: bytes, unchecked: bool,
                      found: list[Any]) -> None:
        """Hand over a whole message; ``first`` is that of its first frame."""
        if first & RSV1:
            assert self.inflater is not None
            payload = self.inflater.inflate(payload, self.max_message_bytes)
            self._inflated += len(payload)
            unchecked = True
        if first & OPCODE == TEXT:
            if unchecked and not payload.isascii():
                payload.decode()
            found.append(payload)
        else:
            message = Binary(payload)
            message.completed = True
            found.append(message)

    def _take_control(self, first: int, payload: bytes,
                      found: list[Any]) -> None:
        """Hand over a control frame; a Close ends the parsing."""
        opcode = first & OPCODE
        if opcode == PING:
            found.append(Ping(payload))
        elif opcode == PONG:
            found.append(Pong(payload))
        else:
            self.closing = _read_close(payload)
            found.append(self.closing)
            self._release()     # what follows is thrown away: RFC 6455 1.4

    def _end(self, code: int, reason: str) -> None:
        # Made anew: one that was raised holds its traceback, that holds
        # this stream, and only a cyclic collection would free the two.
        self.failure = ProtocolFailure(code, reason)
        self._release()

    def _release(self) -> None:
        self._ended = True
        self.has_more = self.unfinished = False
        self._rest = b''
        self._frame = self._message = None

    def take_less(self) -> None:
        """What the last feed brought took long: bring a quarter of it.

        And then twice as much again with each rest that did not.  Batches
        of 100 errors cost 1.5 ms each: of 40 at a time from each of 8 peers
        others felt 179 ms (p99).  A feed that left no rest counts as well:
        39 of them, sent whenever the last are answered, never leave one.
        """
        # The next feed takes twice as many where there is a rest.
        part = 8 if self.has_more else 4
        self._at_once = max(1, min(self._at_once, self._last_frames) // part)

    def stop(self) -> None:
        """Nothing is to be read any more; free what is held."""
        self._release()

    # ws4py's Stream.

    def _cleanup(self) -> None:
        """Free what is held; feeds give nothing from now on."""
        self._release()
        self.closing = None

    def receiver(self) -> Any:
        """Not here: ws4py's parser loses the second of two frames."""
        raise NotImplementedError('give the bytes to FrameStream.feed()')

    def text_message(self, text: str | bytes) -> Any:
        """Return a text with ``.single(mask)`` and ``.fragment()``."""
        return Text(text)

    def binary_message(self, bytes: bytes) -> Any:
        """The same for bytes."""
        return Binary(bytes)

    def close(self, code: int = 1000, reason: str | bytes = '') -> Any:
        """Return a Close; what becomes of both: :func:`close_frame`."""
        return Close(code, reason)

    def ping(self, data: str | bytes = b'') -> bytes:
        """Return a ping's frame, masked where ``always_mask`` says so."""
        return Ping(data).single(mask=self.always_mask)

    def pong(self, data: str | bytes = b'') -> bytes:
        """Return a pong's frame."""
        return Pong(data).single(mask=self.always_mask)


def _read_close(payload: bytes) -> Close:
    """Read a Close's body (RFC 6455 5.5.1, 7.1.5)."""
    if not payload:
        return Close(CloseCode.NO_STATUS, b'')
    if len(payload) == 1:
        raise protocol_error('a Close with half a code')
    payload[2:].decode()
    code = _UINT16.unpack_from(payload)[0]
    if not is_legal_close_code(code):
        raise protocol_error(f'the close code {code} is not allowed')
    return Close(code, payload[2:])
