"""The methods whose names begin with ``rpc.``: shapes, rights, limits."""
from __future__ import annotations

import contextlib
import threading

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import RPCError, expose, nonblocking
from cp_wsrpc.statistics import read_namespace

from .apps import (
    WAIT_S,
    Gate,
    failure_of,
    only_connection,
    recv_all,
    request,
    result,
    serving_api,
)
from .serving import wait_until


class Api:
    pass


ALL = {'subscribe': ['*'], 'publish': ['*']}


@pytest.mark.parametrize(('method', 'params', 'code', 'words'), [
    ('rpc.subscribe', [], -32602, '[topic]'),
    ('rpc.subscribe', ['a', 'b'], -32602, '[topic]'),
    ('rpc.subscribe', [5], -32602, 'topic'),
    ('rpc.subscribe', 5, -32602, 'topic'),
    ('rpc.subscribe', None, -32602, 'topic'),
    ('rpc.subscribe', {'topic': None}, -32602, 'topic'),
    ('rpc.subscribe', {}, -32602, 'topic'),
    ('rpc.subscribe', ['x' * 201], -32600, '200'),
    ('rpc.unsubscribe', [], -32602, '[id]'),
    ('rpc.unsubscribe', [1], -32602, '[id]'),
    ('rpc.unsubscribe', ['a', 'b'], -32602, '[id]'),
    ('rpc.publish', ['news', 1], -32602, 'topic'),
    ('rpc.publish', {'topic': 'news'}, -32602, 'data'),
    ('rpc.publish', {'data': 1}, -32602, 'topic'),
    ('rpc.publish', {'topic': 5, 'data': 1}, -32602, 'topic'),
    ('rpc.publish', {'topic': 'a', 'data': 1, 'key': 5}, -32602, 'key'),
    ('rpc.publish', {'topic': 'a', 'data': 1, 'key': 'x' * 201}, -32600,
     '200'),
    ('rpc.publish', {'topic': 'x' * 201, 'data': 1}, -32600, '200'),
    ('rpc.subscribe', ['x'] * 2000, -32600, '4096 bytes'),
    ('rpc.off', ['x'] * 200_000, -32600, '409600 bytes'),
    ('rpc.off', [f'{n}' for n in range(101)], -32006, '100 topics'),
    ('rpc.on', [], -32602, 'name'), ('rpc.on', [1], -32602, 'name'),
    ('rpc.on', None, -32602, 'name'), ('rpc.off', {}, -32602, 'name'),
    ('rpc.nothing', None, -32601, 'not found'),
    ('rpc.discover', None, -32601, 'not found'),
    ('rpc.subscription', None, -32601, 'not found')])
def test_a_wrong_call_of_a_service_is_worded(method, params, code, words):
    with serving_api(Api(), ALL) as server, server.peer('/api') as peer:
        found, message, _ = failure_of(peer, method, params)
        assert found == code and words in message, message


@pytest.mark.parametrize('params', [None, [], [0], {'a': 1}, [[]], 5, ''])
def test_a_ping_returns_what_it_was_given(params):
    with serving_api(Api()) as server, server.peer('/api') as peer:
        assert repr(peer.call('rpc.ping', params)) == repr(params)


def test_no_controller_shadows_a_service():
    from cp_wsrpc import expose

    class Rpc:
        @expose
        def ping(self, *args):
            return 'mine'

    class Shadow:
        rpc = Rpc()

    with serving_api(Shadow()) as server, server.peer('/api') as peer:
        assert peer.call('rpc.ping', [1]) == [1]


def test_a_subscribe_may_name_its_topic_in_an_object():
    with serving_api(Api(), ALL) as server, server.peer('/api') as peer:
        peer.call('rpc.subscribe', {'topic': 'news'})
        cp_wsrpc.publish('news', 1)
        assert peer.recv_json()['params']['result'] == 1


@pytest.mark.parametrize('topic', [
    '__proto__', 'constructor', '', 'ü', 'a\x00b', '*', 'x' * 200])
def test_a_topic_may_have_any_name(topic):
    with serving_api(Api(), ALL) as server, server.peer('/api') as peer:
        peer.call('rpc.subscribe', [topic])
        cp_wsrpc.publish(topic, 1)
        assert peer.recv_json()['params']['topic'] == topic


