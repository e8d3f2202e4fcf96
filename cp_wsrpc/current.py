"""The running call, as a context variable.  Layer 0.

``cp_wsrpc.call`` and ``cp_wsrpc.connection`` read it.  What is set in a
context is not the call but a :class:`Cell` that holds it: workers and the
loop's thread set theirs once and for each call write one attribute, which
costs a tenth of ``ContextVar.set`` (461 000 calls/s against 320 000 in the
probe of design.md, 3).  Each ``async def`` call gets a cell of its own,
which the tasks it starts share.
"""
from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .errors import NoConnection

if TYPE_CHECKING:
    from .messages import Call

__all__ = ['Cell', 'cell', 'running_call', 'running_connection']


class Cell:
    """Where a context finds its call; None while there is none.

    ``tallies``: where its thread counts calls (``statistics``); None in
    the cells of tasks, which are counted by the loop's thread.
    """

    __slots__ = ('call', 'tallies')

    def __init__(self, call: Call | None = None,
                 tallies: Any = None) -> None:
        self.call = call
        self.tallies = tallies


cell: ContextVar[Cell | None] = ContextVar('cp_wsrpc.call', default=None)


def running_call() -> Call:
    """The call in which this code runs; NoConnection if in none."""
    mine = cell.get()
    if mine is None or mine.call is None:
        raise NoConnection(
            'there is no running call here: take cp_wsrpc.connection (or '
            '.call) inside the method, and hand it to threads you start')
    return mine.call


def running_connection() -> Any:
    """The caller's connection; NoConnection outside of a call."""
    return running_call().connection
