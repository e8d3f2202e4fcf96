"""When which socket is to be looked at: time is given, nothing waits."""
from __future__ import annotations

import pytest

from cp_wsrpc.timers import TICK_S, Timers


class Socket:
    """What Timers knows of a WebSocket."""

    def __init__(self):
        self.sock = object()
        self.timer_tick = None


class Watch:
    """Timers at 1000 s, and who was looked at when."""

    def __init__(self):
        self.now = 1000.0
        self.looks = []
        self.next = {}          # websocket -> what its look returns
        self.on_look = lambda websocket: None
        self.timers = Timers(self.look)
        self.timers.begin(self.now)

    def look(self, websocket, now):
        self.looks.append((websocket, now))
        self.on_look(websocket)
        return self.next.pop(websocket, None)

    def pass_by(self, seconds):
        """Turn tick by tick; who was looked at."""
        self.looks.clear()
        end = self.now + seconds
        while self.now < end:
            self.now += TICK_S
            self.timers.turn(self.now)
        return [websocket for websocket, _ in self.looks]


@pytest.fixture
def watch():
    return Watch()


def test_a_look_comes_within_a_tick_after_its_time_and_once(watch):
    one = Socket()
    watch.timers.schedule(one, watch.now + 5)
    assert watch.pass_by(4.75) == []
    assert watch.pass_by(2 * TICK_S) == [one]
    assert watch.pass_by(100) == []


def test_the_earliest_of_several_times_counts(watch):
    one = Socket()
    for seconds in (20, 5, 10):
        watch.timers.schedule(one, watch.now + seconds)
    assert len(watch.timers) == 1
    assert watch.pass_by(6) == [one]
    assert watch.pass_by(100) == []


def test_what_a_look_returns_is_when_the_next_one_comes(watch):
    one = Socket()
    watch.next[one] = watch.now + 30
    watch.timers.schedule(one, watch.now + 5)
    assert watch.pass_by(29) == [one]
    assert watch.pass_by(2) == [one]


def test_who_answers_is_not_looked_at_for_it(watch):
    one, other = Socket(), Socket()
    for each in (one, other):
        watch.timers.await_answer(each, watch.now + 20)
        watch.timers.schedule(each, watch.now + 25)
    watch.timers.note_answer(one)
    assert watch.pass_by(19.75) == []
    assert watch.pass_by(TICK_S) == [other]
    assert sorted(map(id, watch.pass_by(10))) == sorted(map(id, (one, other)))


@pytest.mark.parametrize('seconds', [30, 3600, 10 ** 6])
def test_after_a_standstill_all_that_were_due_are_looked_at(watch, seconds):
    sockets = [Socket() for _ in range(5)]
    for number, each in enumerate(sockets):
        watch.timers.schedule(each, watch.now + number)
    watch.timers.await_answer(sockets[0], watch.now + 20)
    watch.now += seconds
    watch.timers.turn(watch.now)
    assert [each for each, _ in watch.looks] == [*sockets, sockets[0]]


def test_who_is_forgotten_is_not_looked_at(watch):
    one, other = Socket(), Socket()
    for each in (one, other):
        watch.timers.schedule(each, watch.now + 5)
        watch.timers.await_answer(each, watch.now + 5)

    def end(websocket):         # a look at one is the end of both
        for each in (one, other):
            each.sock = None
            watch.timers.forget(each)

    watch.on_look = end
    assert len(watch.pass_by(10)) == 1
    watch.timers.schedule(one, watch.now + 1)       # closed: too late
    assert len(watch.timers) == 0
    assert watch.pass_by(10) == []
