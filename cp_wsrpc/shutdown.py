"""How a process's connections end when the engine stops.  Layer 4.

::

    drain        new calls: "going away"; running ones go on     <= 10 s
    close        Close 1001 (1012 on restart), the peers' answer  <= 2 s
    abort        who has not answered                           <= 0.5 s
    last hooks   closed(), on_close(), Route.closed()             <= 1 s
    let go       stores and threads                        what is left

Together never longer than 13.4 s however many peers are stuck, and Redis
with them: ``drain_timeout_s`` and 3.4 s, one :class:`Budget`.  With what
CherryPy's HTTP server takes to stop after that (0.3 s were measured; its
``select`` may take 0.5) the process ends within 14 s (threats D4).
Each step waits for an event with its deadline; the loop's thread sets it.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .closing import CLOSE_TIMEOUT_S
from .current import cell
from .peer import Peer
from .strands import run_own_strand

if TYPE_CHECKING:
    from .hub import Hub
    from .messages import Call

__all__ = ['Budget', 'let_go', 'shut_down']

log = logging.getLogger('cp_wsrpc.shutdown')

ABORT_WAIT_S = 0.5
HOOKS_WAIT_S = 1.0
POOL_WAIT_S = 1.0
#: All that comes after the drain.
END_S = 3.4
#: A store: an answer of Redis takes 1.5 s at most, and it asks once more.
STORE_WAIT_S = 3.0
#: What of that the stores, which may wait for Redis, leave to the threads.
THREADS_S = 0.2
#: And who is on which topic, and the feed, after the idempotency keys.
FEED_S = 0.1
#: What hooks that do not end leave to stores and threads.
LET_GO_S = 0.4


class Budget:
    """The seconds that a whole stop may take; its steps share them."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    @classmethod
    def of_stop(cls, hub: Hub) -> Budget:
        """It begins to run now."""
        return cls(hub.timing.drain_timeout_s + END_S)

    def take(self, at_most: float, spare: float = 0.0) -> float:
        """The seconds of one step; ``spare`` are for those after it."""
        return max(0.0, min(at_most,
                            self._ends - spare - time.monotonic()))


def shut_down(hub: Hub, code: int, reason: str, budget: Budget) -> None:
    """End all connections of a hub.  Not on the loop's thread."""
    assert not hub.io.in_loop()
    mine = cell.get()
    stopper = mine.call if mine is not None else None
    if not _drain(hub, stopper):
        log.warning('calls still run after %s s: their replies are lost',
                    hub.timing.drain_timeout_s)
    _wait_on_loop(hub, lambda: _close_all(hub, code, reason),
                  lambda: not hub.io.websockets,
                  budget.take(CLOSE_TIMEOUT_S))
    _wait_on_loop(hub, lambda: _abort_all(hub, code, reason),
                  lambda: not hub.io.websockets, budget.take(ABORT_WAIT_S))
    run_own_strand()
    if not hub.pool.wait_for_strands(0.1):
        hub.pool.rescue()
        if not hub.pool.wait_for_strands(budget.take(HOOKS_WAIT_S,
                                                     LET_GO_S)):
            log.warning('hooks of closed connections still run')


def let_go(hub: Hub, budget: Budget) -> None:
    """End the stores, the loop and the pool.  Not on the loop's thread.

    A thread that does not end in time is a daemon, and ends by itself or
    with the process: Redis may be frozen, a method may never return.
    """
    hub.kept.stop(budget.take(STORE_WAIT_S, THREADS_S + FEED_S))
    hub.broker.stop(budget.take(STORE_WAIT_S, THREADS_S))
    hub.sessions.stop(budget.take(1.0, THREADS_S))
    if not hub.io.stop(budget.take(2.0, THREADS_S / 2)):
        log.error('the I/O loop did not end: a method holds it')
    hub.pool.stop(budget.take(POOL_WAIT_S))


def _drain(hub: Hub, stopper: Call | None) -> bool:
    """Wait for the calls that run; False if some still do.

    The call that stops the engine (``stopper``) is not waited for: it
    waits for us.
    """
    def begin() -> None:
        hub.draining = True
        hub.kept.drain()
        for websocket in tuple(hub.io.websockets):
            if isinstance(websocket, Peer):
                websocket.drain()

    def is_idle() -> bool:
        return not any(
            _is_busy(websocket, stopper) for websocket in hub.io.websockets
            if isinstance(websocket, Peer))

    return _wait_on_loop(hub, begin, is_idle, hub.timing.drain_timeout_s)


def _is_busy(peer: Peer, stopper: Call | None) -> bool:
    """Whether a call of it still runs, or its reply is not yet queued.

    A worker takes its call out of ``running`` before it sends the reply:
    until it has left its lane, the reply may be in neither place.
    """
    mine = stopper is not None and stopper.connection is peer \
        and stopper.method.kind == 'pool'
    return (peer.lane.taken > mine or any(
        call is not stopper
        for call in tuple(peer.conversation.running.values())))


def _close_all(hub: Hub, code: int, reason: str) -> None:
    # Also those whose handshake is under way.
    hub.io.closing = code, reason
    # However long some take to close.
    hub.broker.depart()
    for websocket in tuple(hub.io.websockets):
        websocket.close(code, reason)


def _abort_all(hub: Hub, code: int, reason: str) -> None:
    hub.io.ended = True
    for websocket in tuple(hub.io.websockets):
        websocket.abort(code, reason)


def _wait_on_loop(hub: Hub, begin: Callable[[], None],
                  is_done: Callable[[], bool], timeout_s: float) -> bool:
    """Run ``begin`` on the loop and wait until ``is_done()`` there.

    Asked again whenever a call or a connection ends (``io.on_progress``),
    and at each tick of the loop's timer.
    """
    done = threading.Event()

    def look() -> None:
        if is_done():
            hub.io.on_progress = None
            done.set()

    def start() -> None:
        begin()
        hub.io.on_progress = look
        look()

    deadline = time.monotonic() + timeout_s
    hub.io.post(start)
    return done.wait(max(0.0, deadline - time.monotonic()))
