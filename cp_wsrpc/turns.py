"""One call of several at a time, in order.  Layer 2.

Calls to one ``Route`` instance run one at a time, on whichever threads
they do; except that while one waits for its client the next may run.
``peer`` has a :class:`Turn` for each instance, ``invocation`` gives it up
during a wait.
"""
from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ['Turn']


class Turn:
    """Whose turn it is on one ``Route`` instance.

    ``enter(start, call)`` begins the call now (True) or keeps it until it
    is its turn: then ``start(call)`` is called, in the thread that gave
    the turn up, and must not wait.  ``leave`` ends a turn.  ``yielded``
    is a turn given up during a wait: the next call may run; the one that
    waited goes on as soon as the running one leaves or waits, before all
    that has not yet begun.  ``enter_last(start, what)`` comes after all of
    them, those that are away in a wait included.

    ``_lock`` guards the rest; ``start`` is called outside of it.
    """

    __slots__ = ('_lock', '_taken', '_away', '_waiting', '_returning',
                 '_last')

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._away = 0              # in a wait: each will come back
        self._waiting: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._returning: deque[Callable[[], object]] = deque()
        self._last: tuple[Callable[[Any], object], Any] | None = None

    def enter(self, start: Callable[[Any], object], call: Any,
              max_waiting: int = 128) -> bool | None:
        """True: go on; False: kept for later; None: too many wait."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            if len(self._waiting) >= max_waiting:
                return None
            self._waiting.append((start, call))
            return False

    def enter_last(self, start: Callable[[Any], object], what: Any) -> bool:
        """As ``enter``, for when nobody runs, waits or is away; once."""
        with self._lock:
            if not self._taken and not self._away:
                self._taken = True
                return True
            self._last = start, what
            return False

    def step_aside(self) -> None:
        """Give the turn up for a wait; ``reenter`` must follow."""
        with self._lock:
            self._away += 1
        self.leave()

    def leave(self) -> None:
        """The turn is over: whoever is next goes on."""
        with self._lock:
            assert self._taken
            if self._returning:
                resume = self._returning.popleft()
            elif self._waiting:
                start, call = self._waiting.popleft()
                resume = None
            elif self._last is not None and not self._away:
                (start, call), self._last = self._last, None
                resume = None
            else:
                self._taken = False
                return
        if resume is not None:
            resume()
        else:
            start(call)

    def reenter(self, resume: Callable[[], object]) -> bool:
        """Ask for the turn after a wait; ``resume()`` gives it later."""
        with self._lock:
            assert self._away
            self._away -= 1
            if not self._taken:
                self._taken = True
                return True
            self._returning.append(resume)
            return False

    @contextmanager
    def yielded(self) -> Iterator[None]:
        """Around a wait of the method that has the turn (in a thread)."""
        self.step_aside()
        try:
            yield
        finally:
            mine = threading.Event()
            if not self.reenter(mine.set):
                mine.wait()
