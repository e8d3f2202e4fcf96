"""Whose turn it is: one at a time, in order, but for those who wait."""
from __future__ import annotations

import threading

import pytest

from cp_wsrpc.turns import Turn

from .serving import wait_until

DEADLINE_S = 5


def test_a_turn_starts_what_was_kept_in_order_one_at_a_time() -> None:
    turn = Turn()
    begun: list[int] = []
    assert turn.enter(begun.append, 0) is True
    for number in (1, 2, 3):
        assert turn.enter(begun.append, number) is False
    for number in (1, 2, 3):
        assert begun == list(range(1, number))
        turn.leave()
        assert begun[-1] == number
    turn.leave()
    assert begun == [1, 2, 3]       # the first began by itself
    assert turn.enter(begun.append, 4) is True


@pytest.mark.parametrize(('waiting', 'answer'), [(1, False), (2, None)])
def test_a_turn_keeps_as_many_as_may_wait_and_not_one_more(
        waiting: int, answer: bool | None) -> None:
    turn = Turn()
    begun: list[int] = []
    assert turn.enter(begun.append, 0)
    for number in range(waiting - 1):
        turn.enter(begun.append, number, max_waiting=1)
    assert turn.enter(begun.append, 9, max_waiting=1) is answer


def test_a_method_that_waits_lets_the_next_one_run() -> None:
    turn = Turn()
    begun: list[str] = []
    assert turn.enter(begun.append, 'first')
    turn.enter(begun.append, 'second')
    left = threading.Event()

    def first() -> None:
        with turn.yielded():
            left.set()
        begun.append('first goes on')
        turn.leave()

    thread = threading.Thread(target=first)
    thread.start()
    assert left.wait(DEADLINE_S)
    assert begun[:1] == ['second']      # begun by the first one's thread
    wait_until(lambda: turn._returning)
    assert begun == ['second']
    turn.leave()                        # the second one ends
    thread.join(DEADLINE_S)
    assert begun == ['second', 'first goes on']
    assert turn.enter(begun.append, 'third') is True


def test_one_that_waited_goes_on_before_those_not_yet_begun() -> None:
    turn = Turn()
    order: list[str] = []
    assert turn.enter(order.append, 'first')
    for name in ('second', 'third', 'fourth'):
        turn.enter(order.append, name)
    turn.step_aside()                   # the first one waits
    assert order == ['second']
    assert turn.reenter(lambda: order.append('first again')) is False
    turn.step_aside()                   # the second one waits
    assert order == ['second', 'first again']
    assert turn.reenter(lambda: order.append('second again')) is False
    turn.leave()                        # the first one ends
    assert order == ['second', 'first again', 'second again']
    turn.leave()
    turn.leave()
    assert order[3:] == ['third', 'fourth']


@pytest.mark.parametrize('waits', [0, 1])
def test_the_last_one_comes_when_nobody_runs_waits_or_is_away(
        waits: int) -> None:
    turn = Turn()
    order: list[str] = []
    assert turn.enter(order.append, 'first')
    for _ in range(waits):
        turn.enter(order.append, 'second')
    turn.step_aside()                   # the first one waits
    assert not turn.enter_last(order.append, 'last')
    for _ in range(waits):
        turn.leave()                    # the second one ends
    assert turn.reenter(lambda: None)
    assert 'last' not in order          # the first one goes on
    turn.leave()
    assert order == ['second'] * waits + ['last']
    turn.leave()
    assert order[-1:] == ['last']


def test_the_last_one_need_not_wait_where_nobody_is() -> None:
    turn = Turn()
    assert turn.enter_last(lambda _: None, None)


def test_a_turn_that_nobody_took_is_there_after_the_wait() -> None:
    turn = Turn()
    assert turn.enter(lambda _: None, None)
    with turn.yielded():
        assert turn.enter(lambda _: None, None) is True
        turn.leave()
    assert turn.enter(lambda _: None, None) is False


def test_a_wait_that_raises_has_the_turn_again() -> None:
    turn = Turn()
    assert turn.enter(lambda _: None, None)
    with pytest.raises(ValueError), turn.yielded():
        raise ValueError
    assert turn.enter(lambda _: None, None) is False
    turn.leave()
