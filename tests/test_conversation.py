"""Every call settles exactly once, whoever gets there first."""
from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from cp_wsrpc.conversation import (
    Conversation,
    PendingReply,
    blocking,
    server_ids,
)
from cp_wsrpc.errors import (
    Busy,
    CallTimeout,
    ConnectionLostError,
    RemoteError,
    WrongThread,
)
from cp_wsrpc.messages import Failure, Result

DEADLINE_S = 5


@pytest.fixture
def conversation() -> Conversation:
    """One with ids of its own: 2, 4, 6, ..."""
    return Conversation(itertools.count(2, 2))


def in_threads(count: int, function: Callable[[], Any]) -> list[Any]:
    """What ``function`` returned or raised in each of ``count`` threads."""
    barrier = threading.Barrier(count)
    outcomes: list[Any] = []

    def run() -> None:
        barrier.wait(DEADLINE_S)
        try:
            outcomes.append(function())
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    return outcomes


# -- settling ----------------------------------------------------------------

@pytest.mark.parametrize(('text', 'value'), [
    (b'"Firefox"', 'Firefox'), (b'0', 0), (b'""', ''), (b'false', False),
    (b'[]', []), (b'null', None), (b'{"a":[1]}', {'a': [1]})])
def test_a_reply_gives_the_value_falsy_ones_too(
        text: bytes, value: Any, conversation: Conversation) -> None:
    reply = conversation.open_call('f')
    assert not reply.done
    assert conversation.settle(Result(reply.id, text))
    assert reply.done
    assert reply.result() == value
    assert reply.result() == value
    assert reply.exception() is None
    assert len(conversation) == 0


def test_a_failure_raises_what_the_peer_raised(
        conversation: Conversation) -> None:
    reply = conversation.open_call('f')
    error = RemoteError('no', code=-32000, type='TypeError')
    assert conversation.settle(Failure(reply.id, error))
    for _ in range(2):
        with pytest.raises(RemoteError) as raised:
            reply.result()
        assert raised.value is error
    assert reply.exception() is error


def test_the_traceback_does_not_grow_with_each_reader(
        conversation: Conversation) -> None:
    reply = conversation.open_call('f')
    reply.fail(RemoteError('no'))
    lengths = []
    for _ in range(3):
        error = reply.exception()
        assert error is not None
        traceback, length = error.__traceback__, 0
        while traceback:
            traceback, length = traceback.tb_next, length + 1
        lengths.append(length)
    assert len(set(lengths)) == 1


@pytest.mark.parametrize('id', [
    0, 3, -2, 4, '2', 2.0, True, None, 2 ** 70, ''])
def test_an_answer_to_an_unknown_id_is_ignored_and_counted(
        id: Any, conversation: Conversation) -> None:
    reply = conversation.open_call('f')
    assert reply.id == 2
    assert not conversation.settle(Result(id, b'1'))
    assert not conversation.settle(Failure(id, RemoteError('no')))
    assert conversation.ignored_replies == 2
    assert not reply.done


def test_true_is_not_the_id_one() -> None:
    conversation = Conversation(itertools.count(1, 2))
    reply = conversation.open_call('f')
    assert reply.id == 1
    assert not conversation.settle(Result(True, b'1'))
    assert not conversation.settle(Result(1.0, b'1'))
    assert conversation.settle(Result(1, b'1'))


def test_a_second_answer_is_ignored_and_counted(
        conversation: Conversation) -> None:
    reply = conversation.open_call('f')
    assert conversation.settle(Result(reply.id, b'1'))
    assert not conversation.settle(Result(reply.id, b'2'))
    assert not reply.succeed(b'3')
    assert not reply.fail(RemoteError('no'))
    assert reply.result() == 1
    assert conversation.ignored_replies == 1


def test_an_answer_that_is_no_json_is_an_error_for_each_reader(
        conversation: Conversation) -> None:
    reply = conversation.open_call('f')
    reply.succeed(b'{"a":\xff}')
    for _ in range(2):
        with pytest.raises(RemoteError, match=r'f\(\) cannot be decoded'):
            reply.result()


def test_eight_threads_that_settle_at_once_settle_once(
        conversation: Conversation) -> None:
    for _ in range(20):
        reply = conversation.open_call('f')
        woken: list[PendingReply] = []
        reply.watch(woken.append)
        turn = itertools.count()

        def settle(reply: PendingReply = reply,
                   turn: Iterator[int] = turn) -> bool:
            return conversation.settle(Result(reply.id, b'%d' % next(turn)))

        assert sorted(in_threads(8, settle)) == [False] * 7 + [True]
        assert woken == [reply]
    assert conversation.ignored_replies <= 140


