"""One key, one effect, over several processes and a real Redis."""
from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import random
import signal
import threading
import time

import cherrypy
import pytest

from cp_wsrpc import Client, idempotency, shutdown
from cp_wsrpc.errors import Busy, RemoteError
from cp_wsrpc.hub import Timing
from cp_wsrpc.idempotency import Claim, Key

from .apps import assert_sent_away, request, result, starting_quickly
from .attack import in_time
from .cutting import Cut, call_from_node, call_with_keys, cutting
from .need import need
from .processes import spawn
from .rawpeer import CallFailed, RawPeer
from .serving import free_port, serving, wait_until

need('python:redis')

import cp_wsrpc.redis_keys as redis_keys  # noqa: E402 (needs the package)
from cp_wsrpc.redis_keys import ABANDONED, RedisKeyStore  # noqa: E402

from . import keys_app  # noqa: E402

FULL = os.environ.get('WSRPC_FULL') == '1'
KEY = Key('user|/api|str:ada', 'a-key-of-16-chars')
ONE = b'{"result":1}'


@pytest.fixture
def quick(monkeypatch):
    """A lease that ends while a test waits."""
    monkeypatch.setattr(redis_keys, 'LEASE_S', 0.3)
    monkeypatch.setattr(redis_keys, 'BEAT_S', 0.05)


# -- the store: each is a process of its own ---------------------------------

class Process:
    """A store, asked one thing after the other."""

    def __init__(self, redis):
        self.store = RedisKeyStore(redis.url)
        self.store.start()

    def ask(self, key=KEY, fingerprint='f'):
        said, event = [], threading.Event()

        def hear(claim):
            said.append(claim)
            event.set()

        self.store.ask(key, fingerprint, hear)
        assert event.wait(3), 'nothing was said'
        return said[0]

    def settle(self, outcome=ONE, key=KEY):
        self.store.settle(key, outcome)

    def watch(self, key=KEY):
        heard = []
        self.store.watch(key, heard.append)
        return heard

    def leave(self):
        """Without a word, as a process that is killed."""
        self.store._leave = lambda: None
        self.store.stop(3.0)


@pytest.fixture
def processes(redis):
    redis.do('FLUSHALL')
    with open_stores(redis) as stores:
        yield stores


@contextlib.contextmanager
def open_stores(redis):
    stores = [Process(redis) for _ in range(2)]
    try:
        yield stores
    finally:
        for one in stores:
            one.store.stop(3.0)


OURS = Claim(True, 'f')


def test_one_of_two_processes_has_a_key_and_the_other_its_outcome(processes):
    one, other = processes
    assert one.ask() == OURS
    for process in processes:
        assert process.ask(fingerprint='g') == Claim(False, 'f')
    one.settle()
    wait_until(lambda: other.ask() == Claim(False, 'f', ONE))
    assert one.ask() == Claim(False, 'f', ONE)
    assert other.ask(Key('user|/api|str:bob', KEY.text)) == OURS
    other.settle(None, Key('user|/api|str:bob', KEY.text))


def test_who_fails_as_he_is_told_keeps_it_from_nobody_else(processes):
    def fail(claim):
        raise AssertionError('a fault of ours')

    one, _ = processes
    one.store.ask(KEY, 'f', fail)
    assert one.ask(Key('user|/api|str:bob', KEY.text)) == OURS


@pytest.mark.usefixtures('quick')
@pytest.mark.parametrize('outcome', [ONE, None])
def test_who_waits_hears_it_in_both_processes(processes, outcome):
    one, other = processes
    one.ask()
    heard = [process.watch() for process in (one, one, other)]
    gone = []
    hear = gone.append
    for process in processes:
        process.store.watch(KEY, hear)
        process.store.unwatch(KEY, hear)
    one.settle(outcome)
    assert heard[:2] == [[outcome]] * 2
    wait_until(lambda: heard[2] == [outcome])
    late = other.watch()
    wait_until(lambda: late == [outcome])
    assert not one.store._watchers and not other.store._watchers
    assert gone == []


def test_what_is_told_through_the_feed_is_looked_at(processes):
    one, other = processes
    one.ask()
    assert not other.ask().is_ours
    heard = other.watch()
    told = []
    one.store._store.tell = lambda what, text: told.append((what, text))
    one.settle()
    wait_until(lambda: told)
    other.store.hear(told[0][1])
    wait_until(lambda: heard == [ONE])
    assert told[0][0] == 'settled'


