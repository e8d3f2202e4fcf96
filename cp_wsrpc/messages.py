"""What was said, free of any dialect.  Layer 0.

::

    Call(id=1, name='calc.add', params=b'[1,2]', dialect=<jsonrpc>)
    Result(id=1, value=b'3')
    Failure(id=1, error=RemoteError('no', code=-32000))
    Event(topic='news', data=b'{"msg":"x"}', offset=9)
    Batch(items=[Call(...), Call(...)])
    Bad(id=None, error=ParseError())

``params``, ``value`` and ``data`` are JSON text, not yet decoded: whoever
knows the wanted type (``registry`` for a method) decodes them, once.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    from .errors import RemoteError, RPCError

__all__ = ['Bad', 'Batch', 'Call', 'CallId', 'Event', 'Failure', 'Json',
           'MAX_ID_CHARS', 'MAX_SAFE_INTEGER', 'NO_ID', 'Result']

CallId: TypeAlias = 'int | str | None'
#: What an id may be, if it is no null (protocol.md, 1).
MAX_SAFE_INTEGER = 2 ** 53 - 1
MAX_ID_CHARS = 64
Json: TypeAlias = 'msgspec.Raw | bytes'


class _NoId:
    """The id of a notification: nobody waits for an answer."""

    def __repr__(self) -> str:
        return 'NO_ID'

    def __bool__(self) -> bool:
        return False


NO_ID: Any = _NoId()


class Call(msgspec.Struct, eq=False):
    """A function of ours that the peer wants to be run.

    Made on the loop's thread by ``decoding``, filled by ``peer`` on its way
    to the method, and what an application sees as ``cp_wsrpc.call`` while
    that method runs.  Touched by one thread at a time.

    ``id``          int, str, None, or NO_ID for a notification
    ``name``        the dotted name on the wire
    ``params``      JSON text of an array or object; None: no arguments
    ``dialect``     the :class:`cp_wsrpc.dialects.Dialect` it came in
    ``meta``        what stood in ``_meta``, or None
    ``batch``       where its reply is collected, if it came in a batch
    ``connection``  the :class:`cp_wsrpc.peer.Peer` that sent it
    ``method``      the :class:`cp_wsrpc.registry.Method` of that name
    ``args``, ``kwargs``  the checked arguments
    ``arrived``     ``time.monotonic()`` of its read, seconds
    ``deadline``    the same clock, or None: no limit
    ``scope``       what surrounds it while it runs (``invocation``)
    """

    id: Any
    name: str
    params: Any
    dialect: Any
    meta: Any = None
    batch: Any = None
    connection: Any = None
    method: Any = None
    args: Any = ()
    kwargs: Any = None
    arrived: float = 0.0
    deadline: float | None = None
    scope: Any = None

    @property
    def function(self) -> Any:
        """The function itself, with whatever attributes it carries."""
        return self.method.function

    def __repr__(self) -> str:
        return f'<Call {self.name!r} id={self.id!r}>'


class Result(msgspec.Struct, eq=False):
    """The peer's function returned; ``value`` is JSON text."""

    id: Any
    value: Any


class Failure(msgspec.Struct, eq=False):
    """The peer's function raised, or could not be run."""

    id: Any
    error: RemoteError


class Event(msgspec.Struct, eq=False):
    """Something was published; ``data`` is JSON text.

    ``offset`` counts from 1 in ``epoch``; both are None on a topic without
    history.
    """

    topic: str
    data: Any
    offset: int | None = None
    epoch: str | None = None
    subscription: str = ''
    #: whose newest it is, in mode "latest"; an int: nobody knows
    key: str | int | None = None


class Batch(msgspec.Struct):
    """An array of messages; ``items`` as ``decoding`` gives them."""

    items: list[Any]


class Bad(msgspec.Struct):
    """What is no message; ``error`` is the answer it gets."""

    id: Any
    error: RPCError
    dialect: Any = None
