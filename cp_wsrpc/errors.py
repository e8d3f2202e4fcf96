"""What can go wrong, as one tree of exceptions.  Layer 0.

Each class knows the JSON-RPC error code (protocol.md, 4) under which it
reaches the other side of the wire; attributes carry the data, ``str()``
builds the sentence, and the sentence says what to do.

::

    WsrpcError                        code    whose fault
    +-- RPCError                      own     as the application says
    |   +-- ParseError                -32700  the peer's text is not JSON
    |   +-- InvalidRequest            -32600  the peer's JSON is no message
    |   +-- MethodNotFound            -32601  unknown, hidden or forbidden
    |   +-- InvalidParams             -32602  the arguments do not fit
    |   +-- InternalError             -32603  ours, or hidden behind a ref
    |   +-- Unauthorized              -32001  the session has just gone
    |   +-- TooManySubscriptions      -32006
    |   +-- RequestTooBig             -32007
    |   +-- ResponseTooBig            -32008
    |   +-- Busy                      -32009  retryable, not executed
    |   +-- BatchTooLarge             -32010
    |   +-- GoingAway                 -32011  retryable, not executed
    |   +-- TopicRefused              -32012
    +-- RemoteError                   -       the peer's function raised
    +-- ConnectionLostError           -       the connection went away
    +-- CallTimeout (TimeoutError)    -       no answer in time
    +-- NotSent                       -       what we were given to send
    |   +-- MessageTooBig
    |   +-- Overloaded
    |   +-- BrokerUnavailable
    +-- NoConnection (LookupError,    -       asked for outside of a call
    |        AttributeError)
    +-- WrongThread (RuntimeError)    -       a wait on the loop's thread
    +-- ConfigError (ValueError)      -       an option that cannot be

What the wire carries to close a socket is no exception but a code:
:class:`CloseCode`.
"""
from __future__ import annotations

import enum
from typing import Any, ClassVar

__all__ = [
    'BatchTooLarge', 'BrokerUnavailable', 'Busy', 'CallTimeout',
    'CloseCode', 'ConfigError', 'ConnectionLostError', 'GoingAway',
    'InternalError', 'InvalidParams', 'InvalidRequest', 'MessageTooBig',
    'MethodNotFound', 'NoConnection', 'NotSent', 'Overloaded', 'ParseError',
    'RPCError', 'RemoteError', 'RequestTooBig', 'ResponseTooBig',
    'TooManySubscriptions', 'TopicRefused', 'Unauthorized', 'WrongThread',
    'WsrpcError',
]


class CloseCode(enum.IntEnum):
    """Why a socket is closed (RFC 6455 7.4.1 and protocol.md, 5)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL = 1002
    UNSUPPORTED = 1003
    NO_STATUS = 1005        # never on the wire
    ABNORMAL = 1006         # never on the wire
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_LATER = 1013
    BAD_PROTOCOL = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    SLOW_READER = 4408
    RATE = 4429


class WsrpcError(Exception):
    """Root of all that cp_wsrpc raises."""


class RPCError(WsrpcError):
    """An error that reaches the peer as it is written.

    ``code``
        An integer.  Applications use codes outside of -32768..-32000.
    ``message``
        One sentence for the person who reads the peer's log.
    ``data``
        Anything that can be encoded as JSON, or None for nothing.

    ::

        raise cp_wsrpc.RPCError(7, 'the account is closed', {'id': 4})
    """

    code: int = -32000
    default_message: ClassVar[str] = 'error'

    def __init__(self, code: int | None = None, message: str | None = None,
                 data: Any = None) -> None:
        self.code = type(self).code if code is None else code
        self.message = self.default_message if message is None else message
        self.data = data
        super().__init__(self.code, self.message, data)

    def __str__(self) -> str:
        return f'{self.message} ({self.code})'


class _Fixed(RPCError):
    """An error of the protocol: its code belongs to the class."""

    fixed_data: ClassVar[dict[str, Any] | None] = None

    def __init__(self, message: str | None = None, data: Any = None) -> None:
        if data is None and self.fixed_data is not None:
            data = dict(self.fixed_data)
        super().__init__(None, message, data)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own would give __init__ the code, too.
        return type(self), (self.message, self.data)


class ParseError(_Fixed):
    """The text is not JSON."""

    code = -32700
    default_message = 'Parse error'


class InvalidRequest(_Fixed):
    """JSON, but no message of any dialect."""

    code = -32600
    default_message = 'Invalid Request'


class MethodNotFound(_Fixed):
    """Unknown, hidden or forbidden: one answer for all three."""

    code = -32601
    default_message = 'Method not found'


class InvalidParams(_Fixed):
    """The arguments do not fit the method; it was not run."""

    code = -32602
    default_message = 'Invalid params'


class InternalError(_Fixed):
    """Something of ours, or an exception that stays behind a reference."""

    code = -32603
    default_message = 'Internal error'


class Unauthorized(_Fixed):
    """The session under which the connection was made has gone."""

    code = -32001
    default_message = 'Unauthorized'


class TooManySubscriptions(_Fixed):
    """More topics than ``tools.wsrpc.max_subscriptions``."""

    code = -32006
    default_message = 'Too many subscriptions'


class RequestTooBig(_Fixed):
    """A request past a limit."""

    code = -32007
    default_message = 'Request too big'


class ResponseTooBig(_Fixed):
    """The result is above the limit of what goes out."""

    code = -32008
    default_message = 'Response too big'


class Busy(_Fixed):
    """The pool or the connection's queue is full; try again."""

    code = -32009
    default_message = 'Busy'
    fixed_data = {'retryable': True, 'executed': False}