def test_whoever_waits_for_another_is_sent_away_from_a_drain_on(processes):
    one, other = processes
    one.ask()
    assert not other.ask().is_ours
    before = other.watch()
    other.store.drain()
    after = other.watch()       # its claim was answered too late
    assert before == after == [None]


@pytest.mark.usefixtures('quick')
def test_of_a_process_that_is_gone_nobody_knows_and_nobody_runs_it_again(
        processes):
    one, other = processes
    one.ask()
    heard = other.watch()
    one.leave()
    wait_until(lambda: heard == [ABANDONED])
    assert other.ask() == Claim(False, 'f', ABANDONED)
    assert json.loads(ABANDONED)['error']['data'] == {'maybeExecuted': True}


def test_a_process_that_stops_says_so(processes):
    one, other = processes
    one.ask()
    one.store.stop(3.0)
    assert other.ask() == Claim(False, 'f', ABANDONED)


@pytest.mark.usefixtures('quick')
def test_who_was_taken_for_gone_may_still_say_what_came_of_it(
        redis, processes):
    one, other = processes
    one.ask()
    one.store._stopping = True          # as one that stands still
    one.store._leave = lambda: None
    one.store.stop(3.0)
    wait_until(lambda: other.ask().outcome == ABANDONED)
    again = RedisKeyStore(redis.url)
    again._ours, again._owner = one.store._ours, one.store._owner
    again.start()
    again.settle(KEY, ONE)
    wait_until(lambda: other.ask().outcome == ONE)
    again.stop(3.0)


def test_nobody_can_fill_it_and_what_has_ended_counts_no_more(
        processes, monkeypatch):
    monkeypatch.setattr(idempotency, 'MAX_ENTRIES_OF_USER', 3)
    monkeypatch.setattr(idempotency, 'MAX_ENTRIES_OF_NOBODY', 1)
    monkeypatch.setattr(redis_keys, 'KEEP_S', 1)
    one, other = processes
    keys = [Key(KEY.scope, f'{n}') for n in range(4)]
    for key in keys[:3]:
        assert one.ask(key).is_ours
    refused = other.ask(keys[3])
    assert isinstance(refused, Busy)
    assert refused.data == {'retryable': True, 'executed': False}
    assert not other.ask(keys[0]).is_ours
    one.settle(None, keys[0])
    wait_until(lambda: other.ask(keys[3]) == OURS)
    one.settle(ONE, keys[1])
    wait_until(lambda: other.ask(keys[0]) == OURS)     # after KEEP_S
    guests = [Key('nobody|/api', f'{n}') for n in range(2)]
    assert one.ask(guests[0]) == OURS
    assert isinstance(other.ask(guests[1]), Busy)


def test_all_together_have_a_limit(processes, monkeypatch):
    monkeypatch.setattr(idempotency, 'MAX_ENTRIES', 2)
    one, other = processes
    for n in range(2):
        assert one.ask(Key(f'user|/api|int:{n}', 'x')).is_ours
    assert isinstance(other.ask(Key('user|/api|int:5', 'x')), Busy)


def test_of_large_results_the_oldest_are_dropped_but_not_their_keys(
        processes, monkeypatch):
    monkeypatch.setattr(idempotency, 'MAX_BYTES', 100)
    one, other = processes
    keys = [Key(KEY.scope, f'{n}') for n in range(3)]
    outcome = b'{"result":"%s"}' % (b'x' * 33)
    for key in keys:
        one.ask(key)
        one.settle(outcome, key)
        wait_until(lambda key=key: other.ask(key).outcome)
    assert [other.ask(key).outcome for key in keys] == [
        idempotency.DROPPED, outcome, outcome]


def test_nothing_is_left_of_keys_that_came_to_nothing(redis, processes):
    one, _ = processes
    one.ask()
    one.settle(None)
    wait_until(lambda: not redis.do('EXISTS', 'wsrpc:i'))
    assert redis.do('HGETALL', 'wsrpc:i:about') in ([], {}, [
        b'bytes', b'0'])


# -- Redis is away -----------------------------------------------------------

def test_without_redis_keys_are_refused_within_2_s_and_then_at_once(fragile):
    with open_stores(fragile) as (one, other):
        assert one.ask() == OURS
        fragile.pause()
        try:
            for limit_s in (2.0, 0.1, 0.1):     # it waits for 1.5 s
                begun = time.monotonic()
                refused = one.ask(Key(KEY.scope, 'another'))
                assert time.monotonic() - begun < in_time(limit_s)
                assert isinstance(refused, Busy)
                assert refused.data == {'retryable': True,
                                        'executed': False}
            one.settle()                # kept, and told later
            assert one.watch() == [ONE]
        finally:
            fragile.go_on()
        wait_until(lambda: not isinstance(other.ask(), Busy))
        wait_until(lambda: other.ask() == Claim(False, 'f', ONE))
        # The claim that was refused may have come through: taken back.
        wait_until(lambda: other.ask(Key(KEY.scope, 'another')) == OURS)


