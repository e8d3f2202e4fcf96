"""permessage-deflate (RFC 7692): negotiated, inflated, deflated.  Layer 1.

::

    agreed = negotiate(['permessage-deflate; client_max_window_bits'])
    agreed.answer       -> 'permessage-deflate; server_no_context_takeover;
                            client_no_context_takeover'
    agreed.inflater()   for FrameStream(inflater=...)
    agreed.framer       builds frames as ``frames`` does, deflated

    negotiate(['constructor, __proto__'])     -> None: no compression

Negotiation and codec are those of ``websockets``; what is added here are
our limits.  ``framing`` inflates by it; ``tool`` negotiates, ``websocket``
keeps what was agreed.

**No context of ours, ever.**  A server that keeps its deflate context from
message to message pays about 200 KiB a connection, and has to deflate a push
for each of them.  ``server_no_context_takeover`` is always in the answer, so
one :class:`Deflater` serves all connections of a window size, and a push is
deflated once for all of them.

**A context of the client's** (``keep_context``) costs about 32 KiB a
connection, once its window is full, and lets clients that send many alike
messages save some more bytes.  By default they are asked to do without it:
nothing is kept between messages.  ``python -m bench.compression`` measures.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from websockets.exceptions import (
    InvalidHandshake,
    PayloadTooBig,
    ProtocolError,
)
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension
from websockets.typing import ExtensionName

from . import frames
from .errors import CloseCode
from .frame_rules import TEXT, ProtocolFailure

__all__ = ['Agreement', 'Deflater', 'Inflater', 'MIN_BYTES', 'OFFER',
           'check_answer', 'negotiate']

#: Messages below it are sent as they are: of 114 bytes of JSON 22 could be
#: saved, for 3 us; of 190 bytes 60.
MIN_BYTES = 128
#: From here on zlib's level 1: a fifth more bytes in a quarter of the time.
#: A push of 4 MiB would hold the I/O loop for 55 ms, and does for 13.
_FAST_FROM_BYTES = 64 * 1024
#: A header beyond this is no honest offer (browsers': 50 characters).
_MAX_OFFER_CHARS = 2048

_NAME = ExtensionName('permessage-deflate')
_MAX_BITS = 15
# memLevel 5 takes 110 kB less than 8 while it deflates, and no longer.
_SETTINGS = {'level': 6, 'memLevel': 5}
_FAST_SETTINGS = {'level': 1, 'memLevel': 5}
# What a sender leaves out at a message's end, RFC 7692 7.2.1; one that ends
# its stream puts a zero before it, 7.2.3.4.
_TAIL = b'\x00\x00\xff\xff'
_AFTER_END = frozenset({_TAIL, b'\x00' + _TAIL})


class Deflater:
    """Builds the frames of one window size; any thread, no state.

    ``frames`` itself stands in its place where nothing was agreed: both
    have ``text_frame`` and ``frame``.
    """

    __slots__ = ('bits',)

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def __repr__(self) -> str:
        return f'<Deflater {self.bits}>'

    def text_frame(self, payload: bytes) -> bytes:
        """Build a whole text, as :func:`cp_wsrpc.frames.text_frame`."""
        if len(payload) < MIN_BYTES:
            return frames.text_frame(payload)
        return self.frame(TEXT, payload)

    def frame(self, opcode: int, payload: bytes, *,
              mask: bool = False) -> bytes:
        """Build a message's only frame, deflated where that is shorter."""
        body, deflated = self._shorter(payload)
        return frames.frame(opcode, body, mask=mask, rsv1=deflated)

    def frame_parts(self, opcode: int, payload: bytes
                    ) -> tuple[bytes, bytes]:
        """The same, unmasked, as :func:`cp_wsrpc.frames.frame_parts`."""
        body, deflated = self._shorter(payload)
        return frames.frame_parts(opcode, body, rsv1=deflated)

    def _shorter(self, payload: bytes) -> tuple[bytes, bool]:
        """(what to send, whether it is deflated)."""
        if len(payload) >= MIN_BYTES:
            deflated = self._deflate(payload)
            if len(deflated) < len(payload):
                return deflated, True
        return payload, False

    def _deflate(self, payload: bytes) -> bytes:
        # A codec of its own for each: it holds the compressor meanwhile.
        codec = PerMessageDeflate(
            True, True, _MAX_BITS, self.bits,
            _SETTINGS if len(payload) < _FAST_FROM_BYTES
            else _FAST_SETTINGS)
        return bytes(codec.encode(Frame(Opcode.BINARY, payload)).data)


