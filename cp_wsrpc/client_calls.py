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
           True.  One with an idempotency key is queued again, ahead of
           all others, and then no failed attempt ends it: for 100 s
           from its first sending
resting    was refused unexecuted (busy, going away); sent again
           after a moment, up to three times
any        its deadline
=========  ====================================================
"""
from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

from .conversation import Conversation, PendingReply
from .errors import Busy, ConnectionLostError, RemoteError
from .idempotency import RESEND_WITHIN_S
from .messages import Failure, Result

__all__ = ['ClientCalls', 'MAX_RETRIES']

MAX_RETRIES = 3
RETRY_DELAY_S = 1.0
MAX_QUEUED = 1000
MAX_QUEUED_BYTES = 16 << 20


class _Keyed:
    """What is known of a call with an idempotency key.

    ``in_doubt``: a connection was lost with it; it may have run.
    """

    __slots__ = ('_sent_at', '_sent_at_wall', 'in_doubt')

    def __init__(self) -> None:
        self.in_doubt = False
        self._sent_at: float | None = None
        self._sent_at_wall = 0.0

    @property
    def was_sent(self) -> bool:
        return self._sent_at is not None

    def note_sent(self) -> None:
        """Remember the first time."""
        if self._sent_at is None:
            self._sent_at = time.monotonic()
            self._sent_at_wall = time.time()

    @property
    def is_fresh(self) -> bool:
        """Whether the server surely knows the key, if it ever came.

        By both clocks: the monotonic one may stand still while the machine
        sleeps, the other one may be set.
        """
        assert self._sent_at is not None
        return max(time.monotonic() - self._sent_at,
                   time.time() - self._sent_at_wall) < RESEND_WITHIN_S


class ClientCalls(Conversation):
    """Pending calls by what has become of them.

    Any thread may call everything but ``retry_delay`` (the loop's).
    ``_lock`` guards ``_queue`` and ``_resting``, too.  ``_queue`` holds
    replies (their ``text`` is the request) and, for notifications, plain
    texts.
    """

    __slots__ = ('_keyed', '_queue', '_queued_bytes', '_resting',
                 '_retries')

    def __init__(self, ids: itertools.count[int],
                 max_pending: int = 10_000) -> None:
        super().__init__(ids, max_pending)
        self._queue: list[PendingReply | bytes] = []
        self._resting: set[PendingReply] = set()
        self._queued_bytes = 0
        self._retries: dict[Any, int] = {}
        self._keyed: dict[PendingReply, _Keyed] = {}

    def check_open(self) -> None:
        """Raise ConnectionLostError once it has ended."""
        with self._lock:
            if self._ended is not None:
                raise ConnectionLostError(str(self._ended),
                                          maybe_executed=False)

    # -- calls that may be sent again --------------------------------------

    def mark_keyed(self, reply: PendingReply) -> None:
        """It has an idempotency key: it survives its connection."""
        self._keyed[reply] = _Keyed()
        reply.watch(self._forget_key)

    def _forget_key(self, reply: PendingReply) -> None:
        self._keyed.pop(reply, None)

    def note_sent(self, reply: PendingReply) -> None:
        """To be called before a keyed call is given to a socket, and in
        one step with the look whether there is one: ``lose_sent`` leaves
        alone what was not noted, for it is about to be queued."""
        keyed = self._keyed.get(reply)
        if keyed is not None:
            keyed.note_sent()

    def is_keyed(self, reply: PendingReply) -> bool:
        return reply in self._keyed

    def settle(self, message: Result | Failure) -> bool:
        if isinstance(message, Failure) and _leaves_doubt(message.error):
            reply = self._pending.get(message.id)
            keyed = self._keyed.get(reply) if reply is not None else None
            if reply is not None and keyed is not None and keyed.in_doubt:
                # This time it was not executed, or nobody knows; the first
                # time, maybe.
                self._remove(message.id)
                return reply.fail(ConnectionLostError(
                    f'{reply.name}: the connection was lost; sent again it '
                    f'was refused ({message.error}); it may have run',
                    maybe_executed=True))
        return super().settle(message)

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
        stale = []
        with self._lock:
            self._drop_settled()
            queue, self._queue = self._queue, []
            self._queued_bytes = 0
            for item in queue:
                keyed = (None if isinstance(item, bytes)
                         else self._keyed.get(item))
                if keyed is not None:
                    if keyed.was_sent and not keyed.is_fresh:
                        stale.append(item)
                    keyed.note_sent()
            for item in stale:
                assert isinstance(item, PendingReply)
                queue.remove(item)
                self._discard(item.id)
        for item in stale:
            assert isinstance(item, PendingReply)
            item.fail(_lost_error(item, 'the connection was lost'))
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
        lost = []
        again: list[PendingReply | bytes] = []
        with self._lock:
            kept = {item.id for item in (*self._queue, *self._resting)
                    if not isinstance(item, bytes)}
            for id, reply in self._pending.items():
                keyed = self._keyed.get(reply)
                if id in kept or (keyed is not None
                                  and not keyed.was_sent):
                    continue
                if keyed is not None and keyed.is_fresh:
                    keyed.in_doubt = True
                    again.append(reply)
                else:
                    lost.append(reply)
            for reply in lost:
                self._discard(reply.id)
            self._queue[:0] = again
            self._queued_bytes += sum(len(_text_of(item)) for item in again)
        for reply in lost:
            reply.fail(_lost_error(reply, why))

    def reject_queued(
            self, error_for: Callable[[str], ConnectionLostError],
            is_final: bool = False) -> None:
        """No connection came of it: fail what waited for one.

        ``error_for(name)``: an error for each, since each is raised.
        ``is_final``: there will be no other, so also what is in doubt.
        """
        def must_wait(item: PendingReply) -> bool:
            keyed = self._keyed.get(item)
            return (keyed is not None and keyed.in_doubt
                    and keyed.is_fresh and not is_final)

        with self._lock:
            rejected = [item for item in (*self._queue, *self._resting)
                        if not isinstance(item, bytes)
                        and not must_wait(item)]
            self._queue = [item for item in self._queue
                           if not isinstance(item, bytes)
                           and must_wait(item)]
            self._resting.difference_update(rejected)
            self._drop_settled()        # counts the bytes, too
            for reply in rejected:
                self._discard(reply.id)
        for reply in rejected:
            keyed = self._keyed.get(reply)
            error = error_for(reply.name)
            reply.fail(_lost_error(reply, str(error))
                       if keyed is not None and keyed.in_doubt else error)


def _leaves_doubt(error: RemoteError) -> bool:
    return not error.executed or (isinstance(error.data, dict)
                                  and error.data.get('maybeExecuted') is True)


def _lost_error(reply: PendingReply, why: str) -> ConnectionLostError:
    return ConnectionLostError(
        f'{reply.name}: {why} before the answer came; it may have run',
        maybe_executed=True)


def _text_of(item: PendingReply | bytes) -> bytes:
    return item if isinstance(item, bytes) else item.text
