"""What is for one user: in one process, and in two through Redis."""
from __future__ import annotations

import contextlib
import itertools
import time

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import audience
from cp_wsrpc.client import Client
from cp_wsrpc.errors import BrokerUnavailable
from cp_wsrpc.users import Target

from .attack import in_time
from .need import need
from .presence_app import CONFIG, TOPICS, Root, as_user
from .rawpeer import PeerClosed, RawPeer
from .redis_server import redis_server
from .serving import free_port, serving, spawn, wait_until

need('python:redis')

from cp_wsrpc.redis_store import RedisStore, read_entry  # noqa: E402

DICT = {'id': 7, 'name': 'grace'}


@pytest.fixture(scope='module')
def other(redis):
    """The port of another process."""
    port = free_port()
    with spawn('tests/presence_app.py', str(port), redis.url,
               ready='Bus STARTED'):
        yield port


@pytest.fixture(params=['memory', 'redis'])
def ports(request):
    """Of all processes; the first is this one."""
    engine = {'wsrpc.topics': TOPICS}
    more = []
    if request.param == 'redis':
        engine['wsrpc.broker'] = request.getfixturevalue('redis').url
        more = [request.getfixturevalue('other')]
    with serving(Root(), CONFIG, engine=engine) as server:
        yield [server.port, *more]


@contextlib.contextmanager
def peers_of(ports, *users):
    """{user: his connections, two in each process}."""
    with contextlib.ExitStack() as stack:
        yield [[stack.enter_context(RawPeer(port, as_user(user)))
                for port in ports for _ in range(2)] for user in users]


def next_event(peer):
    params = peer.recv_json()['params']
    return params['result'], params.get('offset')


# -- publish -----------------------------------------------------------------

@pytest.mark.parametrize('topic', ['plain', 'kept', 'mouse'])
def test_an_event_for_one_user_comes_to_all_his_tabs_alone(ports, topic):
    with peers_of(ports, 'ada', 7, DICT, None) as groups:
        everybody = list(itertools.chain(*groups))
        for peer in everybody:
            peer.call('rpc.subscribe', {'topic': topic})
        for number, user in enumerate(['ada', 7, dict(reversed(DICT.items())),
                                       '7', 'eve']):
            assert cp_wsrpc.publish(topic, number, user=user) is None
        position = cp_wsrpc.publish(topic, 'all')
        offset = position and position.offset
        for number, group in enumerate(groups):
            for peer in group:
                if number < 3:
                    assert next_event(peer) == (number, None)
                assert next_event(peer) == ('all', offset)


def test_a_history_stays_whole_for_all_around_an_event_for_one(ports):
    before = cp_wsrpc.publish('kept', 'a')
    cp_wsrpc.publish('kept', 'secret', user='ada')
    cp_wsrpc.publish('kept', 'b')
    for user in ('ada', 'eve'):
        with RawPeer(ports[-1], as_user(user)) as peer:
            reply = peer.call('rpc.subscribe', {
                'topic': 'kept', 'since': before._asdict()})
        assert reply['recovered'] is True
        assert [event['data'] for event in reply['publications']] == ['b']


def test_a_client_delivers_it_between_the_others_and_sees_no_gap(ports):
    seen, joins = [], []
    url = f'ws://127.0.0.1:{ports[-1]}{as_user("ada")}'
    with Client(url) as client:
        client.subscribe('kept', seen.append, onjoin=joins.append)
        wait_until(lambda: joins)
        for number in range(3):
            cp_wsrpc.publish('kept', number)
            cp_wsrpc.publish('kept', f'for you {number}', user='ada')
        wait_until(lambda: len(seen) == 6)
    assert seen == [0, 'for you 0', 1, 'for you 1', 2, 'for you 2']
    assert joins == [None]


def test_who_listens_by_rpc_on_is_meant_too(ports):
    with RawPeer(ports[-1], as_user('ada')) as ada, \
            RawPeer(ports[-1], as_user('eve')) as eve:
        for peer in (ada, eve):
            peer.call('rpc.on', ['plain'])
        cherrypy.engine.publish('wsrpc-publish', 'plain', 1, user='ada')
        cp_wsrpc.publish('plain', 2)
        assert ada.recv_json() == {'notification': 'plain', 'params': [1]}
        for peer in (ada, eve):
            assert peer.recv_json()['params'] == [2]


WRONG = [
    (1, {'user': None}, ValueError), (object(), {'user': 'ada'}, TypeError),
    (1, {'user': 'ada', 'key': 'k'}, TypeError),
    ('x' * (5 << 20), {'user': 'ada'}, cp_wsrpc.MessageTooBig)]


