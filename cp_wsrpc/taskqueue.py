"""Tasks on their way to the threads of the pool.  Layer 2.

``workers`` puts in what lanes and strands give it; each worker takes one
after the other, and rests on a lock of its own when there is none.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

__all__ = ['Task', 'TaskQueue']

#: Lane (None: of a strand), function, its argument.
Task: TypeAlias = 'tuple[Any, Callable[[Any], object], Any]'



class TaskQueue:
    """Tasks on their way to the workers; wakes no more than must be.

    Any thread puts; workers get.  ``SimpleQueue`` wakes *two* threads for
    each task that finds workers idle - the one that gets it lets the next
    one look for itself -, and all of them in turn for a burst.  Here a
    burst wakes one, the one that came to rest last, and whoever takes a
    task while more are there wakes the next: methods that wait are run
    side by side as before, short ones by one warm thread.

    Without a lock, by the atomic steps of ``deque``: a task is put before
    the look for who rests, and a worker lies down before it looks for a
    task once more, so one of the two sees the other.
    """

    __slots__ = ('_resting', '_tasks', '_waking')

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()
        self._resting: deque[Any] = deque()     # held locks
        self._waking = False        # one was woken and has not come yet

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def resting(self) -> int:
        """Workers that wait for a task."""
        return len(self._resting)

    def put(self, task: Task) -> None:
        self._tasks.append(task)
        if self._resting and not self._waking:
            self._wake_one()

    def put_unheard(self, task: Task) -> None:
        """Put a task from a worker that gets one next: it wakes others."""
        self._tasks.append(task)

    def put_all(self, tasks: Iterable[Task]) -> None:
        """Put several; they wake one worker, which wakes the next."""
        self._tasks.extend(tasks)
        if self._resting and not self._waking and self._tasks:
            self._wake_one()

    def get(self, bed: Any) -> Task:
        """The next task; ``bed`` is a lock of the caller's own, held."""
        tasks = self._tasks
        while True:
            try:
                task = tasks.popleft()
            except IndexError:
                self._rest(bed)
                continue
            if tasks and self._resting and not self._waking:
                self._wake_one()
            return task

    def _rest(self, bed: Any) -> None:
        self._resting.append(bed)
        if self._tasks:             # put while we lay down
            try:
                self._resting.remove(bed)
            except ValueError:
                pass                # it woke us: take note below
            else:
                return
        bed.acquire()
        self._waking = False

    def _wake_one(self) -> None:
        while True:
            self._waking = True
            try:
                bed = self._resting.pop()
            except IndexError:
                self._waking = False
                # Who put or lay down while it was True has left it to us.
                if not (self._tasks and self._resting):
                    return
            else:
                bed.release()
                return