# -- who may ---------------------------------------------------------------


RULES = [
    (None, 'news', False),
    (['news'], 'news', True), (['news'], 'new', False),
    (['news'], 'News', False), (['room.*'], 'room.', True),
    (['room.*'], 'room.1.2', True), (['room.*'], 'aroom.1', False),
    (['*'], 'anything', True), (['a*z'], 'abz', True),
    (['a*z'], 'ab', False), ({'news': True}, 'news', True),
    ({'news': False, '*': True}, 'news', False),
    ({'news': False, '*': True}, 'chat', True)]


@pytest.mark.parametrize('method', ['rpc.subscribe', 'rpc.on',
                                    'rpc.publish'])
def test_a_list_or_a_dict_of_patterns_says_who_may(method):
    for rules, topic, allowed in RULES:
        option = 'publish' if method == 'rpc.publish' else 'subscribe'
        params = {'topic': topic, 'data': 1} if method == 'rpc.publish' \
            else [topic]
        options = {} if rules is None else {option: rules}
        with serving_api(Api(), options) as server:
            with server.peer('/api') as peer:
                if allowed:
                    peer.call(method, params)
                else:
                    assert failure_of(peer, method, params) == (
                        -32012, 'Topic refused', None), (rules, topic)


asked = []


def _decide(connection, topic):
    asked.append((connection.remote, topic, cp_wsrpc.connection
                  is connection, cherrypy.request.headers['User-Agent'],
                  threading.current_thread().name[:8]))
    if topic == 'raise':
        raise KeyError('a secret')
    if topic == 'exit':
        raise SystemExit('a secret')
    if topic == 'words':
        raise RPCError(9, 'no', [1])
    return topic != 'no'


@nonblocking
def _decide_here(connection, topic):
    return _decide(connection, topic)


@pytest.mark.parametrize('rule', [_decide, _decide_here])
@pytest.mark.parametrize('method', ['rpc.subscribe', 'rpc.on',
                                    'rpc.publish'])
def test_a_callable_says_who_may(method, rule):
    def params(topic):
        return ({'topic': topic, 'data': 1} if method == 'rpc.publish'
                else [topic])

    with serving_api(Api(), {'subscribe': {'*': rule},
                             'publish': {'*': rule}}) as server:
        with server.peer('/api', headers={'User-Agent': 'me'}) as peer:
            asked.clear()
            peer.call(method, params('yes'))
            port = peer.sock.getsockname()[1]
            on_loop = rule is _decide_here and method != 'rpc.publish'
            assert asked == [(f'127.0.0.1:{port}', 'yes', True, 'me',
                              'wsrpc-io' if on_loop else 'wsrpc-wo')]
            assert failure_of(peer, method, params('no'))[0] == -32012
            assert failure_of(peer, method, params('words')) == (
                9, 'no', [1])
            for topic in ('raise', 'exit'):
                assert failure_of(peer, method, params(topic))[:2] == (
                    -32000, 'internal error')
            assert peer.call('rpc.ping', [1]) == [1]


async def _coroutine(connection, topic):
    return False


@pytest.mark.parametrize('method', ['rpc.subscribe', 'rpc.on',
                                    'rpc.publish'])
def test_a_coroutine_is_no_permission(method):
    rules = {'*': lambda connection, topic: _coroutine(connection, topic)}
    params = {'topic': 't', 'data': 1} if method == 'rpc.publish' else ['t']
    with serving_api(Api(), {'subscribe': rules,
                             'publish': rules}) as server:
        with server.peer('/api') as peer:
            assert failure_of(peer, method, params)[1] == 'internal error'