@pytest.mark.usefixtures('quick')
def test_who_has_joined_does_not_wait_for_it_for_ever(fragile):
    with open_stores(fragile) as (one, other):
        one.ask()
        assert not other.ask().is_ours
        heard = other.watch()
        fragile.kill()
        wait_until(lambda: heard == [ABANDONED], 10)


def test_what_a_redis_without_its_data_is_told_again(fragile):
    with open_stores(fragile) as (one, other):
        one.ask()
        fragile.do('FLUSHALL')
        fragile.do('SCRIPT', 'FLUSH')
        one.settle()
        wait_until(lambda: not one.store._unsettled)
        assert other.ask() == Claim(False, 'f', ONE)


def test_a_full_redis_refuses_keys_and_is_told_later(fragile, monkeypatch):
    monkeypatch.setattr(redis_keys, 'BEAT_S', 0.05)
    with open_stores(fragile) as (one, other):
        assert one.ask() == OURS
        fragile.do('CONFIG', 'SET', 'maxmemory', '1')
        assert isinstance(one.ask(Key(KEY.scope, 'another')), Busy)
        one.settle()
        assert isinstance(other.ask(Key(KEY.scope, 'third')), Busy)
        fragile.do('CONFIG', 'SET', 'maxmemory', '0')
        wait_until(lambda: other.ask() == Claim(False, 'f', ONE))


BAD = [b'', b'{', b'5', b'[]', b'{"result":5', b'{"error":5}',
       b'{"result":"\xff"}', pickle.dumps({'result': 1}), b'[' * 10_000]


@pytest.mark.parametrize('text', BAD[1:])
def test_an_outcome_that_is_not_ours_counts_as_lost(redis, processes, text):
    one, other = processes
    one.ask()
    key, = redis.do('KEYS', 'wsrpc:i:k:*')
    redis.do('HSET', key, 'outcome', text)
    assert other.ask() == Claim(False, 'f', ABANDONED)


@pytest.mark.parametrize('name', ['wsrpc:i', 'wsrpc:i:results',
                                  'wsrpc:i:about'])
def test_keys_with_something_else_are_put_right(redis, processes, name):
    one, other = processes
    one.ask()
    redis.do('DEL', name)
    redis.do('SET', name, pickle.dumps(5))
    assert other.ask() == Claim(False, 'f')
    assert other.ask(Key(KEY.scope, 'another')) == OURS
    one.settle()
    wait_until(lambda: other.ask() == Claim(False, 'f', ONE))


def test_a_key_that_was_overwritten_is_not_run_again(redis, processes):
    one, other = processes
    one.ask()
    key, = redis.do('KEYS', 'wsrpc:i:k:*')
    redis.do('SET', key, 'x')
    assert other.ask().outcome == ABANDONED


# -- servers -----------------------------------------------------------------

@contextlib.contextmanager
def serve(redis):
    root = keys_app.Root(redis.url)
    root.api.redis.ping()       # has its connection before a test begins
    with serving(root, {'/api': keys_app.OPTIONS}, engine={
            'wsrpc.broker': redis.url, 'wsrpc.topics': keys_app.TOPICS},
            settings={'server.thread_pool': 20}) as server:
        yield server
    root.api.redis.connection_pool.disconnect()


@contextlib.contextmanager
def two_servers(redis, *constants):
    """(this process's, the port of another, that process)."""
    port = free_port()
    with starting_quickly(), serve(redis) as server, spawn(
            'tests.keys_app', str(port), redis.url, *constants,
            ready='Bus STARTED') as process:
        yield server, port, process


@pytest.fixture(scope='module')
def other_port(redis):
    port = free_port()
    with spawn('tests.keys_app', str(port), redis.url, ready='Bus STARTED'):
        yield port


@pytest.fixture
def pair(redis, other_port):
    with starting_quickly(), serve(redis) as server:
        yield server, other_port


KEYS = (f'{n:016}' for n in itertools.count())


def keyed(method, params, id=1, key=None):
    return {**request(method, params, id),
            '_meta': {'idempotencyKey': key or next(KEYS)}}


def paid(redis, n):
    return int(redis.do('GET', f'paid:{n}') or 0)


