"""What a frame may be: RFC 6455's numbers and rules.  Layer 1, pure.

::

    why_not(0x83)             -> 'the opcode 3 is reserved'
    is_legal_close_code(1005) -> False
    protocol_error('a client masks its frames')
                              -> ProtocolFailure(1002, 'a client masks ...')

``frames`` keeps to them, ``framing`` has the peer keep to them.
"""
from __future__ import annotations

from .errors import CloseCode, WsrpcError

__all__ = [
    'BINARY', 'CLOSE', 'COMPRESSED', 'CONTINUATION', 'CONTROL', 'FIN',
    'MASKED', 'OPCODE', 'PING', 'PLAIN', 'PONG', 'RSV1', 'TEXT',
    'ProtocolFailure', 'check_close_code', 'is_legal_close_code',
    'protocol_error', 'why_not',
]

# Opcodes, RFC 6455 5.2.
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
# Bits of the first byte, and the mask bit of the second.
FIN, RSV1, CONTROL, OPCODE = 0x80, 0x40, 0x08, 0x0f
MASKED = 0x80

#: First bytes that need no extension: any data frame, final controls.
PLAIN = frozenset({0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a})
#: First bytes of a compressed message: RSV1, not on continuations
#: (RFC 7692 6).
COMPRESSED = frozenset({0x41, 0x42, 0xc1, 0xc2})


class ProtocolFailure(WsrpcError):
    """The peer broke RFC 6455, or one of our limits.

    ``code`` is what our Close must carry, ``reason`` one sentence of less
    than 123 bytes for the person at the other end.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f'{self.reason} ({int(self.code)})'


def protocol_error(reason: str) -> ProtocolFailure:
    """Return what is raised where a rule of RFC 6455 was broken."""
    return ProtocolFailure(CloseCode.PROTOCOL, reason)


def why_not(first: int) -> str:
    """Say why no frame may begin so, if it is none of those above."""
    if first & 0x70:
        return 'reserved bits are set'
    if first & OPCODE not in (CLOSE, PING, PONG):
        return f'the opcode {first & OPCODE} is reserved'
    return 'a control frame in fragments'


def check_close_code(code: int) -> None:
    """ValueError for a code with which no application may close."""
    if not is_legal_close_code(code):
        raise ValueError(f'the close code {code} may not be sent: use '
                         '1000-1003, 1007-1014 or 3000-4999')


def is_legal_close_code(code: int) -> bool:
    """Whether a Close on the wire may carry ``code``.

    RFC 6455 7.4 and IANA's registry, which added 1012-1014.  2999 and below
    are for standards to come, 5000 and above for nobody.
    """
    return (1000 <= code <= 1003 or 1007 <= code <= 1014
            or 3000 <= code <= 4999)
