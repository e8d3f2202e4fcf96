"""How a process's connections end when the engine stops.  Layer 4.

::

    drain        new calls: "going away"; running ones go on     <= 10 s
    close        Close 1001 (1012 on restart), the peers' answer  <= 2 s
    abort        who has not answered                           <= 0.5 s
    last hooks   closed(), on_close(), Route.closed()             <= 1 s

Together never longer than 14 s however many peers are stuck (threats D4).
Each step waits for an event with its deadline; the loop's thread sets it.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .current import cell
from .peer import Peer
from .websocket import CLOSE_TIMEOUT_S
from .strands import run_own_strand

if TYPE_CHECKING:
    from .hub import Hub
    from .messages import Call

__all__ = ['shut_down']

log = logging.getLogger('cp_wsrpc.shutdown')

ABORT_WAIT_S = 0.5
HOOKS_WAIT_S = 1.0


def shut_down(hub: Hub, code: int, reason: str) -> None:
    """End all connections of a hub.  Not on the loop's thread."""
    assert not hub.io.in_loop()
    mine = cell.get()
    stopper = mine.call if mine is not None else None
    if not _drain(hub, stopper):
        log.warning('calls still run after %s s: their replies are lost',
                    hub.timing.drain_timeout_s)
    _wait_on_loop(hub, lambda: _close_all(hub, code, reason),
                  lambda: not hub.io.websockets, CLOSE_TIMEOUT_S)
    _wait_on_loop(hub, lambda: _abort_all(hub, code, reason),
                  lambda: not hub.io.websockets, ABORT_WAIT_S)
    run_own_strand()
    if not hub.pool.wait_for_strands(0.1):
        hub.pool.rescue()
        if not hub.pool.wait_for_strands(HOOKS_WAIT_S):
            log.warning('hooks of closed connections still run')


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