@pytest.mark.parametrize('method', ['pay', 'pay_async', 'pay_here'])
def test_another_process_replays_a_call_and_refuses_another(
        pair, redis, method):
    server, port = pair
    message = keyed(method, [method])
    with server.peer('/api') as here, RawPeer(port, '/api') as there:
        here.send_json(message)
        assert here.recv_json() == result(1, method)
        for peer in (there, here):
            peer.send_json({**message, 'id': 'again'})
            assert peer.recv_json() == result('again', method)
            peer.send_json({**message, 'params': ['other'], 'id': 3})
            error = peer.recv_json()['error']
            assert (error['code'], error['data']) == (-32602,
                                                      {'executed': False})
    assert paid(redis, method) == 1


def test_an_error_is_replayed_there_too(pair, redis):
    server, port = pair
    message = keyed('fail', ['error'])
    for peer in (server.peer('/api'), RawPeer(port, '/api')):
        with peer:
            peer.send_json(message)
            assert peer.recv_json()['error'] == {'code': 7, 'message': 'no'}
    assert paid(redis, 'error') == 1


def test_another_process_joins_a_call_that_runs(pair, redis):
    server, port = pair
    message = keyed('hold', ['joined'])
    with server.peer('/api') as here, RawPeer(port, '/api') as there:
        there.send_json(message)
        wait_until(lambda: paid(redis, 'joined'))
        here.send_json(message)
        here.send_json(request('add', [1, 2], 'meanwhile'))
        assert here.recv_json() == result('meanwhile', 3)
        redis.do('RPUSH', 'open:joined', 'x')
        begun = time.monotonic()
        assert there.recv_json() == here.recv_json() == result(1, 'joined')
        assert time.monotonic() - begun < 1     # and not at the next beat
    assert paid(redis, 'joined') == 1


def test_a_user_cannot_read_what_another_has_got(pair, redis):
    server, port = pair
    message = keyed('pay', ['scoped'])
    for times, (where, user) in enumerate([
            (server.port, 'ada'), (port, 'bob'), (server.port, 'bob'),
            (port, 'eve'), (port, 'ada')], 1):
        with RawPeer(where, '/api', headers={'X-User': user}) as peer:
            peer.send_json(message)
            assert peer.recv_json() == result(1, 'scoped')
        assert paid(redis, 'scoped') == (1, 2, 2, 3, 3)[times - 1]


def test_what_one_connection_publishes_keeps_its_order(pair):
    server, port = pair
    with server.peer('/api') as reader, RawPeer(port, '/api') as peer:
        reader.call('rpc.subscribe', {'topic': 'news', 'since': None})
        for n in range(60):
            params = {'topic': 'news', 'data': n}
            peer.send_json(keyed('rpc.publish', params, n) if n % 3
                           else request('rpc.publish', params, n))
        seen = [reader.recv_json()['params']['result'] for _ in range(60)]
        assert seen == list(range(60))


@pytest.mark.usefixtures('quick')
def test_a_process_that_dies_leaves_an_error_that_says_so(redis):
    with two_servers(redis, 'LEASE_S=0.6', 'BEAT_S=0.1') as (
            server, port, process), server.peer('/api') as here, \
            Client(server.ws_url('/api')) as client:
        message = keyed('hold', ['dead'])
        with RawPeer(port, '/api') as there:
            there.send_json(message)
            wait_until(lambda: paid(redis, 'dead'))
            process.send_signal(signal.SIGKILL)
            process.wait()
        here.send_json(message)
        assert here.recv_json(10)['error'] == {
            'code': -32000, 'data': {'maybeExecuted': True},
            'message': 'the process that ran the call is gone: it may have '
                       'run'}
        with pytest.raises(RemoteError) as caught:
            client.call('hold', 'dead', idempotency_key=message['_meta'][
                'idempotencyKey']).result(5)
        assert caught.value.executed and not caught.value.retryable
    assert paid(redis, 'dead') == 1


def test_a_process_that_stops_sends_away_who_has_joined_there(redis):
    with two_servers(redis) as (server, port, process), \
            server.peer('/api') as here, RawPeer(port, '/api') as there:
        message = keyed('hold', ['stops'])
        here.send_json(message)
        wait_until(lambda: paid(redis, 'stops'))
        there.send_json(message)
        there.send_json(request('add', [1, 2], 'sum'))
        assert there.recv_json() == result('sum', 3)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        error = there.recv_json(10)['error']
        assert (error['code'], error['data']) == (
            -32011, {'executed': False, 'retryable': True})
        assert_sent_away(there)
        process.wait()
        assert time.monotonic() - begun < 4
        redis.do('RPUSH', 'open:stops', 'x')
        assert here.recv_json() == result(1, 'stops')
    assert paid(redis, 'stops') == 1


