"""What a method lets go while it waits for its client.  Layer 3.

``PendingReply`` waits by these (``conversation.blocking``): ``invocation``
sets the one for workers, ``ioloop`` the one for tasks.
"""
from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from .conversation import PendingReply, blocking
from .current import cell

__all__ = ['wait_in_task', 'wait_in_thread']


@contextmanager
def wait_in_thread() -> Iterator[None]:
    """Around ``PendingReply.result`` in a worker.

    What the method holds is let go: the session's lock (a page that
    answers by a ``fetch`` must not deadlock), its turn on a Route, its
    place in the pool.
    """
    mine = cell.get()
    call = mine.call if mine is not None else None
    scope = call.scope if call is not None else None
    if scope is not None and scope.session is not None:
        scope.session.let_go()
    turn = scope.turn if scope is not None else None
    with blocking.lend():
        if turn is None:
            yield
        else:
            with turn.yielded():
                yield


def wait_in_task(reply: PendingReply) -> Generator[Any, None, None]:
    """Wait for a reply in an ``async def`` method.

    A Route's turn is given up meanwhile, as in a worker; for
    ``blocking.awaiting`` of the loop's thread.
    """
    mine = cell.get()
    scope = mine.call.scope if mine is not None and mine.call else None
    if scope is None or scope.turn is None:
        yield from reply.until_done()
        return
    turn, scope.turn = scope.turn, None
    turn.step_aside()
    try:
        yield from reply.until_done()
    except asyncio.CancelledError:
        # A timeout of the method's own, say, after which it goes on.
        yield from _take_turn(turn)
        scope.turn = turn
        raise
    except GeneratorExit:
        # The coroutine is destroyed and cannot wait: what comes of the
        # turn is passed on, else ``closed()`` would wait for it for ever.
        if turn.reenter(turn.leave):
            turn.leave()
        raise
    yield from _take_turn(turn)
    scope.turn = turn


def _take_turn(turn: Any) -> Generator[Any, None, None]:
    loop = asyncio.get_running_loop()
    granted: asyncio.Future[None] = loop.create_future()

    def grant() -> None:
        if granted.cancelled():     # the task was, while it waited
            turn.leave()
        else:
            granted.set_result(None)

    if not turn.reenter(lambda: loop.call_soon_threadsafe(grant)):
        try:
            yield from granted
        except BaseException:
            # Cancelled, or destroyed: the turn is not for us any more.
            if granted.done() and not granted.cancelled():
                turn.leave()
            granted.cancel()        # if it comes yet, it is passed on
            raise
