"""When which socket is to be looked at.  Layer 2.

One wheel of coarse ticks for all sockets, which ``ioloop`` turns::

    schedule(websocket, when)   -> look(websocket, now), give or take a tick
    await_answer(websocket, until)   the same, unless ``note_answer`` comes

A wheel costs 0.5 % of a CPU at 10 000 sockets, a ``call_later`` each 2-3 %
(design.md, 3).  Answers have a list of their own, since nearly all of them
come within the tick: to look at each socket 20 s after its ping for nothing
had been a tenth of what a ping costs, as most of it is no longer in the
processor's caches then.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .websocket import WebSocket

__all__ = ['TICK_S', 'Timers']

TICK_S = 0.25


class Timers:
    """All of it belongs to the loop's thread.

    ``look(websocket, now)`` does what is due and returns the next time to
    look, or None; it must not raise.
    """

    def __init__(self, look: Callable[[WebSocket, float], float | None],
                 ) -> None:
        self._look = look
        #: {tick: sockets to look at then}; each stands in one at most
        self._wheel: dict[int, set[WebSocket]] = {}
        #: who was pinged -> until when it may answer, the earliest first
        self._unanswered: dict[WebSocket, float] = {}
        #: the last that was looked at
        self.tick = 0

    def __len__(self) -> int:
        """Sockets that stand in the wheel."""
        return sum(map(len, self._wheel.values()))

    def begin(self, now: float) -> None:
        """Forget all; ticks count from now."""
        self._wheel.clear()
        self._unanswered.clear()
        self.tick = int(now / TICK_S)

    def schedule(self, websocket: WebSocket, when: float) -> None:
        """Have it looked at at ``when``, or before."""
        if websocket.sock is None:
            return          # closed on the way here
        tick = int(when / TICK_S) + 1
        before = websocket.timer_tick
        if before is not None:
            if before <= tick:
                return      # it will look before that, and ask again
            self._unschedule(websocket)
        websocket.timer_tick = tick
        there = self._wheel.get(tick)
        if there is None:
            self._wheel[tick] = {websocket}
        else:
            there.add(websocket)

    def await_answer(self, websocket: WebSocket, until: float) -> None:
        """Have it looked at then, too, unless its pong comes."""
        self._unanswered[websocket] = until

    def note_answer(self, websocket: WebSocket) -> None:
        """Its pong has come."""
        self._unanswered.pop(websocket, None)

    def forget(self, websocket: WebSocket) -> None:
        """It is closed.

        Left there, it would be kept until its next ping: 7 kB for 25 s, of
        each that a peer opens and resets.
        """
        self._unschedule(websocket)
        self._unanswered.pop(websocket, None)

    def _unschedule(self, websocket: WebSocket) -> None:
        there = self._wheel.get(websocket.timer_tick or 0)
        if there is not None:
            there.discard(websocket)
        websocket.timer_tick = None

    def turn(self, now: float) -> None:
        """Look at all that are due."""
        current = int(now / TICK_S)
        # After a standstill there are fewer entries than ticks to walk.
        due = (range(self.tick + 1, current + 1)
               if current - self.tick < 1000
               else sorted(tick for tick in self._wheel if tick <= current))
        for tick in due:
            for websocket in self._wheel.pop(tick, ()):
                if websocket.timer_tick == tick:    # not an earlier one now
                    websocket.timer_tick = None
                    self._look_now(websocket, now)
        self.tick = current
        for websocket, until in tuple(self._unanswered.items()):
            if until > now:
                break
            # A look at one may have been the end of another.
            if self._unanswered.pop(websocket, None) is not None:
                self._look_now(websocket, now)

    def _look_now(self, websocket: WebSocket, now: float) -> None:
        due = self._look(websocket, now)
        if due is not None:
            self.schedule(websocket, max(due, now))