def test_a_rule_may_touch_the_session_and_lets_it_go():
    class Site:
        api = Api()

        @cherrypy.expose
        def index(self):
            return str(cherrypy.session.get('user'))

        @cherrypy.expose
        def login(self):
            cherrypy.session['user'] = 'ada'
            return 'in'

    def allow(connection, topic):
        return cherrypy.session.get('user') == topic

    from .serving import serving
    config = {'/': {'tools.sessions.on': True},
              '/api': {'tools.wsrpc.on': True,
                       'tools.wsrpc.subscribe': {'*': allow}}}
    with serving(Site(), config) as server:
        cookie = {'Cookie': server.http('/login').headers[
            'set-cookie'].split(';')[0]}
        with server.peer('/api', headers=cookie) as peer:
            peer.call('rpc.subscribe', ['ada'])
            assert failure_of(peer, 'rpc.subscribe', ['bob'])[0] == -32012
            # nobody holds its lock
            assert server.http('/', headers=cookie,
                               timeout_s=3).body == b'ada'


# -- publish ---------------------------------------------------------------


def test_a_client_may_publish_where_it_is_let():
    with serving_api(Api(), {'subscribe': ['room.*'],
                             'publish': ['room.1']}) as server:
        with server.peer('/api') as one, server.peer('/api') as two:
            two.call('rpc.subscribe', ['room.1'])
            for data in ({'a': 1}, None, 0, [], 'ü'):
                assert one.call('rpc.publish', {
                    'topic': 'room.1', 'data': data}) is None
                assert two.recv_json()['params']['result'] == data
            one.notify('rpc.publish', {'topic': 'room.1', 'data': 'last'})
            assert two.recv_json()['params']['result'] == 'last'
            assert failure_of(one, 'rpc.publish', {
                'topic': 'room.2', 'data': 1})[0] == -32012


# -- limits ----------------------------------------------------------------


def test_so_many_subscriptions_and_one_more_is_refused():
    with serving_api(Api(), {**ALL, 'max_subscriptions': 3}) as server:
        with server.peer('/api') as peer:
            ids = [peer.call('rpc.subscribe', [f't{n}']) for n in range(2)]
            peer.call('rpc.on', ['t2'])
            for method in ('rpc.subscribe', 'rpc.on'):
                assert failure_of(peer, method, ['t3'])[0] == -32006
            # what is there already is no more
            assert peer.call('rpc.subscribe', ['t0']) == ids[0]
            assert peer.call('rpc.on', ['t2']) == {'t2': 'ok'}
            peer.call('rpc.unsubscribe', [ids[1]])
            assert peer.call('rpc.subscribe', ['t3'])
            assert failure_of(peer, 'rpc.subscribe', ['t4'])[0] == -32006


def test_a_join_that_fails_leaves_the_room_for_another(monkeypatch):
    def fail(*args):
        raise SystemExit('a fault of ours')

    with serving_api(None, {'subscribe': ['*'], 'max_subscriptions': 1},
                     ) as server, server.peer('/api') as peer:
        with monkeypatch.context() as patched:
            patched.setattr(cherrypy.engine.wsrpc.hub.broker, 'recover', fail)
            assert failure_of(peer, 'rpc.subscribe', {
                'topic': 'a', 'since': None})[0] == -32000
        assert peer.call('rpc.subscribe', {'topic': 'b', 'since': None})


def test_the_default_is_a_hundred_topics():
    with serving_api(Api(), ALL) as server, server.peer('/api') as peer:
        for n in range(100):
            peer.call('rpc.subscribe', [str(n)])
        assert failure_of(peer, 'rpc.subscribe', ['100'])[0] == -32006


def test_a_number_that_no_subscriber_could_read_is_not_published():
    with serving_api(Api(), ALL) as server, server.peer('/api') as peer:
        for data, code in (
                ('1e999', -32602), ('[{"a":-1E+400}]', -32602),
                (f'1{"0" * 290}e50', -32602), ('9' * 400, None),
                (f'[1{"0" * 307}.5e9]', -32602),
                ('["1e999",1e300,0.5e-9]', None)):
            peer.send_text(
                '{"jsonrpc":"2.0","method":"rpc.publish","id":1,'
                f'"params":{{"topic":"a","data":{data}}}}}')
            assert peer.recv_json().get('error', {}).get('code') == code


