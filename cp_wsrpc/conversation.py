"""One end of a dialogue: ids, pending calls, deadlines.  Layer 2, no I/O.

The server's peers and the Python client each hold a :class:`Conversation`.
It answers two questions: which of *our* calls is this reply for, and is a
call with this id of *theirs* already running.

::

    reply = conversation.open_call('whoAreYou', timeout_s=5.0)
    ... send reply.id, wait for the wire ...
    conversation.settle(Result(id=2, value=b'"Firefox"'))
    reply.result()            # 'Firefox'

A :class:`PendingReply` is settled exactly once: by a reply, by an error, by
its deadline (``expire``), or by the end of the connection (``close``).
"""
from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec

from .errors import (Busy, CallTimeout, ConnectionLostError, RemoteError)
from .messages import Call, Failure, Result

__all__ = ['Conversation', 'PendingReply', 'blocking', 'server_ids']

log = logging.getLogger('cp_wsrpc.conversation')

#: Ids of all that servers of this process say unasked: even, from 2, one
#: counter for all connections, so that a push is encoded once for all
#: (WSRPC peers use odd ones).  ``next`` on it is atomic.
server_ids = itertools.count(2, 2)

#: Guards the moment of settling of every reply of the process: a few
#: attribute writes, never a call out.
_settling = threading.Lock()


class _Blocking(threading.local):
    """What a thread must do around a wait for a reply.

    ``guard()`` returns a context manager.  Workers set one that lends
    their place in the pool to a spare thread; the loop's thread one that
    raises, since nothing may wait there.  Other threads just wait.
    ``lend`` is the pool's own part of a worker's guard (``workers``), to
    which ``invocation`` adds turns and sessions.  ``awaiting`` is how a
    task of the thread's loop waits.
    """

    guard: Callable[[], AbstractContextManager[Any]] = \
        staticmethod(nullcontext)
    lend: Callable[[], AbstractContextManager[Any]] = \
        staticmethod(nullcontext)

    awaiting: Callable[[PendingReply], Generator[Any, None, None]] = \
        staticmethod(lambda reply: reply.until_done())


blocking = _Blocking()


