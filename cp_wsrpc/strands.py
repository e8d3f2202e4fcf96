"""Hooks and messages of one connection: one at a time.  Layer 2.

``websocket`` posts what an application is told of a connection, ``peer``
its callbacks; the threads of ``workers`` run them.
"""
from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .logs import limited

if TYPE_CHECKING:
    from .workers import WorkerPool

__all__ = ['Strand', 'run_own_strand', 'runs_strand']

log = logging.getLogger('cp_wsrpc.strands')


class Strand:
    """Hooks and messages of one connection: on the pool, one at a time.

    ``post`` from any thread; each function is called in the order of its
    posting, never two at once.  Not counted in the pool's limits: what
    fills it is bounded by whoever posts (a socket stops reading).
    """

    __slots__ = ('_pool', '_tasks', '_active')

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._tasks: deque[tuple[Callable[..., object], tuple[Any, ...]]] \
            = deque()
        self._active = False

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs or waits; by the time you look, maybe."""
        return not self._active

    def post(self, run: Callable[..., object], *args: Any) -> None:
        """Have ``run(*args)`` called on the pool after all before it."""
        pool = self._pool
        with pool.lock:
            self._tasks.append((run, args))
            if self._active:
                return
            self._active = True
            pool.active_strands += 1
            pool.queue.put((None, Strand._run_next, self))

    def _run_next(self) -> None:
        # One a turn: a busy strand goes to the tail, as a busy lane does.
        run, args = self._tasks.popleft()
        _here.strand = self
        _run_hook(run, args)
        _here.strand = None
        pool = self._pool
        with pool.lock:
            if self._tasks:
                pool.queue.put((None, Strand._run_next, self))
                return
            self._active = False
            pool.active_strands -= 1
            if pool.active_strands <= 1:
                pool.strands_idle.notify_all()

    def _run_rest(self) -> None:
        while True:
            with self._pool.lock:
                if not self._tasks:
                    return
                run, args = self._tasks.popleft()
            _run_hook(run, args)


#: ``strand``: the one of which this thread runs a task
_here = threading.local()


def run_own_strand() -> None:
    """In a hook that ends everything: run what waits behind it, here.

    ``closed()`` of a connection whose handler stops the engine would wait
    for the handler, and that for ``closed()``.
    """
    strand = getattr(_here, 'strand', None)
    if strand is not None:
        strand._run_rest()


def runs_strand() -> bool:
    """Whether this thread runs a task of a strand just now."""
    return getattr(_here, 'strand', None) is not None


def _run_hook(run: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        run(*args)
    except BaseException:  # a fault of ours: the next one is to run
        limited(log, 'hook', logging.ERROR, 'a hook failed', exc_info=True)
