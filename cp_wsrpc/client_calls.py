"""The client's calls: sent ones, and those that wait.  Layer 3, no I/O.

A :class:`~cp_wsrpc.conversation.Conversation` that outlives its
connections.  What is lost with one fails; what was never given to the
socket is kept for the next (design.md, 4).

=========  ====================================================
state      what ends it
=========  ====================================================
queued     sent at the (re)connect; fails with the next failed
           attempt, ``maybe_executed`` False
sent       its reply; fails with the connection, ``maybe_executed``
           True
resting    was refused unexecuted (busy, going away); sent again
           after a moment, up to three times
any        its deadline
=========  ====================================================
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from .conversation import Conversation, PendingReply
from .errors import Busy, ConnectionLostError, RemoteError

__all__ = ['ClientCalls', 'MAX_RETRIES']

MAX_RETRIES = 3
RETRY_DELAY_S = 1.0
MAX_QUEUED = 1000
MAX_QUEUED_BYTES = 16 << 20


class ClientCalls(Conversation):
    """Pending calls by what has become of them.

    Any thread may call everything but ``retry_delay`` (the loop's).
    ``_lock`` guards ``_queue`` and ``_resting``, too.  ``_queue`` holds
    replies (their ``text`` is the request) and, for notifications, plain
    texts.
    """

    __slots__ = ('_queue', '_queued_bytes', '_resting', '_retries')

    def __init__(self, ids: itertools.count[int],
                 max_pending: int = 10_000) -> None:
        super().__init__(ids, max_pending)
        self._queue: list[PendingReply | bytes] = []
        self._resting: set[PendingReply] = set()
        self._queued_bytes = 0
        self._retries: dict[Any, int] = {}

    def check_open(self) -> None:
        """Raise ConnectionLostError once it has ended."""
        with self._lock:
            if self._ended is not None:
                raise ConnectionLostError(str(self._ended),
                                          maybe_executed=False)

    # -- the queue ---------------------------------------------------------

    def enqueue(self, item: PendingReply | bytes) -> None:
        """Keep it until there is a connection; Busy when too many wait."""
        size = len(_text_of(item))
        with self._lock:
            if len(self._queue) >= MAX_QUEUED:
                self._drop_settled()
            if len(self._queue) >= MAX_QUEUED:
                raise Busy(f'{MAX_QUEUED} calls already wait for the '
                           'connection')
            if self._queued_bytes + size > MAX_QUEUED_BYTES:
                raise Busy(f'{MAX_QUEUED_BYTES} bytes already wait for the '
                           'connection')
            self._queue.append(item)
            self._queued_bytes += size

    def take_queue(self) -> list[bytes]:
        """The texts to send now, in order; the queue is empty then."""
        with self._lock:
            self._drop_settled()
            queue, self._queue = self._queue, []
            self._queued_bytes = 0
        return [_text_of(item) for item in queue]

    def _drop_settled(self) -> None:
        assert self._lock.locked()
        self._queue = [item for item in self._queue
                       if isinstance(item, bytes) or not item.done]
        self._queued_bytes = sum(len(_text_of(item)) for item in self._queue)

    # -- deadlines ---------------------------------------------------------

    def start_clocks(self, timeouts_s: Mapping[PendingReply, float],
                     now: float) -> None:
        """Count from now: these were made before the first connect."""
        with self._lock:
            for reply, timeout_s in timeouts_s.items():
                if reply.done or reply.id not in self._pending:
                    continue
                reply.timeout_s = timeout_s
                reply.deadline = now + timeout_s
                self._by_timeout.setdefault(timeout_s, {})[reply.id] = reply

    # -- refusals that may pass --------------------------------------------

    def retry_delay(self, id: Any, error: RemoteError, now: float,
                    random: float) -> tuple[PendingReply, float] | None:
        """(the call to send again, after how many seconds), or None.

        For a call that the server says it has not run, at most three
        times and only within its own time.  It stays pending, under its
        id (the server has done with that), and rests until ``wake``.
        """
        if error.executed or not error.retryable:
            return None
        with self._lock:
            reply = self._pending.get(id)
            if reply is None:
                return None
            tries = self._retries.pop(id, 0)
            delay_s = random * RETRY_DELAY_S * 2.0 ** tries
            if tries >= MAX_RETRIES or (reply.deadline is not None
                                        and now + delay_s >= reply.deadline):
                return None
            if len(self._retries) > self._max_pending:
                self._retries.clear()   # of calls that have ended since
            self._retries[id] = tries + 1
            self._resting.add(reply)
        return reply, delay_s

    def wake(self, reply: PendingReply) -> bool:
        """Whether a resting call is still to be sent."""
        with self._lock:
            if reply not in self._resting:
                return False
            self._resting.remove(reply)
        return not reply.done

    # -- ends --------------------------------------------------------------

    def lose_sent(self, why: str) -> None:
        """The connection has gone: fail what was given to it.

        A call that is just on its way into the queue, on another thread,
        counts as sent: ``maybe_executed`` then says too much, never too
        little.
        """
        with self._lock:
            kept = {item.id for item in (*self._queue, *self._resting)
                    if not isinstance(item, bytes)}
            lost = [reply for id, reply in self._pending.items()
                    if id not in kept]
            for reply in lost:
                self._discard(reply.id)
        for reply in lost:
            reply.fail(ConnectionLostError(
                f'{reply.name}: {why} before the answer came; it may have '
                'run', maybe_executed=True))

    def reject_queued(
            self, error_for: Callable[[str], ConnectionLostError]) -> None:
        """No connection came of it: fail what waited for one.

        ``error_for(name)``: an error for each, since each is raised.
        """
        with self._lock:
            rejected = [item for item in (*self._queue, *self._resting)
                        if not isinstance(item, bytes)]
            self._queue.clear()
            self._resting.clear()
            self._queued_bytes = 0
            for reply in rejected:
                self._discard(reply.id)
        for reply in rejected:
            reply.fail(error_for(reply.name))


def _text_of(item: PendingReply | bytes) -> bytes:
    return item if isinstance(item, bytes) else item.text