class BatchTooLarge(_Fixed):
    """More items than ``tools.wsrpc.max_batch``."""

    code = -32010
    default_message = 'Batch too large'


class GoingAway(_Fixed):
    """The server stops; another one, or the next, will take the call."""

    code = -32011
    default_message = 'Going away'
    fixed_data = {'retryable': True, 'executed': False}


class TopicRefused(_Fixed):
    """The topic is unknown, or not for this connection."""

    code = -32012
    default_message = 'Topic refused'


class RemoteError(WsrpcError):
    """The function of the peer raised, or there is none of that name.

    ``code`` (int or None), ``type`` (the class name there), ``message``,
    ``data`` (what came with it), ``stack`` (its traceback, as text).
    """

    def __init__(self, message: str, *, code: int | None = None,
                 type: str | None = None, data: Any = None,
                 stack: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.type = type
        self.data = data
        self.stack = stack

    @property
    def executed(self) -> bool:
        """False where the peer says that nothing was run."""
        return not (isinstance(self.data, dict)
                    and self.data.get('executed') is False)

    @property
    def retryable(self) -> bool:
        """True where the peer says that it may be tried again."""
        return (isinstance(self.data, dict)
                and self.data.get('retryable') is True)

    def __str__(self) -> str:
        kind = f'{self.type}: ' if self.type else ''
        code = f' ({self.code})' if self.code is not None else ''
        return _on_one_line(f'{kind}{self.message}') + code


class ConnectionLostError(WsrpcError, ConnectionError):
    """The connection went away before the answer came.

    ``maybe_executed``: False when the call was never given to the socket.
    """

    def __init__(self, message: str = 'the connection was lost',
                 maybe_executed: bool = True) -> None:
        super().__init__(message)
        self.maybe_executed = maybe_executed


class CallTimeout(WsrpcError, TimeoutError):
    """No answer within the call's time; the peer may still run it."""


class NotSent(WsrpcError):
    """What was given to send was not taken."""


class MessageTooBig(NotSent, ValueError):
    """One message above the limit of the out-queue."""


class Overloaded(NotSent):
    """The loop has more waiting than it may hold; publish less."""


class BrokerUnavailable(NotSent):
    """The broker (Redis) did not answer in time.

    ``maybe_executed``: False when it has not been asked at all.
    """

    def __init__(self, message: str = '', *, maybe_executed: bool = True,
                 ) -> None:
        super().__init__(message)
        self.maybe_executed = maybe_executed


class NoConnection(WsrpcError, LookupError, AttributeError):
    """``cp_wsrpc.connection`` or ``cp_wsrpc.call`` outside of a call.

    An AttributeError too, for ``hasattr(cp_wsrpc, 'connection')``, and for
    whoever goes through the names of a module.
    """


class WrongThread(WsrpcError, RuntimeError):
    """A blocking wait on the loop's thread, where nothing may wait."""


class ConfigError(WsrpcError, ValueError):
    """An option that is unknown or has a value that cannot be."""


def _on_one_line(text: str, limit: int = 200) -> str:
    """Show what the peer wrote so that it cannot forge lines of a log.

    An exception ends in tracebacks; ``message`` has it as it came.
    """
    return ''.join(
        char if char.isprintable()
        else char.encode('unicode_escape').decode('ascii')
        for char in text[:limit])