def test_what_was_missed_is_not_sent_a_hundred_times_over():
    class Large:
        @expose
        def large(self, size: int = 9_000):
            return 'x' * size

    ask = request('rpc.subscribe', {'topic': 'kept', 'since': None})
    with serving_api(Large(), {**ALL, 'out_max_bytes': 40_000}, engine={
            'wsrpc.topics': {'kept': {}, 'few': {}}}) as server, \
            server.peer('/api') as peer:
        peer.send_json(ask)
        start = peer.recv_json()['result']['epoch']
        cp_wsrpc.publish('kept', 'x' * 9_000)
        peer.recv_json()
        ask['params']['since'] = {'epoch': start, 'offset': 0}
        peer.send_json([{**ask, 'id': id} for id in range(20)])
        found = [said['result']['recovered'] for said in peer.recv_json()]
        assert found.count(True) == 2 and found.count(False) == 18
        peer.send_json(ask)         # all of that is sent
        assert peer.recv_json()['result']['recovered'] is True
        # Nor is any batch larger than one message may be.
        peer.send_json([request('large', id=id) for id in range(20)])
        replies = peer.recv_json()
        assert {reply['id'] for reply in replies} == set(range(20))
        codes = [reply['error']['code'] for reply in replies
                 if 'error' in reply]
        assert set(codes) == {-32008} and len(codes) >= 12
        # But whoever joins in it is told so, and of what he has missed.
        cp_wsrpc.publish('kept', 'x' * 2_000)
        peer.recv_json()
        start = peer.call('rpc.subscribe', {'topic': 'few', 'since': None})
        cp_wsrpc.publish('few', 'y')
        peer.recv_json()
        peer.send_json([
            request('large', [39_940], id='large'),     # 24 bytes are left
            request('rpc.subscribe', ['other'], id='other'),
            request('rpc.subscribe', ['few'], id='few')])
        replies = {reply['id']: reply for reply in peer.recv_json()}
        assert replies['few']['result'] == start['subscription']
        assert replies['other']['result']
        few = {'topic': 'few', 'since': {'epoch': start['epoch'],
                                         'offset': start['offset']}}
        peer.send_json([{**ask, 'id': 0},
                        request('rpc.subscribe', few, id=1)])
        assert [said['result']['recovered'] for said in peer.recv_json()
                ] == [True, True]


def test_a_rule_that_waits_holds_only_its_own_call():
    entered, go_on = threading.Event(), threading.Event()

    def slow(connection, topic):
        entered.set()
        return go_on.wait(WAIT_S)

    with serving_api(Api(), {'subscribe': {'slow': slow,
                                           'quick': True}}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('rpc.subscribe', ['slow'], 'slow'))
            assert entered.wait(WAIT_S)
            assert peer.call('rpc.subscribe', ['quick'])
            assert peer.call('rpc.ping', [1]) == [1]
            go_on.set()
            assert peer.recv_json()['id'] == 'slow'


def test_a_subscription_granted_to_a_connection_that_is_gone_is_none():
    entered, go_on = threading.Event(), threading.Event()

    def slow(connection, topic):
        entered.set()
        return go_on.wait(WAIT_S)

    with serving_api(Api(), {'subscribe': {'slow': slow}}) as server:
        broker = cherrypy.engine.wsrpc.hub.broker
        for method in ('rpc.subscribe', 'rpc.on'):
            entered.clear()
            go_on.clear()
            with server.peer('/api') as peer:
                peer.send_json(request(method, ['slow']))
                assert entered.wait(WAIT_S)
            wait_until(lambda: not cp_wsrpc.connections())
            go_on.set()
            with server.peer('/api') as other:
                # on the loop after what was granted, and once more
                for _ in range(3):
                    assert other.call('rpc.ping', [1]) == [1]
                wait_until(
                    lambda: not cherrypy.engine.wsrpc.hub.pool.waiting)
                assert other.call('rpc.ping', [1]) == [1]
            assert not broker._topics and not broker._listeners


@pytest.mark.parametrize('count', [97, 100, 101, 30_000])
def test_an_rpc_on_of_too_many_names_hears_none_of_them(count):
    with serving_api(Api(), ALL) as server, server.peer('/api') as peer:
        for name in ('a', 'b', 'c'):
            assert peer.call('rpc.on', [name]) == {name: 'ok'}
        names = [f'n{n}' for n in range(count)]
        if count == 97:
            assert len(peer.call('rpc.on', names)) == count
        else:
            code, message, _ = failure_of(peer, 'rpc.on', names)
            assert code == -32006 and '100 topics' in message
            assert only_connection().heard == {'a', 'b', 'c'}


