"""Async methods as tasks: real loops of asyncio and uvloop."""
from __future__ import annotations

import asyncio
import contextvars
import gc
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from cp_wsrpc import coroutines
from cp_wsrpc.coroutines import Coroutines
from cp_wsrpc.messages import Call

word: contextvars.ContextVar[str] = contextvars.ContextVar('word')

LOOPS = {'asyncio': asyncio.SelectorEventLoop, 'uvloop': uvloop.Loop}


class Calls:
    """A loop, what it was given to run, and what became of each."""

    def __init__(self, make_loop: Callable[[], Any]) -> None:
        self.loop = make_loop()
        self.ended: dict[str, BaseException | None] = {}
        self.order: list[str] = []
        self.steps: list[str] = []
        self.tasks: dict[str, str] = {}     # the names of theirs
        self.progress = asyncio.Event()
        self.coroutines = Coroutines(
            self.loop, contextvars.copy_context(), time.monotonic,
            self.steps.append, lambda begun: None)

    def start(self, name: str, function: Callable[[], Any]) -> None:
        async def run(call: Call) -> None:
            # Itself is not to be kept, see there.
            self.tasks[name] = asyncio.current_task().get_name()
            await function()

        self.coroutines.start(run, Call(1, name, None, None), self._note)

    def task(self, name: str) -> asyncio.Task[None]:
        """That of a call which waits."""
        task, = (task for task in asyncio.all_tasks(self.loop)
                 if task.get_name() == self.tasks[name])
        return task

    def _note(self, call: Call, begun: float,
              error: BaseException | None) -> None:
        self.ended[call.name] = error
        self.order.append(call.name)
        self.progress.set()

    def run_until_ended(self, *names: str) -> None:
        async def wait() -> None:
            async with asyncio.timeout(5):
                while not set(names) <= set(self.ended):
                    self.progress.clear()
                    await self.progress.wait()

        self.loop.run_until_complete(wait())


@pytest.fixture(params=LOOPS)
def calls(request: pytest.FixtureRequest) -> Iterator[Calls]:
    calls = Calls(LOOPS[request.param])
    yield calls
    calls.coroutines.cancel_all(1)
    calls.loop.close()


async def at_once() -> None:
    pass


def test_calls_that_do_not_wait_share_a_task(calls):
    for name in 'abc':
        calls.start(name, at_once)
    calls.run_until_ended('a', 'b', 'c')
    assert calls.order == ['a', 'b', 'c']
    assert len(set(calls.tasks.values())) == 1


def test_who_keeps_his_task_and_cancels_it_late_hits_no_other_call(calls):
    kept = []

    async def keep() -> None:
        kept.append(asyncio.current_task())

    async def cancel_late() -> None:
        kept[0].cancel()
        await asyncio.sleep(0)

    calls.start('keeps', keep)
    calls.start('waits', asyncio.Event().wait)
    calls.start('cancels', cancel_late)
    calls.run_until_ended('keeps', 'cancels')
    assert 'waits' not in calls.ended
    assert calls.tasks['waits'] != calls.tasks['keeps']


def test_a_call_that_waits_holds_nobody_up_and_keeps_its_task(calls):
    gate = asyncio.Event()
    calls.start('a', at_once)
    calls.start('waits', gate.wait)
    calls.start('b', at_once)
    calls.start('c', at_once)
    calls.run_until_ended('a', 'b', 'c')
    assert 'waits' not in calls.ended
    assert calls.tasks['waits'] != calls.tasks['b']
    assert calls.tasks['b'] == calls.tasks['c']
    calls.start('later', at_once)
    calls.run_until_ended('later')
    assert calls.tasks['later'] != calls.tasks['waits']
    gate.set()
    calls.run_until_ended('waits')
    assert calls.ended['waits'] is None


def test_what_is_behind_one_that_waited_is_run_by_another(calls):
    # Started while the waiting one is the only task there is.
    gate = asyncio.Event()
    calls.start('waits', gate.wait)

    async def add_and_open() -> None:
        calls.start('behind', at_once)
        gate.set()

    calls.start('opens', add_and_open)
    calls.run_until_ended('waits', 'opens', 'behind')
    assert calls.tasks['behind'] != calls.tasks['waits']