def test_a_reply_says_how_it_stands(conversation: Conversation) -> None:
    reply = conversation.open_call('who')
    assert repr(reply) == "<PendingReply 'who' id=2 pending>"
    reply.succeed(b'1')
    assert repr(reply) == "<PendingReply 'who' id=2 done>"
    failed = conversation.open_call('who')
    failed.fail(RemoteError('no'))
    assert repr(failed) == "<PendingReply 'who' id=4 failed>"


# -- waiting -----------------------------------------------------------------

def test_waiting_ends_when_the_answer_comes(conversation: Conversation,
                                            ) -> None:
    reply = conversation.open_call('f')
    waiting = threading.Event()
    outcome: list[Any] = []

    def wait() -> None:
        waiting.set()
        outcome.append(reply.result(DEADLINE_S))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(DEADLINE_S)
    conversation.settle(Result(reply.id, b'7'))
    thread.join(DEADLINE_S)
    assert outcome == [7]


@pytest.mark.parametrize('ask', ['result', 'exception'])
def test_a_wait_has_its_own_timeout_and_the_call_goes_on(
        ask: str, conversation: Conversation) -> None:
    reply = conversation.open_call('f')
    with pytest.raises(CallTimeout, match=r'f\(\) within 0.01 s'):
        getattr(reply, ask)(timeout=0.01)
    assert not reply.done
    assert reply._watchers == []
    conversation.settle(Result(reply.id, b'1'))
    assert reply.result() == 1


@contextmanager
def guarded_by(guard: Callable[[], AbstractContextManager[Any]],
               ) -> Iterator[None]:
    blocking.guard = guard
    try:
        yield
    finally:
        del blocking.guard


def test_a_wait_is_guarded_and_an_answer_that_is_there_is_not(
        conversation: Conversation) -> None:
    steps: list[str] = []
    reply = conversation.open_call('f')

    @contextmanager
    def guard() -> Iterator[None]:
        steps.append('in')
        reply.succeed(b'1')
        yield
        steps.append('out')

    with guarded_by(guard):
        assert reply.result() == 1
        assert steps == ['in', 'out']
        assert reply.result() == 1
        assert reply.exception() is None
        assert steps == ['in', 'out']


@pytest.mark.parametrize('ask', ['result', 'exception'])
def test_a_guard_that_refuses_the_wait_is_heard(
        ask: str, conversation: Conversation) -> None:
    def guard() -> Any:
        raise WrongThread('use await')

    reply = conversation.open_call('f')
    with guarded_by(guard), pytest.raises(WrongThread, match='await'):
        getattr(reply, ask)()
    assert not reply.done


def test_a_guard_belongs_to_its_thread(conversation: Conversation) -> None:
    def guard() -> Any:
        raise WrongThread('use await')

    reply = conversation.open_call('f')
    with guarded_by(guard):
        outcome = in_threads(1, lambda: reply.result(timeout=0.01))
    assert [type(each) for each in outcome] == [CallTimeout]


# -- awaiting ----------------------------------------------------------------

def test_a_reply_can_be_awaited_before_and_after_it_is_settled(
        conversation: Conversation) -> None:
    async def main() -> list[Any]:
        reply = conversation.open_call('f')
        thread = threading.Thread(
            target=conversation.settle, args=(Result(reply.id, b'[1]'),))
        asyncio.get_running_loop().call_soon(thread.start)
        first = await asyncio.wait_for(reply, DEADLINE_S)
        thread.join(DEADLINE_S)
        return [first, await reply]

    assert asyncio.run(main()) == [[1], [1]]


def test_several_tasks_may_await_one_reply(conversation: Conversation,
                                           ) -> None:
    async def main() -> list[Any]:
        reply = conversation.open_call('f')

        async def wait() -> Any:
            return await reply

        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        conversation.settle(Failure(reply.id, RemoteError('no')))
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [str(each) for each in asyncio.run(main())] == ['no'] * 3


def test_a_task_that_is_cancelled_leaves_the_call_open(
        conversation: Conversation) -> None:
    async def main() -> Any:
        reply = conversation.open_call('f')
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reply, 0.01)
        assert not reply.done
        conversation.settle(Result(reply.id, b'1'))
        return await reply

    assert asyncio.run(main()) == 1


def test_a_loop_that_is_gone_does_not_keep_others_from_being_told(
        conversation: Conversation) -> None:
    reply = conversation.open_call('f')
    next_one = conversation.open_call('g')

    async def wait() -> None:
        await reply

    loop = asyncio.new_event_loop()
    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    woken: list[PendingReply] = []
    reply.watch(woken.append)
    conversation.close(ConnectionLostError('gone'))
    assert woken == [reply]
    assert next_one.done
    # The task dies with its loop; asyncio would say so when it is collected.
    task._log_destroy_pending = False       # type: ignore[attr-defined]


