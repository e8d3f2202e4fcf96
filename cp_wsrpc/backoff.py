"""When a client tries again, after what.  Layer 1, pure.

::

    backoff = Backoff(base_s=1.0)
    backoff.after_close(1006, held_s=3.0)   -> 0.71     seconds to wait
    backoff.after_close(1000, held_s=3.0)   -> None     stop for good
    backoff.after_failure(None)             -> 1.38     no connection
    backoff.after_failure(401)              -> None     refused

The policy is protocol.md, 5, and the same as the JavaScript client's.
Full jitter throughout: the clients of a server that comes back must not
come back in step.
"""
from __future__ import annotations

import enum
import random as _random
from collections.abc import Callable

__all__ = ['AFTER_CLOSE', 'Backoff', 'Next', 'after_status']

#: No wait between two attempts grows past this.
MAX_DELAY_S = 30.0
#: A connection that held this long was a good one: the back-off starts
#: anew.  Not at its opening: accept-then-kick would never back off.
HELD_S = 30.0
RESTART_SPREAD_S = 5.0
OVERLOAD_DELAY_S = 10.0
MAX_STRIKES = 3


class Next(enum.Enum):
    """What follows the end of a connection."""

    STOP = 'stop'
    BACK_OFF = 'back off'
    SPREAD = 'spread'           # a restart: all come back, not at once
    OVERLOAD = 'overload'
    STRIKE = 'strike'           # back off, and stop at the third in a row


#: By close code; what is not in it backs off.
AFTER_CLOSE: dict[int, Next] = {
    1000: Next.STOP, 1008: Next.STOP, 4400: Next.STOP, 4401: Next.STOP,
    4403: Next.STOP,
    1001: Next.SPREAD, 1012: Next.SPREAD,
    1013: Next.OVERLOAD, 4429: Next.OVERLOAD,
    1006: Next.BACK_OFF, 1009: Next.BACK_OFF, 1011: Next.BACK_OFF,
    4408: Next.BACK_OFF,
    1002: Next.STRIKE, 1003: Next.STRIKE, 1007: Next.STRIKE,
}


def after_status(status: int | None) -> Next:
    """What follows a handshake that ended with this HTTP status.

    None: there was no answer.  401, 403, 404 and redirects (to a login
    page, most likely) will be the same the next time: stop.  Anything
    else (503, 502 of a proxy, 426) may pass.
    """
    if status is not None and (status in (401, 403, 404)
                               or 300 <= status < 400):
        return Next.STOP
    return Next.BACK_OFF


class Backoff:
    """Counts what went wrong in a row.  Used by one thread.

    ``base_s``: the first wait is up to this long, each next one up to
    twice as long as the one before, to 30 s.
    """

    def __init__(self, base_s: float = 1.0,
                 random: Callable[[], float] = _random.random) -> None:
        self.base_s = base_s
        self.random = random
        self._failures = 0
        self._strikes = 0

    def __repr__(self) -> str:
        return (f'<Backoff {self._failures} failures, '
                f'{self._strikes} strikes>')

    def reset(self) -> None:
        """Begin anew: the application asked for the attempt."""
        self._failures = self._strikes = 0

    def after_close(self, code: int, held_s: float) -> float | None:
        """Seconds to wait after an open connection has ended; None: stop.

        ``held_s``: how long it was open, seconds.
        """
        if held_s >= HELD_S:
            self.reset()
        what = AFTER_CLOSE.get(code, Next.BACK_OFF)
        if what is Next.STRIKE:
            self._strikes += 1
        else:
            self._strikes = 0
        return self._delay(what)

    def after_failure(self, status: int | None = None) -> float | None:
        """The same after an attempt that never became a connection."""
        return self._delay(after_status(status))

    def _delay(self, what: Next) -> float | None:
        if what is Next.STOP or self._strikes >= MAX_STRIKES:
            return None
        # 2^n for n past 60 would be no float any more.
        ceiling = min(MAX_DELAY_S,
                      self.base_s * 2.0 ** min(self._failures, 60))
        self._failures += 1
        if what is Next.SPREAD:
            return self.random() * RESTART_SPREAD_S
        if what is Next.OVERLOAD:
            return OVERLOAD_DELAY_S + self.random() * max(ceiling, 5.0)
        return self.random() * ceiling