class PendingReply:
    """What ``connection.call(...)`` returns: the answer that is to come.

    From a worker or any other thread::

        name = connection.call('whoAreYou').result(timeout=5)

    From an ``async def`` method::

        name = await connection.call('whoAreYou')

    From a nonblocking method: give ``callback=`` to the call, or return
    the reply, whose value then is the method's result.
    """

    __slots__ = ('id', 'name', 'deadline', 'timeout_s', 'text', '_value',
                 '_result', '_error', '_done', '_decoded', '_watchers')

    def __init__(self, id: Any, name: str, timeout_s: float | None = None,
                 deadline: float | None = None) -> None:
        self.id = id
        self.name = name
        self.timeout_s = timeout_s
        self.deadline = deadline
        self.text = b''         # what was, or will be, sent (the client's)
        self._value: Any = None         # JSON text
        self._result: Any = None        # the same, decoded
        self._error: BaseException | None = None
        self._done = False
        self._decoded = False
        self._watchers: list[Callable[[PendingReply], None]] | None = None

    def __repr__(self) -> str:
        state = ('pending' if not self._done else
                 'failed' if self._error is not None else 'done')
        return f'<PendingReply {self.name!r} id={self.id!r} {state}>'

    @property
    def done(self) -> bool:
        """Whether it is settled, one way or the other."""
        return self._done

    def result(self, timeout: float | None = None) -> Any:
        """The value that the peer's function returned; waits for it.

        ``timeout``: seconds to wait here; None: until the call's own
        deadline (30 s unless ``call(timeout=)`` said otherwise).

        Raises RemoteError if the function raised, CallTimeout,
        ConnectionLostError, Busy if too many workers wait already, and
        WrongThread on the loop's thread, where it would wait for itself.
        """
        if not self._done:
            with blocking.guard():
                self._wait(timeout)
        return self._take()

    def exception(self, timeout: float | None = None,
                  ) -> BaseException | None:
        """The error in which it ended, or None; waits as ``result``."""
        if not self._done:
            with blocking.guard():
                self._wait(timeout)
        try:
            self._take()
        except Exception as error:      # it is the result asked for
            return error
        return None

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._done:
            yield from blocking.awaiting(self)
        return self._take()

    def until_done(self) -> Generator[Any, None, None]:
        """Wait in a task of asyncio, whichever thread settles it."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake(_: PendingReply) -> None:
            try:
                loop.call_soon_threadsafe(_set_unless_done, waiter)
            except RuntimeError:
                # The loop was closed meanwhile; the task that waited
                # is gone with it.
                log.debug('nobody waits for %r any more', self)

        self.watch(wake)
        yield from waiter

    def watch(self, watcher: Callable[[PendingReply], None]) -> None:
        """Have ``watcher(reply)`` called once, when it is settled.

        In the thread that settles it, or at once in this one if it is
        settled already.  For code of ours, which must not wait or raise.
        """
        with _settling:
            if not self._done:
                if self._watchers is None:
                    self._watchers = []
                self._watchers.append(watcher)
                return
        watcher(self)

    def succeed(self, value: Any) -> bool:
        """Settle with JSON text; False if it was settled before."""
        return self._settle(value, None)

    def fail(self, error: BaseException) -> bool:
        """Settle with an exception; False if it was settled before."""
        return self._settle(None, error)

    def _settle(self, value: Any, error: BaseException | None) -> bool:
        with _settling:
            if self._done:
                return False
            self._value = value
            self._error = error
            self._done = True
            watchers, self._watchers = self._watchers, None
        for watcher in watchers or ():
            watcher(self)
        return True

    def _wait(self, timeout: float | None) -> None:
        # Released once: an Event, of three objects, takes 3 us more.
        settled = threading.Lock()
        settled.acquire()

        def wake(_: PendingReply) -> None:
            settled.release()

        self.watch(wake)
        if not settled.acquire(
                timeout=-1 if timeout is None else max(timeout, 0)):
            with _settling:
                if self._watchers is not None and wake in self._watchers:
                    self._watchers.remove(wake)
            raise CallTimeout(
                f'no answer from {self.name}() within {timeout} s')

    def _take(self) -> Any:
        error = self._error
        if error is not None:
            # Each waiter gets a traceback of its own.
            raise error.with_traceback(None)
        if not self._decoded:
            # Two threads may do this at once, so the text is left alone.
            try:
                self._result = msgspec.json.decode(self._value)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                raise RemoteError(
                    f'the answer of {self.name}() cannot be decoded'
                ) from None
            self._decoded = True
        return self._result


def _set_unless_done(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Conversation:
    """Calls in flight, both ways, of one connection.

    ``open_call``, ``settle``, ``expire`` and ``close`` may be called from
    any thread.  ``_lock`` guards ``_pending``, ``_by_timeout`` and
    ``_ended``; replies are settled outside of it.
    """

    __slots__ = ('_ids', '_max_pending', '_pending', '_by_timeout',
                 '_ended', '_lock', 'running', 'ignored_replies')

    def __init__(self, ids: itertools.count[int] = server_ids,
                 max_pending: int = 1024) -> None:
        self._ids = ids
        self._max_pending = max_pending
        self._pending: dict[Any, PendingReply] = {}
        # Replies by their timeout, oldest first: within one timeout the
        # first to come is the first to expire, so a look for late ones
        # reads one entry per timeout, not all that are pending.
        self._by_timeout: dict[float, dict[Any, PendingReply]] = {}
        self._ended: ConnectionLostError | None = None
        self._lock = threading.Lock()
        #: Calls of the peer that are not yet answered, by id.  The loop's
        #: thread adds; whoever answers removes (dict operations, atomic).
        self.running: dict[Any, Call] = {}
        #: Answers that nobody waited for: unknown, late or doubled ids.
        self.ignored_replies = 0

    def __len__(self) -> int:
        return len(self._pending)

    def open_call(self, name: str, timeout_s: float | None = 30.0,
                  now: float | None = None) -> PendingReply:
        """A reply to wait for, with the id to send the call under.

        ``timeout_s`` None or 0: no limit.  Raises ConnectionLostError once
        the connection is gone (nothing was executed), Busy above
        ``max_pending`` (1 024: a peer that never answers must not fill our
        memory, threats C11).
        """
        reply = PendingReply(next(self._ids), name)
        if timeout_s:
            reply.timeout_s = timeout_s
            reply.deadline = (time.monotonic() if now is None
                              else now) + timeout_s
        with self._lock:
            if self._ended is not None:
                raise ConnectionLostError(str(self._ended),
                                          maybe_executed=False)
            if len(self._pending) >= self._max_pending:
                raise Busy(f'{self._max_pending} calls wait for this peer')
            self._pending[reply.id] = reply
            if timeout_s:
                self._by_timeout.setdefault(timeout_s, {})[reply.id] = reply
        return reply

    def settle(self, message: Result | Failure) -> bool:
        """Give a reply to whom it belongs; False (counted) if nobody."""
        reply = self._remove(message.id)
        if reply is None:
            self.ignored_replies += 1
            return False
        if isinstance(message, Result):
            return reply.succeed(message.value)
        return reply.fail(message.error)

    def abandon(self, reply: PendingReply) -> None:
        """Forget a call that could not be sent."""
        self._remove(reply.id)

    def expire(self, now: float) -> float | None:
        """Fail what is late; the next deadline, or None."""
        if not self._by_timeout:    # whoever adds has us look again
            return None
        late = []
        nearest: float | None = None
        with self._lock:
            for replies in self._by_timeout.values():
                for reply in replies.values():
                    assert reply.deadline is not None
                    if reply.deadline > now:
                        if nearest is None or reply.deadline < nearest:
                            nearest = reply.deadline
                        break
                    late.append(reply)
            for reply in late:
                self._discard(reply.id)
        for reply in late:
            reply.fail(CallTimeout(
                f'no answer from {reply.name}() within {reply.timeout_s} s'))
        return nearest

    def close(self, error: ConnectionLostError) -> None:
        """Fail all that is pending, at once, and all that is to come."""
        with self._lock:
            self._ended = error
            pending = list(self._pending.values())
            self._pending.clear()
            self._by_timeout.clear()
        for reply in pending:
            reply.fail(ConnectionLostError(str(error),
                                           error.maybe_executed))

    def _remove(self, id: Any) -> PendingReply | None:
        if type(id) is not int:         # ours all are; True == 1 is not
            return None
        with self._lock:
            return self._discard(id)

    def _discard(self, id: Any) -> PendingReply | None:
        assert self._lock.locked()
        reply = self._pending.pop(id, None)
        if reply is not None and reply.timeout_s:
            of_timeout = self._by_timeout.get(reply.timeout_s)
            if of_timeout is not None:
                of_timeout.pop(id, None)
                if not of_timeout:
                    del self._by_timeout[reply.timeout_s]
        return reply
