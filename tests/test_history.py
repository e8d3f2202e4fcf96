"""Streams of topics: offsets, limits, and what is recovered of a gap."""
from __future__ import annotations

import itertools

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from cp_wsrpc.errors import ConfigError
from cp_wsrpc.history import (
    History,
    Position,
    Recovery,
    Retention,
    new_epoch,
    read_rules,
)

from .recovery_model import RULES, RecoveryModel, model_settings


def make(clock, topics=None, **options):
    return History(read_rules({'news': {}} if topics is None else topics),
                   clock=clock, **options)


# -- engine.wsrpc.topics -----------------------------------------------------

@pytest.mark.parametrize('topics, word', [
    (5, 'must be a dict'), (['news'], 'must be a dict'), ({5: {}}, '5'),
    ({'': {}}, "''"), ({'news': 5}, r"\['news'\] = 5"),
    ({'news': True}, 'True'), ({'news': {'size': 5}}, "'size'.*history_size"),
    ({'news': {'mode': 'all'}}, "stream, latest, volatile, not 'all'"),
    ({'a.*': {'history_size': 0}}, r"\['a.\*'\].*history_size.*above 0"),
    ({'news': {'history_size': 1.5}}, 'whole number'),
    ({'news': {'history_size': True}}, 'whole number'),
    ({'news': {'history_bytes': '8 MiB'}}, "'8 MiB'"),
    ({'news': {'history_ttl_s': -1}}, 'above 0'),
    ({'news': {'history_ttl_s': float('inf')}}, 'above 0'),
    ({'news': {'history_ttl_s': float('nan')}}, 'above 0'),
])
def test_what_cannot_be_is_told_with_its_place(topics, word):
    with pytest.raises(ConfigError, match=word):
        read_rules(topics)


def test_defaults_stand_for_what_is_not_said():
    rules = read_rules({'news': {}, 'x': {'history_ttl_s': 5}})
    assert rules.find('news') == Retention(1000, 300, 8 << 20, 'stream')
    assert rules.find('x') == Retention(history_ttl_s=5)
    assert rules.find('other') is None
    assert not read_rules(None)


def test_patterns_are_those_of_the_rules_who_may_subscribe(clock):
    history = make(clock, {'chat.private': False, 'chat.*': {},
                           'news': {'mode': 'latest'}, 'other': None})
    assert history.append('chat.7', b'1').offset == 1
    assert history.retention('news').mode == 'latest'
    for topic in ('chat.private', 'other', 'chat'):
        assert history.append(topic, b'1') is None
        assert history.recover(topic, None) is None


# -- positions ---------------------------------------------------------------

def test_offsets_count_from_one_in_one_epoch(clock):
    history = make(clock, {'*': {}})
    first = history.append('news', b'1')
    assert first.offset == 1
    assert history.append('news', b'2') == (first.epoch, 2)
    assert history.append('other', b'1').epoch != first.epoch


def test_a_position_is_given_before_the_first_event_and_holds(clock):
    history = make(clock)
    before = history.position('news')
    assert before.offset == 0
    assert history.recover('news', None) == (before, None, ())
    assert history.append('news', b'1') == (before.epoch, 1)
    assert history.recover('news', before).events == [(1, b'1')]


def test_epochs_are_random():
    assert len({new_epoch() for _ in range(1000)}) == 1000


# -- what is recovered -------------------------------------------------------

@pytest.mark.parametrize('offset, recovered, events', [
    (-1, False, []), (0, False, []), (1, False, []), (2, True, [3, 4, 5]),
    (3, True, [4, 5]), (4, True, [5]), (5, True, []), (6, False, []),
    (10 ** 30, False, [])])
def test_a_gap_is_recovered_as_a_whole_or_not_at_all(
        clock, offset, recovered, events):
    history = make(clock, {'news': {'history_size': 3}})
    for number in range(1, 6):
        epoch, _ = history.append('news', b'%d' % number)
    found = history.recover('news', Position(epoch, offset))
    assert found.position == (epoch, 5)
    assert found.recovered is recovered
    assert list(found.events) == [(n, b'%d' % n) for n in events]


def test_another_epoch_is_never_recovered(clock):
    history = make(clock)
    position = history.append('news', b'1')
    assert history.recover('news', Position('other', 0)) == (
        position, False, ())


@pytest.mark.parametrize('count, size, recovered', [
    (300, 1, True), (301, 1, False), (2, 50, True), (2, 51, False)])
def test_a_gap_that_does_not_fit_is_not_recovered(clock, count, size,
                                                   recovered):
    history = make(clock)
    since = history.position('news')
    for _ in range(count):
        history.append('news', b'x' * size)
    found = history.recover('news', since,
                            max_bytes=300 if count > 2 else 100)
    assert found.recovered is recovered
    assert len(found.events) == (count if recovered else 0)


@pytest.mark.parametrize('limit, events, oldest', [
    ({'history_size': 2}, [b'1'] * 5, 4),
    ({'history_bytes': 10}, [b'12345'] * 5, 4),
    ({'history_bytes': 10}, [b'1', b'12345678', b'123'], 3),
    ({'history_bytes': 10}, [b'1'] * 3 + [b'x' * 11], 5),
])
def test_history_is_bounded_by_number_and_bytes(clock, limit, events, oldest):
    history = make(clock, {'news': limit})
    for text in events:
        epoch, _ = history.append('news', text)
    for offset, whole in ((oldest - 1, True), (oldest - 2, False)):
        assert history.recover(
            'news', Position(epoch, offset)).recovered is whole