def test_a_batch_may_hold_services():
    with serving_api(Api(), ALL) as server, server.peer('/api') as peer:
        peer.send_json([request('rpc.subscribe', ['a'], 1),
                        request('rpc.ping', [2], 2)])
        answers = peer.recv_json()
        assert result(2, [2]) in answers and len(answers) == 2


@pytest.mark.parametrize('count', [3, 1005])    # more than is held
@pytest.mark.parametrize(('method', 'params'), [
    ('rpc.subscribe', ['plain']), ('rpc.subscribe', ['mouse']),
    ('rpc.subscribe', ['kept']), ('rpc.on', ['plain']),
    ('rpc.subscribe', {'topic': 'plain'}),
    ('rpc.subscribe', {'topic': 'kept'}),
    ('rpc.subscribe', {'topic': 'kept', 'since': {'epoch': 'another',
                                                  'offset': 1}})])
def test_in_a_batch_too_the_reply_comes_before_the_first_event(
        method, params, count):
    gate = Gate()

    class Api:
        @expose
        def hold(self):
            return gate.enter()

    topic = params['topic'] if 'topic' in params else params[0]
    topics = {'kept': {}, 'mouse': {'mode': 'volatile'}}
    with serving_api(Api(), ALL, engine={'wsrpc.topics': topics}) as server, \
            server.peer('/api') as peer, server.peer('/api') as other:
        other.call('rpc.subscribe', [topic])
        peer.send_json([request(method, params, 'join'),
                        request('rpc.subscribe', ['second'], 'too'),
                        request('hold', None, 'slow')])
        gate.wait_entered()
        for n in range(count):
            cp_wsrpc.publish(topic, n)
        while other.recv_json()['params']['result'] != count - 1:
            pass
        gate.open()
        assert {answer['id'] for answer in peer.recv_json()} == {
            'join', 'too', 'slow'}
        for name in (topic, 'second'):
            cp_wsrpc.publish(name, 'live')
        events = [peer.recv_json() for _ in range(
            5 if count == 3 and method != 'rpc.on' else 2)]
        if method == 'rpc.on':
            assert events[0] == {'notification': topic, 'params': ['live']}
        else:
            values = [event['params']['result'] for event in events]
            assert values[:-2] == list(range(len(values) - 2))
            assert values[-2:] == ['live', 'live']


def test_who_must_read_again_holds_up_the_events_of_all_his_batch():
    gate = Gate()

    class Api:
        @expose
        def hold(self):
            return gate.enter()

    with serving_api(Api(), ALL, engine={'wsrpc.topics': {'kept': {}}},
                     ) as server, \
            server.peer('/api') as peer, server.peer('/api') as other:
        other.call('rpc.subscribe', ['kept'])
        peer.send_json([request('rpc.subscribe', {'topic': 'kept'}, 1),
                        request('rpc.subscribe', ['second'], 2),
                        request('hold', None, 3)])
        gate.wait_entered()
        cp_wsrpc.publish('second', 'held')
        for n in range(1005):       # more than is held
            cp_wsrpc.publish('kept', n)
        while other.recv_json()['params']['result'] != n:
            pass
        gate.open()
        assert {answer['id'] for answer in peer.recv_json()} == {1, 2, 3}
        assert peer.recv_json()['params']['result'] == 'held'


def test_a_batch_that_joins_and_publishes_has_its_own_event():
    with serving_api(Api(), ALL) as server, server.peer('/api') as peer:
        peer.send_json([
            request('rpc.subscribe', ['a'], 1),
            request('rpc.publish', {'topic': 'a', 'data': 5}, 2)])
        assert len(peer.recv_json()) == 2
        assert peer.recv_json()['params']['result'] == 5