def test_each_has_a_context_of_its_own_through_all_its_steps(calls):
    seen = {}

    def setting(name: str) -> Callable[[], Any]:
        async def run() -> None:
            seen[name, 'before'] = word.get(None)
            word.set(name)
            await asyncio.sleep(0)
            seen[name, 'after'] = word.get()
        return run

    async def look() -> None:
        seen['look'] = word.get(None)

    for name in 'abc':
        calls.start(name, setting(name))
    calls.start('look', look)
    calls.run_until_ended('a', 'b', 'c', 'look')
    assert seen == {
        **{(name, 'before'): None for name in 'abc'},
        **{(name, 'after'): name for name in 'abc'}, 'look': None}


def test_a_timeout_ends_its_own_call_alone(calls):
    outcome = []

    async def limited() -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            outcome.append('in time')

    calls.start('a', at_once)
    calls.start('limited', limited)
    calls.start('b', at_once)
    calls.run_until_ended('a', 'limited', 'b')
    assert outcome == ['in time']
    assert set(calls.ended.values()) == {None}


def test_one_that_cancels_itself_and_does_not_wait_harms_no_other(calls):
    async def cancel_self() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    calls.start('cancels', cancel_self)
    calls.start('next', lambda: asyncio.sleep(0))
    calls.run_until_ended('cancels', 'next')
    assert calls.ended == {'cancels': None, 'next': None}


def test_what_one_has_called_at_its_tasks_end_is_called_at_its_own(calls):
    ended = asyncio.Event()

    async def watch() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda task: ended.set())

    calls.start('watches', watch)
    calls.start('waits', ended.wait)    # for ever, were it the same task
    calls.run_until_ended('watches', 'waits')


def test_what_is_kept_by_task_is_not_the_next_calls(calls):
    sessions = weakref.WeakKeyDictionary()
    seen = []

    async def open_session() -> None:
        seen.append(sessions.setdefault(asyncio.current_task(), len(seen)))

    for name in 'abc':
        calls.start(name, open_session)
    calls.run_until_ended('a', 'b', 'c')
    assert seen == [0, 1, 2]


def test_a_fault_at_the_end_of_one_leaves_no_other_lying(calls):
    faults = []
    calls.loop.set_exception_handler(
        lambda loop, context: faults.append(str(context['exception'])))

    def fail(call: Call, begun: float, error: BaseException | None) -> None:
        raise LookupError('of ours')

    async def run(call: Call) -> None:
        pass

    calls.coroutines.start(run, Call(1, 'a', None, None), fail)
    calls.start('b', at_once)
    calls.run_until_ended('b')
    gc.collect()        # then asyncio tells of it
    assert faults == ['of ours']


def test_one_that_is_cancelled_is_told_so_and_the_rest_go_on(calls):
    calls.start('endless', lambda: asyncio.Event().wait())
    calls.start('a', at_once)
    calls.run_until_ended('a')
    calls.task('endless').cancel()
    calls.start('b', at_once)
    calls.run_until_ended('endless', 'b')
    assert isinstance(calls.ended['endless'], asyncio.CancelledError)
    assert calls.ended['b'] is None


def test_what_one_raises_is_told_and_the_next_is_run(calls):
    async def fail() -> None:
        raise OSError('no')

    calls.start('fails', fail)
    calls.start('next', at_once)
    calls.run_until_ended('fails', 'next')
    assert str(calls.ended['fails']) == 'no'
    assert calls.ended['next'] is None


def test_every_step_is_told_with_its_name(calls):
    calls.start('twice', lambda: asyncio.sleep(0))
    calls.run_until_ended('twice')
    assert calls.steps == ['twice', 'twice']


def test_a_long_row_of_calls_lets_the_loop_have_its_turn(calls, monkeypatch):
    monkeypatch.setattr(coroutines, '_TURN_S', -1.0)
    for name in 'abc':
        calls.start(name, at_once)
    calls.run_until_ended('a', 'b', 'c')
    assert len(set(calls.tasks.values())) == 3


def test_at_the_end_all_that_waits_is_cancelled_and_the_rest_not_begun(
        calls):
    calls.start('endless', lambda: asyncio.Event().wait())
    calls.start('a', at_once)
    calls.run_until_ended('a')
    calls.start('late', at_once)
    calls.coroutines.cancel_all(5)
    assert isinstance(calls.ended['endless'], asyncio.CancelledError)
    assert 'late' not in calls.tasks