def test_what_cannot_be_meant_is_the_publishers_error(ports):
    for data, how, error in WRONG:
        with pytest.raises(error):
            cp_wsrpc.publish('plain', data, **how)


def test_a_broadcast_for_one_user_reaches_all_processes(ports):
    with peers_of(ports, DICT, 'eve') as (his, hers):
        for peer in (*his, *hers):
            peer.call('rpc.ping')
        cp_wsrpc.broadcast('f', 1, user=DICT)
        cp_wsrpc.broadcast('f', 2)
        for peer in his:
            assert peer.recv_json()['params'] == [1]
        for peer in (*his, *hers):
            assert peer.recv_json()['params'] == [2]


def test_the_connections_of_a_user_are_those_of_this_process(ports):
    with peers_of(ports, DICT, 'eve') as groups:
        for peer in itertools.chain(*groups):
            peer.call('rpc.ping')
        for how in ({'user': DICT}, {'user': DICT, 'endpoint': '/api'}):
            found = cp_wsrpc.connections(**how)
            assert [peer.user for peer in found] == [DICT, DICT]
        assert cp_wsrpc.connections(user=DICT, endpoint='/x') == []
        loop, who = cherrypy.engine.wsrpc.manager, Target(DICT)
        assert len(loop.sockets_of(who)) == 2
    wait_until(lambda: not loop.sockets_of(who))
    assert Target(DICT).key not in loop._of_users       # nothing is left


# -- close_user --------------------------------------------------------------

def closings(peers):
    """How each was closed, and how long the last one took."""
    begun = time.monotonic()
    return ([peer.recv_close() for peer in peers],
            time.monotonic() - begun)


def test_all_connections_of_a_user_are_closed_within_a_second(ports):
    with peers_of(ports, DICT, 'eve', None) as (his, hers, anonymous):
        for peer in (*his, *hers, *anonymous):
            peer.call('rpc.ping')
        assert cp_wsrpc.close_user(DICT, reason='bye') == 2
        how, took_s = closings(his)
        assert how == [(4403, 'bye')] * len(his)
        assert took_s < in_time(1)
        for peer in (*hers, *anonymous):
            assert peer.call('rpc.ping', [1]) == [1]
        cherrypy.engine.publish('wsrpc-close-user', 'eve', 4401)
        assert closings(hers)[0] == [(4401, '')] * len(hers)
        assert cp_wsrpc.close_user(DICT) == 0


def test_what_was_pushed_before_goes_out_and_nothing_after_it(ports):
    with peers_of(ports, 'ada') as (his,):
        for peer in his:
            peer.call('rpc.subscribe', ['plain'])
        for number in range(50):
            cp_wsrpc.publish('plain', number)
        cp_wsrpc.close_user('ada')
        cp_wsrpc.publish('plain', 'late')
        for peer in his:
            seen = [next_event(peer)[0] for _ in range(50)]
            assert seen == list(range(50))
            assert peer.recv_close()[0] == 4403


@pytest.mark.parametrize('method', ['close_user', 'close_user_async'])
def test_a_method_that_closes_its_own_caller_is_answered(ports, method):
    with peers_of(ports, 'ada') as (his,):
        for peer in his:
            peer.call('rpc.ping')
        assert his[-1].call(method, ['ada']) == 2
        for peer in his:
            assert peer.recv_close()[0] == 4403


def test_a_client_stays_away_after_it(ports):
    with Client(f'ws://127.0.0.1:{ports[-1]}{as_user("ada")}') as client:
        client.wait_connected(10)
        cp_wsrpc.close_user('ada')
        with pytest.raises(cp_wsrpc.ConnectionLostError, match='4403'):
            client.wait(10)


def test_plain_handlers_are_closed_too():
    class Plain(cp_wsrpc.WebSocket):
        pass

    config = {'/api': {**CONFIG['/api'], 'tools.wsrpc.handler_cls': Plain}}
    with serving(Root(), config) as server, \
            server.peer(as_user('ada')) as peer:
        wait_until(lambda: len(cherrypy.engine.wsrpc.manager) == 1)
        assert cp_wsrpc.close_user('ada') == 1
        assert peer.recv_close()[0] == 4403


def test_who_is_shaking_hands_meanwhile_is_closed():
    class Slow:
        def __call__(self):
            cp_wsrpc.close_user('ada')      # when the guards have passed
            return 'ada'

    config = {'/api': {**CONFIG['/api'], 'tools.wsrpc.user': Slow()}}
    with serving(Root(), config) as server:
        with server.peer('/api') as peer:
            assert peer.recv_close()[0] == 4403
    with serving(Root(), CONFIG) as server:
        cp_wsrpc.close_user('ada')
        with server.peer(as_user('ada')) as peer:   # who comes later is not
            assert peer.call('rpc.ping', [1]) == [1]