@pytest.mark.parametrize('keys', [3, 1500])     # more than are put off
def test_a_slow_reader_of_latest_gets_the_newest_of_each_key(keys):
    options = {**ALL, 'out_max_messages': 5000}
    with serving_api(Api(), options, engine={'wsrpc.topics': {
            'cars': {'mode': 'latest', 'history_size': 5000}}}) as server, \
            contextlib.ExitStack() as stack:
        peer = stack.enter_context(server.peer('/api', receive_buffer=4096))
        connection = only_connection()
        other = stack.enter_context(server.peer('/api'))
        for one in (peer, other):
            one.call('rpc.subscribe', ['cars'])

        def stall():
            connection.notify('fill', 'x' * 50_000)
            return connection.out.refusing

        wait_until(stall)
        for n in range(3 * keys):
            position = cp_wsrpc.publish('cars', n, key=f'car-{n % keys}')
        while other.recv_json()['params']['offset'] < position.offset:
            pass
        if keys == 3:
            assert read_namespace()['Pushes Skipped'] == 2 * keys
        said = []
        while not said or said[-1]['offset'] < position.offset:
            message = peer.recv_json()
            if message['method'] == 'rpc.subscription':
                said.append(message['params'])
        numbers = [event['result'] for event in said]
        assert numbers == sorted(numbers)
        assert numbers[-keys:] == list(range(2 * keys, 3 * keys))
        assert (len(numbers) == keys) is (keys == 3)
        cp_wsrpc.publish('cars', 'live', key='car-0')
        assert peer.recv_json()['params']['result'] == 'live'


# -- in order --------------------------------------------------------------


def test_publishes_of_a_client_keep_their_order_whatever_the_rule_takes():
    first, entered = threading.Event(), threading.Semaphore(0)

    def rule(connection, topic):
        entered.release()
        if not first.is_set():
            first.set()
            # Long enough for the others, were they let past.
            entered.acquire(timeout=WAIT_S)
            entered.acquire(timeout=0.2)
        return True

    with serving_api(Api(), {'subscribe': ['t'],
                             'publish': {'t': rule}}) as server:
        with server.peer('/api') as reader, server.peer('/api') as writer:
            reader.call('rpc.subscribe', ['t'])
            for number in range(8):
                writer.send_json(request(
                    'rpc.publish', {'topic': 't', 'data': number}, number))
            assert [reader.recv_json()['params']['result']
                    for _ in range(8)] == list(range(8))


def test_so_many_publishes_may_wait_and_one_more_is_busy():
    gate = Gate()
    with serving_api(Api(), {
            'publish': {'t': lambda *_: gate.enter()},
            'max_waiting_per_connection': 3}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('rpc.publish', {'topic': 't', 'data': 0},
                                   0))
            gate.wait_entered()
            for number in range(1, 5):
                peer.send_json(request(
                    'rpc.publish', {'topic': 't', 'data': number}, number))
            refused = peer.recv_json()
            assert refused['id'] == 4
            assert refused['error']['code'] == -32009
            gate.open(True)
            assert set(recv_all(peer, 4)) == {0, 1, 2, 3}
            assert gate.most == 1


def test_a_publish_that_waits_is_forgotten_with_its_connection():
    gate, asked = Gate(), []

    def rule(connection, topic):
        asked.append(topic)
        return gate.enter()

    with serving_api(Api(), {'publish': {'*': rule}}) as server:
        with server.peer('/api') as peer:
            for topic in 'ab':
                peer.send_json(request('rpc.publish',
                                       {'topic': topic, 'data': 0}, topic))
            gate.wait_entered()
            connection = only_connection()
            wait_until(lambda: len(connection.conversation.running) == 2)
        wait_until(lambda: connection.state.name == 'CLOSED')
        gate.open(True)
        wait_until(lambda: not connection.conversation.running)
        assert asked == ['a']


def test_what_is_switched_off_while_its_rule_is_asked_stays_off():
    gate = Gate()
    with serving_api(Api(), {
            'subscribe': {'*': lambda *_: gate.enter()}}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('rpc.on', ['a', 'b'], 1))
            gate.wait_entered()
            assert peer.call('rpc.off', ['a']) == {'a': 'ok'}
            gate.open(True)
            assert peer.recv_json() == result(1, {'a': 'ok', 'b': 'ok'})
            assert only_connection().heard == {'b'}
            assert peer.call('rpc.off', ['a']) != {'a': 'ok'}
