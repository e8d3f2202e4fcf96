"""The array that answers a batch.  Layer 1.

Items end on different threads, in any order; :class:`BatchReply` stands at
``call.batch`` of each.  Who joins a topic in a batch must not get an event
before the array that tells him so, however slow another item is: so what
begins with the reply (:meth:`BatchReply.put_last`) waits until all else is
answered, and then the last replies, the array and the first events go into
the out-queue in this order, in one step of the loop.
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeAlias

__all__ = ['BatchReply', 'Last']

#: Answers its item, and returns the frames that follow the array.
Last: TypeAlias = Callable[[], Iterable[bytes]]


class BatchReply:
    """What there is of the array, until its last item is there.

    ``add`` and ``forget``: any thread; ``put_last``: the loop's.
    ``post(run)`` has the loop run something.  ``_lock`` guards the rest.
    """

    __slots__ = ('_enqueue', '_last', '_left', '_lock', '_post', '_texts')

    def __init__(self, expected: int,
                 post: Callable[[Callable[[], None]], object],
                 enqueue: Callable[[bytes], object]) -> None:
        self._post = post
        self._enqueue = enqueue
        self._lock = threading.Lock()
        self._left = expected
        self._texts: list[bytes] = []
        self._last: list[Last] = []

    def add(self, text: bytes) -> bytes | None:
        """Take one item's reply; the whole array with the last one."""
        with self._lock:
            self._texts.append(text)
            self._left -= 1
            if self._left:
                if self._left == len(self._last):
                    self._post(self._run_last)
                return None
        return b'[' + b','.join(self._texts) + b']'

    def put_last(self, run: Last) -> None:
        """Have ``run()`` called on the loop when all else is answered."""
        with self._lock:
            self._last.append(run)
            if self._left == len(self._last):
                self._post(self._run_last)

    def _run_last(self) -> None:
        with self._lock:
            last, self._last = self._last, []
        frames: list[bytes] = []
        for run in last:
            frames += run()
        for frame in frames:
            self._enqueue(frame)

    def forget(self) -> None:
        """An item's call was dropped: so is the connection."""
