"""The running call is found in its context and nowhere else."""
from __future__ import annotations

import asyncio
import threading
from contextvars import Context, copy_context
from typing import Any

import pytest

from cp_wsrpc.current import (
    Cell,
    cell,
    running_call,
    running_connection,
)
from cp_wsrpc.errors import NoConnection
from cp_wsrpc.messages import Call


def call(name: str) -> Call:
    return Call(1, name, None, None, connection=f'connection of {name}')


def context_for(call: Call) -> Context:
    """A context in which ``call`` is the running one."""
    context = copy_context()
    context.run(cell.set, Cell(call))
    return context


@pytest.mark.parametrize('ask', [running_call, running_connection])
def test_outside_of_a_call_it_says_where_to_take_it(ask: Any) -> None:
    with pytest.raises(NoConnection, match='inside the method'):
        ask()


@pytest.mark.parametrize('ask', [running_call, running_connection])
def test_an_empty_cell_is_no_call(ask: Any) -> None:
    context = context_for(call('f'))
    context.run(cell.set, Cell())
    with pytest.raises(NoConnection):
        context.run(ask)


def test_a_context_has_its_call_and_leaves_none_behind() -> None:
    one, other = call('one'), call('other')
    assert context_for(one).run(running_call) is one
    assert context_for(other).run(running_connection) == \
        'connection of other'
    with pytest.raises(NoConnection):
        running_call()


def test_a_thread_changes_its_call_by_one_attribute() -> None:
    def worker() -> list[str]:
        mine = Cell()
        cell.set(mine)
        names = []
        for name in ('one', 'other'):
            mine.call = call(name)
            names.append(running_call().name)
        mine.call = None
        with pytest.raises(NoConnection):
            running_call()
        return names

    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(worker()))
    thread.start()
    thread.join(5)
    assert seen == [['one', 'other']]


def test_a_thread_started_by_a_method_has_no_call() -> None:
    seen: list[Any] = []

    def look() -> None:
        with pytest.raises(NoConnection):
            running_call()
        seen.append(True)

    def method() -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(5)

    context_for(call('f')).run(method)
    assert seen == [True]


def test_tasks_share_the_call_of_the_method_that_started_them() -> None:
    async def child() -> str:
        await asyncio.sleep(0)
        return running_call().name

    async def method() -> list[str]:
        return list(await asyncio.gather(child(), child()))

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(method(), context=context_for(call(name)))
                 for name in ('one', 'other')]
        return [await task for task in tasks]

    assert asyncio.run(main()) == [['one', 'one'], ['other', 'other']]
