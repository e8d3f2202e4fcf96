"""``async def`` methods as tasks of the loop.  Layer 3.

A task for each call would cost more than most methods: 4 us of 8.6.  So a
task runs calls one after the other for as long as they do not wait; one
that waits keeps the task as its own, and those behind it get another::

    start(a), start(b), start(c)        -> task 1
    task 1:  a returns; b awaits        -> b has task 1 from here on
    task 2:  c returns; nothing is left -> it ends

Each call has a context of its own, and what it asks of its task
(``asyncio.timeout``, ``current_task``, ``cancel``) is asked of one that
runs no other call, once it has waited, or has left a trace of the task
somewhere: a reference, also a weak one, or a callback.  A ``cancel()``
that comes late must not hit the call of somebody else, nor what is kept
by task be his, and a callback is due when its own call has ended.
"""
from __future__ import annotations

import asyncio
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from .messages import Call

__all__ = ['Coroutines']

Run: TypeAlias = 'Callable[[Call], Coroutine[Any, Any, Any]]'
#: Called with the call, when it was started, and what it raised or None.
Done: TypeAlias = 'Callable[[Call, float, BaseException | None], object]'

#: Calls that do not wait are run one after the other this long, seconds;
#: then the loop's sockets have their turn.
_TURN_S = 0.005


class Coroutines:
    """Those of one loop; all of it belongs to the loop's thread.

    ``context``     is copied for each call
    ``now``         the clock
    ``begin_step``  called with the call's name before each step of it
    ``end_step``    and after the step, with when that began
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context,
                 now: Callable[[], float],
                 begin_step: Callable[[str], object],
                 end_step: Callable[[float], object]) -> None:
        self._loop = loop
        self._context = context
        self._now = now
        self._begin_step = begin_step
        self._end_step = end_step
        self._waiting: deque[tuple[Run, Call, Done, float]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_due = False        # a task is to look at _waiting

    def start(self, run: Run, call: Call, done: Done) -> None:
        """Run ``run(call)`` soon; ``done`` is told when it has ended."""
        self._waiting.append((run, call, done, self._now()))
        if not self._is_due:
            self._add_task()

    def cancel_all(self, timeout_s: float) -> None:
        """Cancel what still runs, and give it a moment to end.

        For when the loop has been stopped; what has not begun never does.
        """
        self._waiting.clear()
        tasks = [task for task in self._tasks if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(
                asyncio.wait(tasks, timeout=timeout_s))

    def _add_task(self) -> None:
        self._is_due = True
        self._tasks.add(self._loop.create_task(self._run()))

    async def _run(self) -> None:
        """One task: calls that return at once, until one has waited."""
        task = asyncio.current_task()
        assert task is not None
        waiting, ends = self._waiting, self._now() + _TURN_S
        self._is_due = False
        references = sys.getrefcount(task)
        weak_references = weakref.getweakrefcount(task)
        try:
            while waiting:
                run, call, done, begun = waiting.popleft()
                error: BaseException | None = None
                try:
                    is_own = (await self._drive(run(call), call.name)
                              or task.cancelling() > 0
                              or sys.getrefcount(task) > references
                              or weakref.getweakrefcount(task)
                              > weak_references
                              or task._callbacks is not None)
                except BaseException as raised:     # told to done()
                    error, is_own = raised, True
                done(call, begun, error)
                if isinstance(error, asyncio.CancelledError):
                    raise error
                if is_own or self._now() > ends:
                    break
        finally:
            self._tasks.discard(task)
            self._leave_rest()

    def _leave_rest(self) -> None:
        """Have another task run what waits."""
        if self._waiting and not self._is_due:
            self._add_task()

    @types.coroutine
    def _drive(self, coroutine: Coroutine[Any, Any, Any], name: str,
               ) -> Generator[Any, Any, bool]:
        """Run a coroutine in a context of its own; whether it has waited.

        Every step is timed: asyncio itself tells of slow ones only in its
        debug mode.
        """
        enter = self._context.copy().run
        step: Callable[..., Any] = coroutine.send
        value: Any = None
        has_waited = False
        while True:
            begun = self._now()
            self._begin_step(name)
            try:
                awaited = enter(step, value)
            except StopIteration:
                return has_waited
            finally:
                self._end_step(begun)
            if not has_waited:
                has_waited = True
                self._leave_rest()
            try:
                value = yield awaited
                step = coroutine.send
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:      # cancelled: it is told
                step, value = coroutine.throw, error