def test_an_event_expires_and_not_an_instant_before(clock):
    history = make(clock, {'news': {'history_ttl_s': 10}})
    since = history.position('news')
    history.append('news', b'1')
    clock.now += 9.99
    last = history.append('news', b'2')
    assert history.recover('news', since).recovered
    clock.now = 110.0
    assert not history.recover('news', since).recovered
    assert history.recover('news', last._replace(offset=1)).recovered
    clock.now += 1000
    assert not history.recover('news', last._replace(offset=1)).recovered
    assert history.recover('news', last) == (last, True, [])


def test_latest_keeps_the_newest_of_each_key(clock):
    history = make(clock, {'cars': {'mode': 'latest', 'history_size': 2}})
    since = history.position('cars')
    for key, text in [('a', b'1'), ('b', b'2'), ('a', b'3'), ('a', b'4')]:
        history.append('cars', text, key)
    assert history.recover('cars', since).events == [(2, b'2'), (4, b'4')]
    assert history.recover(
        'cars', since._replace(offset=3)).events == [(4, b'4')]
    history.append('cars', b'5', 'c')           # "b" is let go
    assert not history.recover('cars', since).recovered
    assert history.recover('cars', since._replace(offset=2)).events == [
        (4, b'4'), (5, b'5')]


def test_latest_without_a_key_keeps_one(clock):
    history = make(clock, {'state': {'mode': 'latest'}})
    since = history.position('state')
    for number in range(50):
        history.append('state', b'%d' % number)
    assert history.recover('state', since).events == [(50, b'49')]


# -- memory ------------------------------------------------------------------

def test_streams_are_forgotten_when_nobody_uses_them(clock):
    history = make(clock, {'*': {'history_ttl_s': 10}}, forget_after_s=100)
    since = history.append('a', b'1')
    history.append('b', b'1')
    clock.now += 50
    history.recover('b', None)
    clock.now += 60
    history.append('c', b'1')
    assert len(history) == 2
    found = history.recover('a', since)
    assert (found.position.offset, found.recovered) == (0, False)
    assert found.position.epoch != since.epoch


def test_events_of_silent_topics_do_not_stay(clock):
    history = make(clock, {'*': {'history_ttl_s': 10}})
    for number in range(20):
        history.append(f't{number}', b'x' * 1000)
    clock.now += 10
    for _ in range(20):
        history.append('busy', b'1')
    assert sum(len(text) for stream in history._streams.values()
               for _, _, text in stream._kept.values()) == 20


@pytest.mark.parametrize('publishes', [True, False])
def test_names_that_clients_choose_do_not_fill_the_memory(clock, publishes):
    history = make(clock, {'*': {}}, max_streams=10)
    for number in range(100):
        if publishes:
            history.append(f't{number}', b'1')
        history.position(f't{number}')
        assert len(history) <= 10
    kept = history.append('t99', b'2')
    assert kept.offset == 2 if publishes else 1
    assert history.append('t0', b'1').offset == 1


def test_all_topics_together_hold_so_many_bytes(clock):
    history = make(clock, {'*': {}, 'mouse': {'mode': 'latest',
                                              'history_ttl_s': 5}},
                   max_bytes=1000)
    starts = {}
    for number in range(30):
        clock.now += 1
        for topic in (f't{number}', 'mouse'):
            starts[topic] = history.position(topic)
            history.append(topic, b'"%s"' % (b'x' * 98), f'k{number % 4}')
        assert history._bytes <= 1000
    held = {topic for topic, start in starts.items()
            if history.recover(topic, start).recovered}
    assert held == {'mouse', *(f't{n}' for n in range(24, 30))}
    history.append('t29', b'1' * 2000)      # alone it may be larger
    assert len(history.recover('t29', starts['t29']).events) == 2
    clock.now += 1000
    for topic in starts:
        history.recover(topic, None)
    assert history._bytes == 0


def test_a_stream_that_is_asked_for_while_all_others_hold_events(clock):
    history = make(clock, {'*': {}}, max_streams=2)
    history.append('a', b'1')
    history.append('b', b'1')
    position = history.position('c')
    assert history.append('c', b'1') == (position.epoch, 1)


# -- the model ---------------------------------------------------------------

class MemoryStore:
    def __init__(self, clock):
        self._clock = clock
        self.lose()

    def lose(self):
        self._history = History(read_rules(RULES), clock=self._clock)
        self.publish = self._history.append
        self.recover = self._history.recover


class MemoryModel(RecoveryModel):
    def open(self, clock):
        return MemoryStore(clock)


@pytest.mark.timeout(600)       # with WSRPC_FULL=1
def test_memory_gives_the_verdicts_of_the_model():
    run_state_machine_as_test(MemoryModel, settings=model_settings(4000))


def test_the_model_sees_a_part_that_is_called_whole(monkeypatch):
    whole = History.recover

    def wrong(self, *args):
        found = whole(self, *args)
        if found is not None and found.recovered and len(found.events) > 1:
            return Recovery(found.position, True, found.events[1:])
        return found

    monkeypatch.setattr(History, 'recover', wrong)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(MemoryModel, settings=settings(
            model_settings(4000), phases=[Phase.generate]))


@pytest.mark.parametrize('mode, keys', [('stream', 1), ('latest', 1),
                                        ('latest', 50)])
def test_a_long_run_stays_within_its_limits(clock, mode, keys):
    history = make(clock, {'news': Retention(20, 100, 500, mode)})
    names = itertools.cycle([f'k{n}' for n in range(keys)])
    for number in range(2000):
        clock.now += 1
        history.append('news', b'x' * (number % 60), next(names))
        kept = history._streams['news']._kept.values()
        assert len(kept) <= 20
        assert sum(len(text) for _, _, text in kept) <= 500 == \
            history._streams['news'].retention.history_bytes
        assert history._bytes == history._streams['news'].size == sum(
            len(text) for _, _, text in kept)