# -- watching ----------------------------------------------------------------

def test_a_watcher_is_called_once_even_if_it_comes_late(
        conversation: Conversation) -> None:
    reply = conversation.open_call('f')
    woken: list[str] = []
    reply.watch(lambda reply: woken.append(f'early {reply.done}'))
    reply.succeed(b'1')
    reply.watch(lambda reply: woken.append(f'late {reply.done}'))
    assert woken == ['early True', 'late True']


# -- deadlines ----------------------------------------------------------------

def test_what_is_late_fails_and_the_next_deadline_is_told(
        conversation: Conversation) -> None:
    first = conversation.open_call('first', 5.0, now=100.0)
    second = conversation.open_call('second', 5.0, now=101.0)
    long = conversation.open_call('long', 30.0, now=90.0)
    endless = [conversation.open_call('endless', timeout, now=0.0)
               for timeout in (None, 0)]
    assert conversation.expire(100.0) == 105.0
    assert conversation.expire(105.0) == 106.0     # at its deadline it is late
    assert [reply.done for reply in (first, second, long)] == [
        True, False, False]
    with pytest.raises(CallTimeout, match=r'first\(\) within 5.0 s'):
        first.result()
    assert conversation.expire(110.0) == 120.0
    assert second.done
    assert conversation.expire(1e9) is None
    assert long.done
    assert not any(reply.done for reply in endless)
    assert len(conversation) == 2
    # Its answer, should it come now, is for nobody.
    assert not conversation.settle(Result(first.id, b'1'))


def test_settled_calls_have_no_deadline_any_more(
        conversation: Conversation) -> None:
    replies = [conversation.open_call('f', 5.0, now=float(at))
               for at in range(3)]
    for reply in replies[:2]:
        conversation.settle(Result(reply.id, b'1'))
    assert conversation.expire(0.0) == 7.0
    conversation.abandon(replies[2])
    assert conversation.expire(100.0) is None
    assert not replies[2].done
    assert conversation._by_timeout == {}
    assert len(conversation) == 0


# -- limits and the end -------------------------------------------------------

def test_calls_that_nobody_answers_have_a_limit() -> None:
    conversation = Conversation(itertools.count(2, 2), max_pending=3)
    replies = [conversation.open_call('f') for _ in range(3)]
    with pytest.raises(Busy, match='3 calls wait'):
        conversation.open_call('f')
    conversation.settle(Result(replies[0].id, b'1'))
    conversation.open_call('f')
    with pytest.raises(Busy):
        conversation.open_call('f')


def test_the_end_fails_all_that_is_pending_and_all_that_comes(
        conversation: Conversation) -> None:
    answered = conversation.open_call('answered')
    conversation.settle(Result(answered.id, b'1'))
    pending = [conversation.open_call('f', timeout)
               for timeout in (None, 5.0)]
    conversation.close(ConnectionLostError('it went'))
    errors = [reply.exception() for reply in pending]
    assert [str(error) for error in errors] == ['it went'] * 2
    assert [error.maybe_executed for error in errors    # type: ignore
            ] == [True, True]
    assert errors[0] is not errors[1]
    with pytest.raises(ConnectionLostError) as raised:
        conversation.open_call('f')
    assert not raised.value.maybe_executed
    assert answered.result() == 1
    assert len(conversation) == 0
    conversation.close(ConnectionLostError('again'))
    assert conversation.expire(1e9) is None


def test_calls_opened_while_it_ends_are_never_forgotten() -> None:
    for _ in range(20):
        conversation = Conversation(itertools.count(2, 2))
        opened: list[PendingReply] = []
        closing = iter([conversation])

        def act(conversation: Conversation = conversation,
                opened: list[PendingReply] = opened,
                closing: Iterator[Conversation] = closing) -> None:
            if next(closing, None) is not None:
                conversation.close(ConnectionLostError('gone'))
                return
            opened.append(conversation.open_call('f'))

        outcomes = in_threads(8, act)
        assert all(reply.done for reply in opened)
        assert len(opened) + len([
            each for each in outcomes
            if isinstance(each, ConnectionLostError)]) == 7


def test_ids_of_servers_are_even_and_shared_by_all_connections() -> None:
    ids = [Conversation().open_call('f').id for _ in range(3)]
    ids.append(next(server_ids))
    assert ids == list(range(ids[0], ids[0] + 8, 2))
    assert ids[0] % 2 == 0


def test_ids_are_never_given_twice_to_threads_that_ask_at_once(
        conversation: Conversation) -> None:
    many = in_threads(8, lambda: [conversation.open_call('f').id
                                  for _ in range(50)])
    ids = [id for some in many for id in some]
    assert len(set(ids)) == 400
