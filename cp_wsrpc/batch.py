"""The array that answers a batch.  Layer 1.

Items end on different threads, in any order; :class:`BatchReply` stands at
``call.batch`` of each.  Who joins a topic in a batch must not get an event
before the array that tells him so, however slow another item is: so what
begins with the reply (:meth:`BatchReply.put_last`) waits until all else is
answered, and all of that is ready; then the last replies, the array and the
first events go into the out-queue in this order, in one step of the loop.
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from .dialects import JSONRPC
from .errors import ResponseTooBig

__all__ = ['BatchReply', 'Last']


class _Reply(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b'null')


#: A reply no larger than this is not worth an error in its place.
_SMALL_BYTES = 512

_decode_reply = msgspec.json.Decoder(_Reply).decode


class Last(NamedTuple):
    """What answers its item when all others are answered.

    ``run()``       does it, and returns the frames that follow the array
    ``is_ready()``  False: ``run()`` cannot yet, and has it put in again
    """

    run: Callable[[], Iterable[bytes]]
    is_ready: Callable[[], bool] = lambda: True


class BatchReply:
    """What there is of the array, until its last item is there.

    ``add`` and ``forget``: any thread; ``put_last``: the loop's.
    ``post(run)`` has the loop run something.  ``_lock`` guards the rest.

    ``max_bytes``: of the whole array, 4 MiB.  What does not fit in any more
    becomes an error: each item alone may have as much as that, and 100 of
    them went out as one message of 180 MB.  Not what is no larger than an
    error, nor a ``Last``: who is told so has joined all the same.
    """

    __slots__ = ('_enqueue', '_last', '_left', '_lock', '_max_bytes',
                 '_only_last', '_post', '_texts', 'held', 'size')

    def __init__(self, expected: int,
                 post: Callable[[Callable[[], None]], object],
                 enqueue: Callable[[bytes], object],
                 max_bytes: int = 4 << 20) -> None:
        self._max_bytes = max_bytes
        #: bytes of what is there of it
        self.size = 0
        #: bytes that wait for ``run`` of a ``Last``; the loop's thread writes
        self.held = 0
        self._post = post
        self._enqueue = enqueue
        self._lock = threading.Lock()
        self._left = expected
        self._texts: list[bytes] = []
        self._last: list[Last] = []
        self._only_last = False         # all other items are answered

    def add(self, text: bytes) -> bytes | None:
        """Take one item's reply; the whole array with the last one."""
        if not self._takes(text):
            text = _too_big(text)
        with self._lock:
            self._texts.append(text)
            self._left -= 1
            if self._left:
                if self._left == len(self._last):
                    self._post(self._run_last)
                return None
        return b'[' + b','.join(self._texts) + b']'

    def _takes(self, text: bytes) -> bool:
        """Whether it goes out as it is; then it has been counted."""
        with self._lock:
            if (self.size + self.held + len(text) > self._max_bytes
                    and len(text) > _SMALL_BYTES and not self._only_last):
                return False
            self.size += len(text)
            return True

    def put_last(self, last: Last) -> None:
        """Have it run on the loop when all else is answered."""
        with self._lock:
            self._last.append(last)
            if self._left == len(self._last):
                self._post(self._run_last)

    def _run_last(self) -> None:
        self._only_last = True
        # The loop alone changes _last.  Who is ready waits for who is not:
        # his first event would come before the array.
        late = [last for last in self._last if not last.is_ready()]
        due = late or self._last
        with self._lock:
            self._last = [last for last in self._last if last not in due]
        frames: list[bytes] = []
        for last in due:
            frames += last.run()
        for frame in frames:
            self._enqueue(frame)

    def forget(self) -> None:
        """An item's call was dropped: so is the connection."""


def _too_big(text: bytes) -> bytes:
    """What answers in place of a reply, under the same id."""
    error = ResponseTooBig('the results of this batch are too large together')
    return JSONRPC.encode_failure(_decode_reply(text).id, error.code,
                                  error.message)
