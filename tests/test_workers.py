"""The pool is bounded, fair, and never stuck on those who wait."""
from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cp_wsrpc.conversation import Conversation, PendingReply, blocking
from cp_wsrpc.errors import Busy
from cp_wsrpc.logs import limited
from cp_wsrpc.messages import Result
from cp_wsrpc.turns import Turn
from cp_wsrpc.strands import Strand
from cp_wsrpc.workers import Lane, WorkerPool

from .serving import wait_until

DEADLINE_S = 5

MakePool = Callable[..., WorkerPool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    """``make_pool(size, ...)``: a pool that runs, and is stopped."""
    pools = []

    def make(size: int = 4, **options: Any) -> WorkerPool:
        pool = WorkerPool(size, **options)
        pools.append(pool)
        pool.start()
        return pool

    yield make
    for pool in pools:
        assert pool.stop(DEADLINE_S), 'a worker did not come back'


class Gate:
    """A task that runs until it is let go, and says when it has begun."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()
        self.ended: list[Any] = []

    def __call__(self, argument: Any = None) -> None:
        self.begun.release()
        assert self.open.wait(DEADLINE_S)
        self.ended.append(argument)

    def wait_begun(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.begun.acquire(timeout=DEADLINE_S)


def wait_for(event: threading.Event) -> None:
    assert event.wait(DEADLINE_S)


def drain(pool: WorkerPool) -> None:
    """Wait until all that is in the queue by now has been begun."""
    done = threading.Event()
    Strand(pool).post(done.set)
    wait_for(done)


# -- the pool ---------------------------------------------------------------

def test_it_runs_what_it_is_given_in_named_daemons(make_pool: MakePool,
                                                   ) -> None:
    pool = make_pool(2)
    seen: list[Any] = []
    done = threading.Event()

    def run(argument: Any) -> None:
        thread = threading.current_thread()
        seen.append((argument, thread.name[:13], thread.daemon))
        done.set()

    assert Lane(pool, 32).submit(run, 'x')
    wait_for(done)
    assert seen == [('x', 'wsrpc-worker-', True)]
    assert pool.threads == 2


def test_no_more_threads_work_at_a_time_than_its_size(make_pool: MakePool,
                                                      ) -> None:
    pool = make_pool(3)
    gate = Gate()
    for _ in range(5):
        assert Lane(pool, 1).submit(gate, None)
    gate.wait_begun(3)
    assert not gate.begun.acquire(timeout=0.02)
    assert pool.waiting == 2
    gate.open.set()
    gate.wait_begun(2)


@pytest.mark.parametrize('error', [ValueError('no'), SystemExit(1),
                                   KeyboardInterrupt()])
def test_a_task_that_raises_costs_no_worker_and_no_place(
        error: BaseException, make_pool: MakePool,
        caplog: pytest.LogCaptureFixture) -> None:
    limited.__self__._causes.clear()
    pool = make_pool(2)
    lane = Lane(pool, 1)

    def fail(_: Any) -> None:
        raise error

    for _ in range(5):
        assert lane.submit(fail, None)
    done = threading.Event()
    lane.submit(lambda _: done.set(), None)
    wait_for(done)
    assert pool.threads == 2
    failed = [record for record in caplog.records
              if record.name == 'cp_wsrpc.workers']
    line, = failed      # a second
    assert line.exc_info and line.exc_info[1] is error


def test_what_a_task_sets_in_its_context_is_not_for_the_next() -> None:
    user = contextvars.ContextVar('user', default='of the thread')
    found: list[str] = []
    pool = WorkerPool(1, on_thread_start=lambda: user.set('of the hook'))
    pool.start()
    lane, strand = Lane(pool, 8), Strand(pool)

    def enter(name: str) -> None:
        found.append(user.get())
        user.set(name)

    for name in 'ab':
        assert lane.submit(enter, name)
    strand.post(enter, 'c')
    strand.post(enter, 'd')
    wait_until(lambda: len(found) == 4)
    assert found == ['of the hook'] * 4
    assert pool.stop(DEADLINE_S)


def test_an_idle_worker_keeps_no_object_of_its_last_call(
        make_pool: MakePool) -> None:
    import weakref

    class Thing:
        pass

    pool = make_pool(1)
    thing = Thing()
    gone = threading.Event()
    weakref.finalize(thing, gone.set)
    assert Lane(pool, 1).submit(lambda _: None, thing)
    del thing
    wait_for(gone)


# -- thread hooks ----------------------------------------------------------

def test_each_worker_runs_the_hooks_first_and_last() -> None:
    steps: list[tuple[str, int]] = []

    def note(what: str) -> Callable[[], None]:
        return lambda: steps.append((what, threading.get_ident()))

    pool = WorkerPool(3, on_thread_start=note('start'),
                      on_thread_stop=note('stop'))
    assert steps == []
    pool.start()
    drain(pool)
    assert pool.stop(DEADLINE_S)
    started = {ident for what, ident in steps if what == 'start'}
    assert len(started) <= 3
    for ident in started:
        mine = [what for what, its in steps if its == ident]
        assert mine == ['start', 'stop'] * (len(mine) // 2)
    assert len(steps) == 6
    assert pool.threads == 0


def test_a_hook_that_raises_is_logged_and_costs_no_worker(
        make_pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError('no')

    pool = make_pool(2, on_thread_start=fail, on_thread_stop=fail)
    drain(pool)
    assert pool.threads == 2
    assert pool.stop(DEADLINE_S)
    assert {record.getMessage() for record in caplog.records} == {
        'a thread hook of the pool failed'}


def test_refresh_gives_back_and_takes_anew_before_the_next_call(
        make_pool: MakePool) -> None:
    steps: list[str] = []
    pool = make_pool(1, on_thread_start=lambda: steps.append('start'),
                     on_thread_stop=lambda: steps.append('stop'))
    strand = Strand(pool)
    strand.post(steps.append, 'one')
    drain(pool)
    pool.refresh()
    pool.refresh()
    strand.post(steps.append, 'two')
    strand.post(steps.append, 'three')
    drain(pool)
    assert steps == ['start', 'one', 'stop', 'start', 'two', 'three']


# -- stop and start ----------------------------------------------------------

def test_it_can_be_stopped_and_started_again() -> None:
    pool = WorkerPool(3)
    for _ in range(3):
        pool.start()
        assert pool.threads == 3
        drain(pool)
        assert pool.stop(DEADLINE_S)
        assert pool.threads == 0


def test_what_was_put_in_before_the_stop_is_still_run() -> None:
    pool = WorkerPool(2)
    pool.start()
    gate = Gate()
    for number in range(6):
        assert Lane(pool, 1).submit(gate, number)
    gate.open.set()
    assert pool.stop(DEADLINE_S)
    assert sorted(gate.ended) == list(range(6))


def test_a_stop_does_not_wait_longer_than_it_may_for_a_stuck_worker(
        ) -> None:
    pool = WorkerPool(4)
    pool.start()
    gate = Gate()
    assert Lane(pool, 1).submit(gate, None)
    gate.wait_begun()
    assert not pool.stop(0.05)
    assert pool.threads == 1
    gate.open.set()
    wait_until(lambda: pool.threads == 0)


def test_a_stop_gives_all_its_time_to_the_worker_that_needs_it() -> None:
    # Ten threads, one of which comes back after a tenth of the time.
    pool = WorkerPool(10)
    pool.start()
    gate = Gate()
    assert Lane(pool, 1).submit(gate, None)
    gate.wait_begun()
    timer = threading.Timer(0.2, gate.open.set)
    timer.start()
    assert pool.stop(1.0)
    timer.join()


def test_a_worker_may_stop_its_own_pool() -> None:
    pool = WorkerPool(2)
    pool.start()
    answers: list[bool] = []
    done = threading.Event()

    def stop(_: Any) -> None:
        answers.append(pool.stop(DEADLINE_S))
        done.set()

    assert Lane(pool, 1).submit(stop, None)
    wait_for(done)
    assert answers == [False]           # it is alive itself
    wait_until(lambda: pool.threads == 0)


@pytest.mark.parametrize('waits_for_client', [False, True])
def test_a_pool_started_beside_a_stuck_thread_has_all_its_workers(
        waits_for_client: bool) -> None:
    pool = WorkerPool(4)
    pool.start()
    gate = Gate()

    def stuck(_: Any) -> None:
        if waits_for_client:
            with blocking.guard():
                gate(None)
        else:
            gate(None)

    assert Lane(pool, 1).submit(stuck, None)
    gate.wait_begun()
    assert not pool.stop(0.01)
    pool.start()
    # The stuck one comes back into the new pool's time, and only ends.
    gate.open.set()
    wait_until(lambda: pool.threads == 4)
    for _ in range(2):
        again = Gate()
        for _ in range(5):
            assert Lane(pool, 1).submit(again, None)
        again.wait_begun(4)
        assert not again.begun.acquire(timeout=0.02)
        again.open.set()
        again.wait_begun(1)
        drain(pool)
    assert pool.stop(DEADLINE_S)


def test_a_stuck_pool_can_be_rescued_by_one_more_thread(
        make_pool: MakePool) -> None:
    pool = make_pool(2)
    gate = Gate()
    for _ in range(2):
        assert Lane(pool, 1).submit(gate, None)
    gate.wait_begun(2)
    done = threading.Event()
    Strand(pool).post(done.set)
    assert not done.wait(0.02)
    pool.rescue()
    wait_for(done)
    gate.open.set()


# -- limits ---------------------------------------------------------------

def test_the_pool_takes_as_many_calls_as_may_wait_and_not_one_more(
        make_pool: MakePool) -> None:
    pool = make_pool(2, max_waiting=5)
    gate = Gate()
    for _ in range(2):
        assert Lane(pool, 1).submit(gate, None)
    gate.wait_begun(2)
    lanes = [Lane(pool, 1) for _ in range(2)]
    # Two in the queue, the rest in the lanes: all of them wait.
    taken = [lanes[number % 2].submit(gate, None) for number in range(8)]
    assert taken == [True] * 5 + [False] * 3
    assert pool.waiting == 5
    assert not Lane(pool, 1).submit(gate, None)
    gate.open.set()
    gate.wait_begun(5)
    drain(pool)
    assert Lane(pool, 1).submit(gate, None)


def test_a_lane_takes_as_many_calls_as_may_wait_and_not_one_more(
        make_pool: MakePool) -> None:
    pool = make_pool(8)
    lane = Lane(pool, 3, max_waiting=2)
    gate = Gate()
    taken = [lane.submit(gate, number) for number in range(7)]
    assert taken == [True] * 5 + [False] * 2
    gate.wait_begun(3)
    assert lane.waiting == 2
    assert not gate.begun.acquire(timeout=0.02)
    gate.open.set()
    gate.wait_begun(2)
    wait_until(lambda: len(gate.ended) == 5)
    assert lane.waiting == 0


@pytest.mark.parametrize(('size', 'max_running', 'share'), [
    (8, 32, 4), (8, 2, 2), (9, 32, 4), (1, 32, 1), (4, 0, 1)])
def test_a_lane_has_at_most_half_of_the_pool(
        size: int, max_running: int, share: int,
        make_pool: MakePool) -> None:
    pool = make_pool(size)
    lane = Lane(pool, max_running)
    gate = Gate()
    for _ in range(size + 1):
        assert lane.submit(gate, None)
    gate.wait_begun(share)
    assert not gate.begun.acquire(timeout=0.02)
    gate.open.set()
    gate.wait_begun(size + 1 - share)


def test_calls_that_wait_in_a_lane_can_be_taken_out(make_pool: MakePool,
                                                    ) -> None:
    pool = make_pool(2, max_waiting=4)
    lane = Lane(pool, 1)
    assert lane.clear() == []
    gate = Gate()
    for number in range(4):
        assert lane.submit(gate, number)
    gate.wait_begun()
    assert lane.clear() == [1, 2, 3]
    assert lane.clear() == []
    assert (lane.waiting, pool.waiting) == (0, 0)
    gate.open.set()
    wait_until(lambda: gate.ended == [0])
    assert lane.submit(gate, 5)
    wait_until(lambda: gate.ended == [0, 5])


# -- fairness ---------------------------------------------------------------

def test_a_busy_lane_delays_anothers_call_by_at_most_a_round(
        make_pool: MakePool) -> None:
    pool = make_pool(2)
    greedy, modest = Lane(pool, 32, max_waiting=500), Lane(pool, 32)
    order: list[str] = []
    gate = Gate()
    # Both workers are held, so that all stands in the queue at first.
    for _ in range(2):
        Lane(pool, 1).submit(gate, None)
    gate.wait_begun(2)
    for _ in range(300):
        assert greedy.submit(order.append, 'greedy')
    for _ in range(3):
        assert modest.submit(order.append, 'modest')
    gate.open.set()
    wait_until(lambda: len(order) == 303)
    # One of greedy's before each of modest's, and one more that the
    # second worker may have taken meanwhile.
    last = 302 - order[::-1].index('modest')
    assert order[:last + 1].count('greedy') <= 8


def test_calls_of_one_lane_begin_in_the_order_of_their_coming(
        make_pool: MakePool) -> None:
    pool = make_pool(2)             # a lane has one of it
    lane = Lane(pool, 32)
    order: list[int] = []
    for number in range(100):
        assert lane.submit(order.append, number)
    wait_until(lambda: len(order) == 100)
    assert order == list(range(100))


# -- lending ---------------------------------------------------------------

def test_eight_callers_whose_clients_call_back_finish_on_a_pool_of_eight(
        make_pool: MakePool) -> None:
    pool = make_pool(8)
    done = threading.Semaphore(0)
    results: list[Any] = []

    class Client:
        """A connection whose client answers by calling the server."""

        def __init__(self) -> None:
            self.conversation = Conversation()
            self.lane = Lane(pool, 32)

        def method(self, depth: int) -> None:
            reply = self.conversation.open_call('callBack')
            self.lane.submit(self.inner, (reply, depth))
            results.append(reply.result(DEADLINE_S))
            if depth == 2:
                done.release()

        def inner(self, argument: Any) -> None:
            reply, depth = argument
            if depth:
                self.method(depth - 1)
            self.conversation.settle(Result(reply.id, b'%d' % depth))

    clients = [Client() for _ in range(8)]
    for client in clients:
        assert client.lane.submit(client.method, 2)
    for _ in clients:
        assert done.acquire(timeout=DEADLINE_S)
    assert sorted(results) == sorted([0, 1, 2] * 8)
    # The spares go again, and the workers stay.
    wait_until(lambda: pool.threads == 8)


def test_a_waiting_call_gives_its_place_in_the_lane_too(
        make_pool: MakePool) -> None:
    pool = make_pool(2)             # a lane has one of it
    lane = Lane(pool, 32)
    conversation = Conversation()
    reply = conversation.open_call('f')
    results: list[Any] = []
    lane.submit(lambda _: results.append(reply.result(DEADLINE_S)), None)
    gate = Gate()
    for number in range(3):
        lane.submit(gate, number)
    gate.wait_begun()               # the next one, and only it
    assert not gate.begun.acquire(timeout=0.02)
    conversation.settle(Result(reply.id, b'1'))
    wait_until(lambda: results == [1])
    # The one that waited is back and done; still one at a time.
    assert not gate.begun.acquire(timeout=0.02)
    gate.open.set()
    wait_until(lambda: gate.ended == [0, 1, 2])
    again = Gate()
    for number in range(2):
        lane.submit(again, number)
    again.wait_begun()
    assert not again.begun.acquire(timeout=0.02)
    again.open.set()
    wait_until(lambda: again.ended == [0, 1])


def test_waiting_workers_are_replaced_up_to_four_times_the_pool(
        make_pool: MakePool) -> None:
    pool = make_pool(2)             # 8 threads, of which 2 must work
    conversation = Conversation()
    reply = conversation.open_call('f')
    outcomes: list[Any] = []
    lock = threading.Lock()

    def wait(_: Any) -> None:
        try:
            outcome = reply.result(DEADLINE_S)
        except Busy as error:
            outcome = error
        with lock:
            outcomes.append(outcome)

    for count in range(1, 7):
        assert Lane(pool, 1).submit(wait, None)
        wait_until(lambda count=count: pool._lent == count)
    assert outcomes == []
    assert pool.threads == 8
    for _ in range(3):
        assert Lane(pool, 1).submit(wait, None)
    wait_until(lambda: len(outcomes) == 3)
    assert [type(each) for each in outcomes] == [Busy] * 3
    # The pool itself is not stuck by it.
    drain(pool)
    conversation.settle(Result(reply.id, b'1'))
    wait_until(lambda: len(outcomes) == 9)
    assert outcomes[3:] == [1] * 6
    wait_until(lambda: pool.threads == 2)
    assert Lane(pool, 1).submit(wait, None)
    wait_until(lambda: len(outcomes) == 10)


def test_who_waits_for_a_client_is_not_busy_and_who_works_is(
        make_pool: MakePool) -> None:
    pool = make_pool(2)
    conversation = Conversation()
    reply = conversation.open_call('f')
    results: list[Any] = []
    wait_until(lambda: not pool.is_busy)
    for lent in (1, 2):
        assert Lane(pool, 1).submit(
            lambda _: results.append(reply.result(DEADLINE_S)), None)
        wait_until(lambda lent=lent: pool.lent == lent)
        wait_until(lambda: not pool.is_busy)
    gate = Gate()
    assert Lane(pool, 1).submit(gate, 0)
    gate.wait_begun()
    assert pool.is_busy
    gate.open.set()
    conversation.settle(Result(reply.id, b'1'))
    wait_until(lambda: results == [1, 1])
    wait_until(lambda: not pool.is_busy)


def test_a_wait_that_fails_gives_the_place_back(make_pool: MakePool,
                                                ) -> None:
    pool = make_pool(2)
    lane = Lane(pool, 1)
    errors: list[Any] = []

    def wait(_: Any) -> None:
        errors.append(PendingReply(2, 'f').exception(timeout=0.001))

    for _ in range(20):
        assert lane.submit(wait, None)
    drain(pool)
    wait_until(lambda: lane.waiting == 0 and lane._taken == 0)
    wait_until(lambda: pool.threads == 2)
    assert errors == []             # each ended by CallTimeout
    assert pool._lent == 0


def test_a_hook_without_a_lane_may_wait_too(make_pool: MakePool) -> None:
    pool = make_pool(1)
    conversation = Conversation()
    reply = conversation.open_call('f')
    results: list[Any] = []
    Strand(pool).post(lambda: results.append(reply.result(DEADLINE_S)))
    # The only worker waits; its spare runs what answers.
    Strand(pool).post(conversation.settle, Result(reply.id, b'1'))
    wait_until(lambda: results == [1])


# -- strands ---------------------------------------------------------------

def test_a_strand_runs_one_at_a_time_in_the_order_of_posting(
        make_pool: MakePool) -> None:
    pool = make_pool(8)
    strands = [Strand(pool) for _ in range(4)]
    orders: list[list[int]] = [[] for _ in strands]
    inside = [0] * len(strands)
    overlaps: list[int] = []

    def hook(which: int, number: int) -> None:
        inside[which] += 1
        if inside[which] != 1:
            overlaps.append(number)
        orders[which].append(number)
        inside[which] -= 1

    for number in range(100):
        for which, strand in enumerate(strands):
            strand.post(hook, which, number)
    wait_until(lambda: sum(map(len, orders)) == 400)
    assert orders == [list(range(100))] * 4
    assert overlaps == []


def test_a_strand_holds_what_waits_behind_a_running_hook(
        make_pool: MakePool) -> None:
    pool = make_pool(4)
    strand = Strand(pool)
    gate = Gate()
    for number in range(3):
        strand.post(gate, number)
    gate.wait_begun()
    assert not gate.begun.acquire(timeout=0.02)
    assert len(strand) == 2
    gate.open.set()
    wait_until(lambda: gate.ended == [0, 1, 2])
    assert len(strand) == 0


@pytest.mark.parametrize('error', [ValueError('no'), SystemExit(1)])
def test_a_hook_that_raises_does_not_end_the_strand(
        error: BaseException, make_pool: MakePool,
        caplog: pytest.LogCaptureFixture) -> None:
    limited.__self__._causes.clear()
    strand = Strand(make_pool(2))
    done = threading.Event()

    def fail() -> None:
        raise error

    strand.post(fail)
    strand.post(done.set)
    wait_for(done)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_hook_may_post_to_its_own_strand(make_pool: MakePool) -> None:
    strand = Strand(make_pool(1))
    order: list[str] = []
    done = threading.Event()

    def first() -> None:
        strand.post(order.append, 'second')
        strand.post(done.set)
        order.append('first')

    strand.post(first)
    wait_for(done)
    assert order == ['first', 'second']


# -- turns ---------------------------------------------------------------

def test_turns_on_the_pool_never_overlap(make_pool: MakePool) -> None:
    pool = make_pool(8)
    lanes = [Lane(pool, 32) for _ in range(4)]
    turn = Turn()
    inside: list[int] = []
    overlaps: list[int] = []
    ended: list[int] = []

    def run(number: int) -> None:
        inside.append(number)
        if len(inside) > 1:
            overlaps.append(number)
        inside.pop()
        if number % 3 == 0:
            with turn.yielded():
                pass
        ended.append(number)
        turn.leave()

    def start(number: int) -> None:
        assert lanes[number % 4].submit(run, number)

    for number in range(100):
        if turn.enter(start, number):
            start(number)
    wait_until(lambda: len(ended) == 100)
    assert sorted(ended) == list(range(100))
    assert overlaps == []