def test_without_redis_calls_without_a_key_go_on(fragile):
    with starting_quickly(), serve(fragile) as server, \
            server.peer('/api') as peer, contextlib.ExitStack() as stack:
        assert peer.call('add', [1, 2]) == 3
        others = [stack.enter_context(server.peer('/api'))
                  for _ in range(30)]       # thrice as many as workers
        fragile.pause()
        try:
            begun = time.monotonic()
            for other in others:
                other.send_json(keyed('add', [1, 2]))
            for _ in range(20):
                before = time.monotonic()
                assert peer.call('add', [1, 2]) == 3
                assert time.monotonic() - before < in_time(0.5)
            for other in others:
                error = other.recv_json()['error']
                assert error['code'] == -32009
                assert error['data'] == {'executed': False,
                                         'retryable': True}
            assert time.monotonic() - begun < in_time(2)
        finally:
            fragile.go_on()

        def answer():
            try:
                peer.send_json(keyed('add', [2, 3], 'back'))
                return peer.recv_json().get('result')
            except CallFailed:
                return None
        assert wait_until(answer) == 5


def test_the_store_has_one_thread_and_ends_with_the_engine(fragile):
    with serve(fragile):
        names = [thread.name for thread in threading.enumerate()]
        assert names.count('wsrpc-keys') == 1
        cherrypy.engine.stop()
        names = [thread.name for thread in threading.enumerate()]
        assert 'wsrpc-keys' not in names
        cherrypy.engine.start()


def test_a_redis_that_is_silent_lengthens_no_stop(fragile, monkeypatch):
    monkeypatch.setattr(shutdown, 'END_S', 0.5)
    with serve(fragile) as server, server.peer('/api') as peer:
        peer.call('rpc.subscribe', ['news'])
        fragile.pause()
        try:
            # One of its threads waits for an answer as it begins.
            peer.send_json(keyed('add', [1, 2]))
            monkeypatch.setattr(cherrypy.engine.wsrpc.hub, 'timing', Timing(
                drain_timeout_s=0.1))
            begun = time.monotonic()
            cherrypy.engine.wsrpc.stop()
            assert time.monotonic() - begun < 2     # it took 3.1
        finally:
            fragile.go_on()
        cherrypy.engine.wsrpc.start()


# -- D10: cut, and connected to another process -------------------------------

REQUEST_BYTES, REPLY_BYTES = 125, 38


def cuts():
    every = [Cut(direction, at, how) for direction, count in (
        ('up', REQUEST_BYTES), ('down', REPLY_BYTES))
        for at in range(count) for how in ('close', 'reset')]
    seed = random.randrange(1 << 32)
    print(f'seed {seed}')
    return random.Random(seed).choices(every, k=10_000 if FULL else 100)


@contextlib.contextmanager
def cut_sites(redis):
    limits = ['MAX_ENTRIES=30000', 'MAX_ENTRIES_OF_NOBODY=30000']
    with two_servers(redis, *limits) as (server, port, _), \
            cutting(server.port, port) as proxy:
        yield proxy, [proxy.url('/api', cut) for cut in cuts()]


@pytest.fixture
def room(monkeypatch):
    for limit in ('MAX_ENTRIES', 'MAX_ENTRIES_OF_NOBODY'):
        monkeypatch.setattr(idempotency, limit, 30_000)


def assert_one_effect_each(redis, proxy, urls, results):
    assert results == list(range(len(urls)))
    counts = redis.do('MGET', *(f'paid:{n}' for n in range(len(urls))))
    assert counts == [b'1'] * len(urls)
    assert proxy.connections > len(urls) * 1.9, 'few were cut at all'
    assert proxy.came_later > len(urls) * 0.9


@pytest.mark.usefixtures('room')
@pytest.mark.timeout(400 if FULL else 60)
def test_the_python_client_has_one_effect_over_two_processes(fragile):
    with cut_sites(fragile) as (proxy, urls):
        assert_one_effect_each(fragile, proxy, urls, call_with_keys(
            urls, ['pay', 'pay_async', 'pay_here']))


@pytest.mark.usefixtures('room')
@pytest.mark.timeout(400 if FULL else 60)
def test_the_javascript_client_has_one_effect_over_two_processes(
        fragile, need):
    with cut_sites(fragile) as (proxy, urls):
        assert_one_effect_each(fragile, proxy, urls, call_from_node(
            need, urls, timeout=380 if FULL else 60))
