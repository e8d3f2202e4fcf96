"""Ends connections whose session has ended.  Layer 2.

::

    WebSocket.on_adopted -> join  |  a look at each session, every half
    Closer._report_end -> leave   |  second -> gone -> close 4401

However many sockets a session has (tabs, reconnects), it is looked at
once.  RAM sessions are looked at by the loop itself, in slices (0.5 us
each); all others may block, so one thread, ``wsrpc-sessions``, looks at
them, and rests at least as long as it looked: a slow store is asked less
often, not all the time.  The thread and the loop's timer are there only
while a session is watched.

A look that fails (the store is down) says nothing of the session; the next
one will.
"""
from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from .errors import CloseCode
from .host_sighting import Sighting
from .logs import limited

if TYPE_CHECKING:
    from .websocket import WebSocket

__all__ = ['SessionWatch']

log = logging.getLogger('cp_wsrpc.session_watch')

#: Between the begins of two rounds.
PERIOD_S = 0.5
#: RAM sessions per turn of the loop, at most: 2.5 ms.
SLICE = 5000
TURNS = 4
TURN_S = PERIOD_S / TURNS
#: A round that takes longer is told: a logout is noticed that late.
SLOW_ROUND_S = 0.5


class _Watched:
    """A session, and the sockets that live by it."""

    __slots__ = ('sighting', 'websockets')

    def __init__(self, sighting: Sighting) -> None:
        self.sighting = sighting
        self.websockets: set[WebSocket] = set()


class SessionWatch:
    """All sessions that connections of this process are bound to.

    ``join`` and ``leave``: the loop's thread.  ``stop``: any other.
    ``_lock`` guards ``_thread`` and the end of it: whoever joins while it
    is ending starts another.  ``_stored`` is changed by the loop's thread
    and copied by the other in one step of the interpreter.
    """

    def __init__(self, io: Any) -> None:
        self._io = io
        self._in_memory: dict[Any, _Watched] = {}
        self._stored: dict[Any, _Watched] = {}
        self._turning = False           # the loop's timer runs
        self._rest: list[_Watched] = []     # of the round, in memory
        self._slice = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._told_slow = False

    def __len__(self) -> int:
        """How many sessions are watched."""
        return len(self._in_memory) + len(self._stored)

    def join(self, websocket: WebSocket) -> None:
        """From now on it is closed (4401) when its session ends."""
        key = websocket.handshake.session_key
        watches = self._in_memory if key.in_memory else self._stored
        watched = watches.get(key.place)
        if watched is None:
            watched = watches[key.place] = _Watched(Sighting(key))
        watched.websockets.add(websocket)
        if not key.in_memory:
            self._start_thread()
        elif not self._turning and not self._stopping.is_set():
            self._turning = True
            self._later(self._turn)

    def leave(self, websocket: WebSocket) -> None:
        """It has ended."""
        key = websocket.handshake.session_key
        watches = self._in_memory if key.in_memory else self._stored
        watched = watches.get(key.place)
        if watched is not None:
            watched.websockets.discard(websocket)
            if not watched.websockets:
                del watches[key.place]

    def stop(self, timeout_s: float = 1.0) -> None:
        """Look no more, and end the thread."""
        self._stopping.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
            if thread.is_alive():       # a daemon: it ends with us
                log.warning('the session store does not answer')

    def _lose(self, watched: _Watched) -> None:
        """The session has ended; the loop's thread."""
        for websocket in tuple(watched.websockets):
            websocket.close(CloseCode.UNAUTHORIZED, 'the session has ended')
            self.leave(websocket)

    def _is_gone(self, watched: _Watched) -> bool:
        try:
            return watched.sighting.is_gone()
        except Exception:  # the store's own errors: it may be back
            limited(log, 'store', logging.ERROR, '%r could not be looked at',
                    watched.sighting.key, exc_info=True)
            return False

    # -- in memory: the loop's thread --------------------------------------

    def _later(self, run: Any) -> None:
        self._io.loop.call_later(TURN_S, run)

    def _turn(self) -> None:
        """Look at a quarter of them, or at one slice."""
        if self._stopping.is_set() or not self._in_memory:
            self._turning = False
            return
        if not self._rest:
            self._rest = list(self._in_memory.values())
            number = len(self._rest)
            self._slice = min(SLICE, number // TURNS + 1)
            self._tell_if_slow(number / self._slice * TURN_S, number)
        slice_ = self._rest[:self._slice]
        self._rest = self._rest[self._slice:]
        for watched in slice_:
            if self._is_gone(watched):
                self._lose(watched)
        self._later(self._turn)

    # -- stored elsewhere: the thread --------------------------------------

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(
                    target=self._run, name='wsrpc-sessions', daemon=True)
                self._thread.start()

    def _run(self) -> None:
        for watches in iter(self._next_round, []):
            begun = time.monotonic()
            for watched in watches:
                if self._stopping.is_set():
                    return
                if self._is_gone(watched):
                    self._io.post(self._lose, watched)
            took_s = time.monotonic() - begun
            self._tell_if_slow(took_s, len(watches))
            self._stopping.wait(max(PERIOD_S - took_s, took_s))

    def _next_round(self) -> list[_Watched]:
        """Those to look at; empty: the thread is to end."""
        with self._lock:
            watches = list(self._stored.values())
            if not watches or self._stopping.is_set():
                self._thread = None
                return []
            return watches

    def _tell_if_slow(self, round_s: float, count: int) -> None:
        if round_s > SLOW_ROUND_S and not self._told_slow:
            self._told_slow = True
            log.warning('a look at the %d sessions of open connections '
                        'takes %.1f s: the end of one is noticed later than '
                        'after 1 s', count, round_s)