@pytest.mark.parametrize('args, error', [
    ((None,), ValueError), (('ada', 99), ValueError),
    (('ada', 1006), ValueError),
    (('ada', 2999), ValueError), (('ada', 1000), None),
    (('ada', 4403, 'x' * 500), None)])
def test_what_cannot_be_closed_is_the_callers_error(ports, args, error):
    with RawPeer(ports[0], '/api') as anonymous, RawPeer(
            ports[0], as_user('ada')) as ada:
        for peer in (anonymous, ada):
            peer.call('rpc.ping')
        if error is None:
            assert cp_wsrpc.close_user(*args) == 1
            with pytest.raises(PeerClosed):
                ada.recv_json()
        else:
            with pytest.raises(error):
                cp_wsrpc.close_user(*args)
            assert ada.call('rpc.ping', [1]) == [1]
        assert anonymous.call('rpc.ping', [1]) == [1]


def test_without_redis_those_of_this_process_are_closed_all_the_same(need):
    with redis_server(need('redis-server')) as redis, serving(
            Root(), CONFIG, engine={'wsrpc.broker': redis.url}) as server, \
            server.peer(as_user('ada')) as ada:
        ada.call('rpc.ping')
        redis.pause()
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            cp_wsrpc.close_user('ada')
        assert time.monotonic() - begun < in_time(2)     # 1.5
        assert ada.recv_close()[0] == 4403
        with pytest.raises(BrokerUnavailable):
            cp_wsrpc.publish('plain', 1, user='ada')
        redis.go_on()


def test_whom_the_feed_does_not_tell_of_it_is_closed_all_the_same(
        redis, monkeypatch):
    monkeypatch.setattr(audience, 'FEED_WAIT_S', 0.1)
    with serving(Root(), CONFIG, engine={
            'wsrpc.broker': redis.url}) as server, \
            server.peer(as_user('ada')) as ada:
        ada.call('rpc.ping')
        plugin = cherrypy.engine.wsrpc
        plugin.hub.broker._backend._reader.stop(1.0)    # as if Redis went
        cp_wsrpc.close_user('ada')
        with server.peer(as_user('ada')) as later, redis.client() as client:
            later.call('rpc.ping')
            assert ada.recv_close()[0] == 4403
            (_, fields), = client.xrevrange('wsrpc:feed', count=1)
            entry = read_entry(fields)
            plugin._hear(entry.w, bytes(entry.d))   # as it comes back
            assert later.call('rpc.ping', [1]) == [1]


def test_a_program_that_is_no_server_means_one_user_too(redis, other):
    with cp_wsrpc.Publisher(redis.url) as publisher, \
            RawPeer(other, as_user('ada')) as ada, \
            RawPeer(other, as_user('eve')) as eve:
        for peer in (ada, eve):
            peer.call('rpc.subscribe', ['plain'])
        publisher.publish('plain', 1, user='ada')
        publisher.close_user('ada')
        publisher.publish('plain', 2)
        assert next_event(ada) == (1, None)
        assert ada.recv_close()[0] == 4403
        assert next_event(eve) == (2, None)
        for method in (publisher.close_user,
                       lambda user: publisher.publish('plain', 1, user=user)):
            with pytest.raises(ValueError):
                method(None)


def test_what_others_have_put_into_the_feed_harms_nobody(redis, other):
    with contextlib.closing(RedisStore(redis.url)) as store, RawPeer(
            other, as_user('ada')) as ada:
        ada.call('rpc.subscribe', ['plain'])
        for what in ('publish', 'close_user', 'broadcast', 'nonsense'):
            for text in (b'{}', b'[]', b'{"topic":"plain","data":1}',
                         b'{"user":null,"topic":"plain","data":1}',
                         b'{"user":"ada","code":3,"reason":"","by":""}'):
                store.tell(what, text)
        store.publish('plain', b'2', None, None)
        assert next_event(ada) == (2, None)
        with RawPeer(other, as_user('ada')) as another:
            assert another.call('rpc.ping', [1]) == [1]


def test_an_async_method_closes_those_of_its_process_without_redis(need):
    with redis_server(need('redis-server')) as redis, serving(
            Root(), CONFIG, engine={'wsrpc.broker': redis.url}) as server, \
            server.peer(as_user('ada')) as one, \
            server.peer(as_user('ada')) as two:
        two.call('rpc.ping')
        redis.kill()
        assert one.call('close_user_async', ['ada']) == 2
        for peer in (one, two):
            assert peer.recv_close()[0] == 4403