class Inflater:
    """Inflates the messages of a peer; see ``framing.Inflater``.

    ``keep_context``
        The peer may refer to its earlier messages: then this belongs to
        one connection and its thread.  Else it is without state, and one
        serves all.
    """

    __slots__ = ('_bits', '_codec')

    def __init__(self, bits: int, keep_context: bool = False) -> None:
        self._bits = bits
        self._codec = self._make_codec() if keep_context else None

    def _make_codec(self) -> PerMessageDeflate:
        # "With takeover" leaves the decoder to be looked at afterwards.
        return PerMessageDeflate(False, True, self._bits, _MAX_BITS)

    def inflate(self, payload: bytes, limit: int) -> bytes:
        """Inflate one whole message, to at most ``limit`` (> 0) bytes."""
        if not payload:
            # What some make of an empty message, where RFC 7692 7.2.3.6
            # has a byte 0.  With the tail of a message appended it would be
            # a block that begins, and takes the next message for its rest.
            return b''
        codec = self._codec or self._make_codec()
        try:
            inflated = codec.decode(
                Frame(Opcode.BINARY, payload, rsv1=True), max_size=limit)
        except PayloadTooBig:
            raise ProtocolFailure(
                CloseCode.TOO_BIG,
                f'a message of more than {limit} bytes') from None
        except ProtocolError:
            raise _no_deflate('this is no deflate stream') from None
        decoder: Any = codec.decoder
        if decoder.eof:
            # websockets would go on as if nothing stood after the end, and
            # give empty messages from now on.
            if decoder.unused_data not in _AFTER_END:
                raise _no_deflate('a deflate stream goes on after its end')
            if self._codec is not None:
                self._codec = self._make_codec()
        return bytes(inflated.data)


def _no_deflate(reason: str) -> ProtocolFailure:
    return ProtocolFailure(CloseCode.PROTOCOL, reason)


_DEFLATERS = {bits: Deflater(bits) for bits in range(9, 16)}
_INFLATERS = {bits: Inflater(bits) for bits in range(8, 16)}


class Agreement(NamedTuple):
    """What both ends will do.

    ``answer``       the value of ``Sec-WebSocket-Extensions``
    ``framer``       a :class:`Deflater`, shared by all of its window size
    ``bits``         the window of what the peer sends, 8-15
    ``keep_context`` whether the peer keeps its context between messages
    """

    answer: str
    framer: Deflater
    bits: int
    keep_context: bool

    def inflater(self) -> Inflater:
        """What inflates for one connection."""
        if self.keep_context:
            return Inflater(self.bits, True)
        return _INFLATERS[self.bits]


# -- negotiation ----------------------------------------------------------

#: A server may take less than it was asked for (RFC 7692 7.1.2.1).  Each
#: window size has a push deflated once more, on the loop: seven peers could
#: have that seven times, 20 pushes of 60 kB held it for 284 ms.
_SMALLER = {'10': '9', '11': '9', '13': '12', '14': '12'}


def negotiate(headers: Iterable[str], *, keep_context: bool = False
              ) -> Agreement | None:
    """Take the first of a client's offers that can be taken (RFC 7692 5).

    ``headers``: the values of its ``Sec-WebSocket-Extensions``.  None, and
    the handshake goes on without compression: for no offer, garbage, other
    extensions, unknown parameters, windows of less than 8 or more than 15
    bits, and for ``server_max_window_bits=8``, which zlib cannot deflate.
    """
    factory = ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=not keep_context)
    for offered in _offers(headers):
        params = [(name, _SMALLER.get(value, value)
                   if name == 'server_max_window_bits' else value)
                  for name, value in offered]
        try:
            answer, codec = factory.process_request_params(params, [])
        except InvalidHandshake:
            continue
        return _agreement(build_extension([(_NAME, answer)]), codec)
    return None


#: A client's offer; the server may choose the window of what we send.
_client_factory = ClientPerMessageDeflateFactory(
    server_no_context_takeover=True, client_no_context_takeover=True,
    client_max_window_bits=True)
OFFER = build_extension([(_NAME, list(_client_factory.get_request_params()))])


def check_answer(headers: Iterable[str]) -> Agreement | None:
    """Read what a server answered to :data:`OFFER`.

    None: it wants no compression.  Raises ValueError for anything that was
    not offered (RFC 6455 9.1): the connection must not go on.
    """
    answer = ', '.join(headers)
    if not answer:
        return None
    try:
        (name, params), = parse_extension(answer)
        if name != _NAME:
            raise ValueError(name)
        return _agreement(
            answer, _client_factory.process_response_params(params, []))
    except (ValueError, InvalidHandshake) as error:
        raise ValueError(
            f'an extension that was not offered: {error}') from None


def _offers(headers: Iterable[str]) -> list[Any]:
    """The parameters of each offer of this extension."""
    header = ', '.join(headers)
    if not header or len(header) > _MAX_OFFER_CHARS:
        return []
    try:
        return [params for name, params in parse_extension(header)
                if name == _NAME]
    except InvalidHandshake:
        return []


def _agreement(answer: str, codec: PerMessageDeflate) -> Agreement:
    return Agreement(answer, _DEFLATERS[codec.local_max_window_bits],
                     codec.remote_max_window_bits,
                     not codec.remote_no_context_takeover)
