"""One key, one effect: the store, the server, and both clients."""
from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import threading
from types import SimpleNamespace

import cherrypy
import msgspec
import pytest

import cp_wsrpc
from cp_wsrpc import (Client, Route, RPCError, client_calls, expose,
                      idempotency, nonblocking)
from cp_wsrpc.errors import (Busy, ConnectionLostError, InvalidParams,
                             RemoteError)
from cp_wsrpc.idempotency import (Claim, Key, fingerprint_of, key_of,
                                  outcome_of, reply_of, with_key)
from cp_wsrpc.memory_keys import MemoryKeyStore
from cp_wsrpc.messages import NO_ID, Call

from .apps import (Gate, recv_all, request, result, serving_api,
                   starting_quickly)
from .cutting import Cut, call_from_node, call_with_keys, cutting
from .scripted import scripted
from .serving import serving, wait_until

KEY = 'a-key-of-16-chars'
FULL = os.environ.get('WSRPC_FULL') == '1'


def keyed(method, params=None, id=1, key=KEY):
    return {**request(method, params, id),
            '_meta': {'idempotencyKey': key}}


# -- whose key ---------------------------------------------------------------


def a_call(meta, *, id=1, user=None, login=None, path='/api', name='f',
           params=None):
    connection = SimpleNamespace(
        user=user, endpoint=SimpleNamespace(url_path=path),
        handshake=SimpleNamespace(login=login))
    return Call(id, name, params, None, meta, connection=connection)


META = msgspec.json.encode({'idempotencyKey': KEY, 'timeoutMs': 5})


@pytest.mark.parametrize(('meta', 'id', 'found'), [
    (META, 1, True), (META, None, True), (META, 'x', True),
    (META, NO_ID, False), (b'{}', 1, False),
    (b'{"idempotencyKey":null}', 1, False), (b'{"timeoutMs":5}', 1, False)])
def test_a_call_with_an_id_and_a_key_has_one(meta, id, found):
    key = key_of(a_call(meta, id=id))
    assert (key is not None) == found
    assert key is None or key.text == KEY


@pytest.mark.parametrize('meta', [
    b'5', b'[]', b'null', b'{"idempotencyKey":5}',
    b'{"idempotencyKey":""}', b'{"idempotencyKey":"123456789012345"}',
    b'{"idempotencyKey":"%s"}' % (b'x' * 129)])
def test_what_is_no_key_is_refused_unexecuted(meta):
    with pytest.raises(InvalidParams) as caught:
        key_of(a_call(meta))
    assert caught.value.data == {'executed': False}


def test_a_key_belongs_to_an_endpoint_and_a_user():
    whose = [{'user': 'ada'}, {'user': 'bob'}, {'user': 1}, {'user': '1'},
             {'user': 'ada', 'path': '/b'}, {'login': 'eve'}, {},
             {'path': '/b'}, {'user': 'nobody|/api'}]
    keys = [key_of(a_call(META, **one)) for one in whose]
    assert len(set(keys)) == len(whose)
    assert [key.is_nobodys for key in keys] == [
        False, False, False, False, False, False, True, True, False]
    # An object is another one in each process: its login, or the key alone.
    for user in (object(), ['ada'], '', True):
        assert key_of(a_call(META, user=user)).is_nobodys
        assert key_of(a_call(META, user=user, login='eve')) == keys[5]


def test_a_fingerprint_is_of_the_method_and_its_params():
    calls = [a_call(META, name=name, params=params) for name, params in [
        ('f', b'[1]'), ('g', b'[1]'), ('f', b'[2]'), ('f', None)]]
    assert len({fingerprint_of(call) for call in calls}) == 4
    assert fingerprint_of(a_call(b'{}', id=9, user='x', name='f',
                                 params=b'[1]')) == fingerprint_of(calls[0])


# -- outcomes ----------------------------------------------------------------


@pytest.mark.parametrize(('reply', 'outcome'), [
    ({'result': None}, b'{"result":null}'),
    ({'result': [0, '"']}, b'{"result":[0,"\\""]}'),
    ({'error': {'code': 7, 'message': 'no'}},
     b'{"error":{"code":7,"message":"no"}}'),
    ({'error': {'code': 7, 'message': 'no', 'data': {'executed': 0}}},
     b'{"error":{"code":7,"message":"no","data":{"executed":0}}}'),
    ({'error': {'code': 7, 'message': 'no', 'data': {'executed': False}}},
     None)])
def test_an_outcome_is_a_reply_without_its_id(reply, outcome):
    text = msgspec.json.encode({'jsonrpc': '2.0', 'id': 1, **reply})
    assert outcome_of(text) == outcome
    if outcome is not None:
        for id in (5, 'x"', None):
            assert json.loads(reply_of(id, outcome)) == {
                'jsonrpc': '2.0', 'id': id, **reply}


def test_a_request_is_given_its_key():
    assert json.loads(with_key(b'{"method":"f","id":1}', 'x"' * 8)) == {
        'method': 'f', 'id': 1, '_meta': {'idempotencyKey': 'x"' * 8}}


# -- the store ---------------------------------------------------------------


@pytest.fixture
def store(clock):
    return MemoryKeyStore(clock)


def a_key(text=KEY, scope='user|/api|str:ada'):
    return Key(scope, text)


def test_the_first_has_a_key_and_all_that_follow_hear_its_outcome(store):
    heard = []
    assert store.claim(a_key(), 'f') == Claim(True, 'f')
    assert store.claim(a_key(), 'f') == Claim(False, 'f')
    assert store.claim(a_key(), 'other') == Claim(False, 'f')
    store.watch(a_key(), heard.append)
    store.watch(a_key(), heard.append)
    assert heard == []
    store.settle(a_key(), b'{"result":1}')
    assert heard == [b'{"result":1}'] * 2
    store.watch(a_key(), heard.append)
    assert heard == [b'{"result":1}'] * 3
    assert store.claim(a_key(), 'f') == Claim(False, 'f')
    assert store.claim(a_key(scope='user|/api|str:bob'), 'f').is_ours


def test_a_key_that_nothing_came_of_is_free_again(store):
    heard = []
    store.claim(a_key(), 'f')
    store.watch(a_key(), heard.append)
    store.settle(a_key(), None)
    assert heard == [None] and len(store) == 0
    store.watch(a_key(), heard.append)      # it came too late to be told
    assert heard == [None, None]
    assert store.claim(a_key(), 'g').is_ours


def test_it_is_kept_for_120_s_from_its_end(store, clock):
    store.claim(a_key(), 'f')
    clock.now = 1000.0
    assert not store.claim(a_key(), 'f').is_ours    # it runs
    store.settle(a_key(), b'{"result":1}')
    clock.now += 119.9
    assert not store.claim(a_key(), 'f').is_ours
    clock.now += 0.1
    assert store.claim(a_key(), 'f').is_ours


@pytest.mark.parametrize(('scope', 'limit'), [
    ('user|/api|str:ada', 'MAX_ENTRIES_OF_USER'),
    ('nobody|/api', 'MAX_ENTRIES_OF_NOBODY')])
def test_nobody_can_fill_it_and_what_is_full_refuses(
        scope, limit, store, clock):
    limit = getattr(idempotency, limit)
    for n in range(limit):
        store.claim(a_key(f'{n}', scope), 'f')
    with pytest.raises(Busy) as caught:
        store.claim(a_key('one more', scope), 'f')
    assert caught.value.data == {'retryable': True, 'executed': False}
    assert not store.claim(a_key('0', scope), 'f').is_ours
    assert store.claim(a_key('0', 'user|/api|str:bob'), 'f').is_ours
    store.settle(a_key('0', scope), b'{"result":1}')
    clock.now += 120.0
    assert store.claim(a_key('one more', scope), 'f').is_ours


def test_all_users_together_have_10_000(store):
    for n in range(idempotency.MAX_ENTRIES):
        store.claim(a_key('k', f'user|/api|int:{n}'), 'f')
    with pytest.raises(Busy):
        store.claim(a_key('k', 'user|/api|str:ada'), 'f')


def test_of_large_results_the_oldest_are_dropped_but_not_their_keys(
        store, clock, monkeypatch):
    monkeypatch.setattr(idempotency, 'MAX_BYTES', 100)
    heard = []
    for n in range(3):
        store.claim(a_key(f'{n}'), 'f')
        store.settle(a_key(f'{n}'), b'x' * 45)
    for n in range(3):
        assert not store.claim(a_key(f'{n}'), 'f').is_ours
        store.watch(a_key(f'{n}'), heard.append)
    assert heard == [idempotency.DROPPED, b'x' * 45, b'x' * 45]
    assert outcome_of(reply_of(1, heard[0])) == heard[0]    # it has run
    clock.now += 120.0
    for n in range(3):
        assert store.claim(a_key(f'{n}'), 'f').is_ours
    assert store._bytes == 0 and not store._outcomes


# -- over sockets ------------------------------------------------------------


class Seat(Route):
    n = 0

    def init(self):
        return self.n

    def count(self):
        self.n += 1
        Till.paid['seat'] += 1
        return self.n


class Till:
    """Counts what has an effect."""

    paid: collections.Counter = collections.Counter()
    lock = threading.Lock()
    gate = Gate()
    seat = Seat

    @expose
    def pay(self, n):
        with self.lock:
            self.paid[n] += 1
        return n

    @expose
    async def pay_async(self, n):
        return self.pay(n)

    @expose
    @nonblocking
    def pay_here(self, n):
        return self.pay(n)

    @expose
    def pay_slowly(self, n):
        self.pay(n)
        return self.gate.enter()

    @expose
    def fail(self, code, data=None):
        self.paid['fail'] += 1
        raise RPCError(code, 'no', data)

    @expose
    def large(self):
        self.paid['large'] += 1
        return 'x' * 100_000


@pytest.fixture
def till():
    Till.paid = collections.Counter()
    Till.gate = Gate()
    return Till


PAYS = ['pay', 'pay_async', 'pay_here']


@pytest.mark.parametrize('method', PAYS)
def test_a_repeated_call_is_replayed_under_its_own_id(till, method):
    with serving_api(Till()) as server:
        for id in (1, 'again', None):
            with server.peer('/api') as peer:
                peer.send_json(keyed(method, [5], id))
                assert peer.recv_json() == result(id, 5)
                peer.send_json(keyed(method, [5], 'same connection'))
                assert peer.recv_json() == result('same connection', 5)
        assert till.paid == {5: 1}


def test_without_a_key_and_with_another_it_is_another_call(till):
    with serving_api(Till()) as server, server.peer('/api') as peer:
        for message in (request('pay', [5]), keyed('pay', [5]),
                        keyed('pay', [5], key='b' * 16),
                        {**request('pay', [5]), '_meta': {}}):
            peer.send_json(message)
            assert peer.recv_json() == result(1, 5)
        assert till.paid == {5: 4}


def test_a_call_that_still_runs_is_joined_by_other_connections(till):
    with serving_api(Till()) as server, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(server.peer('/api')) for _ in range(3)]
        for id, peer in enumerate(peers):
            peer.send_json(keyed('pay_slowly', [5], id))
        till.gate.wait_entered()
        peers[1].send_json(keyed('pay_slowly', [5], 'twice'))
        peers[1].send_json(request('pay', [6], 'after'))
        assert peers[1].recv_json() == result('after', 6)
        till.gate.open('done')
        for id, peer in enumerate(peers[::2]):
            assert peer.recv_json() == result(id * 2, 'done')
        assert recv_all(peers[1], 2) == {
            id: result(id, 'done') for id in (1, 'twice')}
        assert till.paid == {5: 1, 6: 1}


def test_who_has_joined_and_gone_is_forgotten(till):
    with serving_api(Till()) as server, server.peer('/api') as first:
        first.send_json(keyed('pay_slowly', [5]))
        till.gate.wait_entered()
        entry, = cherrypy.engine.wsrpc.hub.kept._entries.values()
        with server.peer('/api') as second:
            second.send_json(keyed('pay_slowly', [5]))
            wait_until(lambda: len(entry.watchers) == 1)
        wait_until(lambda: not entry.watchers)
        till.gate.open('done')
        assert first.recv_json() == result(1, 'done')


def test_it_goes_on_when_its_connection_is_lost(till):
    with serving_api(Till()) as server:
        with server.peer('/api') as first:
            first.send_json(keyed('pay_slowly', [5]))
            till.gate.wait_entered()
        with server.peer('/api') as second:
            second.send_json(keyed('pay_slowly', [5], 2))
            till.gate.open('done')
            assert second.recv_json() == result(2, 'done')
        assert till.paid == {5: 1}


@pytest.mark.parametrize('other', [
    ('pay', [6]), ('pay', None), ('pay_here', [5]), ('pay', {'n': 5})])
def test_another_payload_under_the_key_is_refused(till, other):
    with serving_api(Till()) as server, server.peer('/api') as peer:
        peer.send_json(keyed('pay', [5]))
        assert peer.recv_json() == result(1, 5)
        peer.send_json(keyed(*other))
        error = peer.recv_json()['error']
        assert (error['code'], error['data']) == (-32602,
                                                  {'executed': False})
        assert till.paid == {5: 1}


def test_an_error_of_the_method_is_kept(till):
    with serving_api(Till()) as server, server.peer('/api') as peer:
        for id in (1, 2):
            peer.send_json(keyed('fail', [7, {'x': 1}], id))
            assert peer.recv_json()['error'] == {
                'code': 7, 'message': 'no', 'data': {'x': 1}}
        assert till.paid == {'fail': 1}


def test_an_error_that_says_not_executed_is_not_kept(till):
    with serving_api(Till()) as server, server.peer('/api') as peer:
        for _ in range(2):
            peer.send_json(keyed('fail', [7, {'executed': False}]))
            assert peer.recv_json()['error']['code'] == 7
        assert till.paid == {'fail': 2}


def test_who_joined_a_call_that_never_began_runs_it(till):
    options = {'max_calls_per_connection': 1}
    with serving_api(Till(), options) as server, \
            server.peer('/api') as second:
        with server.peer('/api') as first:
            first.send_json(request('pay_slowly', [0], 'blocks'))
            till.gate.wait_entered()
            first.send_json(keyed('pay', [5], 'waits'))
            kept = cherrypy.engine.wsrpc.hub.kept
            wait_until(lambda: len(kept) == 1)
            second.send_json(keyed('pay', [5], 'joins'))
            second.send_json(request('pay_here', [1]))
            assert second.recv_json() == result(1, 1)
            assert till.paid[5] == 0
        assert second.recv_json() == result('joins', 5)
        till.gate.open()
        assert till.paid[5] == 1


def test_a_key_of_one_user_is_not_anothers(till):
    options = {'user': lambda: cherrypy.request.headers.get('X-User')}
    with serving_api(Till(), options) as server:
        for user, times in (('ada', 1), ('bob', 2), ('ada', 2)):
            with server.peer('/api', headers={'X-User': user}) as peer:
                peer.send_json(keyed('pay', [5]))
                assert peer.recv_json() == result(1, 5)
                assert till.paid == {5: times}


def test_a_notification_is_not_kept_and_what_is_no_key_is_refused(till):
    with serving_api(Till()) as server, server.peer('/api') as peer:
        message = keyed('pay', [5])
        del message['id']
        peer.send_json(message)
        peer.send_json(message)
        peer.send_json(keyed('pay', [6], key='short'))
        error = peer.recv_json()['error']
        assert error['code'] == -32602
        assert '16' in error['message']
        wait_until(lambda: till.paid == {5: 2})


def test_in_a_batch_it_is_as_alone(till):
    with serving_api(Till()) as server, server.peer('/api') as peer:
        batch = [keyed('pay', [5], 1), keyed('pay', [5], 2),
                 request('pay', [6], 3), keyed('pay', [7], 4)]
        for _ in range(2):
            peer.send_json(batch)
            answers = {a['id']: a for a in peer.recv_json()}
            assert answers[1]['result'] == answers[2]['result'] == 5
            assert answers[3]['result'] == 6
            assert answers[4]['error']['code'] == -32602
        assert till.paid == {5: 1, 6: 2}


def test_a_routes_method_has_one_effect_and_its_init_takes_no_key(till):
    with serving_api(Till()) as server:
        for id in (1, 2):
            with server.peer('/api') as peer:
                peer.send_json(keyed('seat.count', None, id))
                assert peer.recv_json() == result(id, 1)
                peer.send_json(keyed('seat', key='b' * 16))
                assert peer.recv_json()['error']['code'] == -32602
        assert till.paid == {'seat': 1}


def test_publishing_has_one_effect_and_subscribing_is_the_connections():
    options = {'subscribe': ['*'], 'publish': ['*']}
    with serving_api(Till(), options) as server, \
            server.peer('/api') as listener:
        listener.call('rpc.subscribe', ['news'])
        for id in (1, 2):
            with server.peer('/api') as peer:
                peer.send_json(keyed('rpc.publish', {
                    'topic': 'news', 'data': 5}, id, 'b' * 16))
                assert peer.recv_json() == result(id, None)
                peer.send_json(keyed('rpc.subscribe', ['news'], id))
                assert peer.recv_json()['result'].startswith('s')
                cp_wsrpc.publish('news', 'it follows')
                assert peer.recv_json()['params']['result'] == 'it follows'
        assert [listener.recv_json()['params']['result']
                for _ in range(3)] == [5, 'it follows', 'it follows']


def test_calls_that_wait_until_opened_has_run_have_keys_too(till):
    options = {'opened': lambda connection: till.gate.enter()}
    with serving_api(Till(), options) as server, \
            server.peer('/api') as peer:
        peer.send_json(keyed('pay', [5], 1))
        peer.send_json(keyed('pay', [5], 2))
        till.gate.open()
        assert recv_all(peer, 2) == {n: result(n, 5) for n in (1, 2)}
        assert till.paid == {5: 1}


def test_a_call_refused_by_a_full_store_or_pool_may_be_sent_again(
        till, monkeypatch):
    monkeypatch.setattr(idempotency, 'MAX_ENTRIES_OF_NOBODY', 1)
    with serving_api(Till()) as server, server.peer('/api') as peer:
        peer.send_json(keyed('pay', [5]))
        assert peer.recv_json() == result(1, 5)
        peer.send_json(keyed('pay', [6], key='b' * 16))
        assert peer.recv_json()['error'] == {
            'code': -32009,
            'message': 'too many calls with an idempotencyKey',
            'data': {'retryable': True, 'executed': False}}


def test_after_the_logout_nothing_is_replayed(till):
    class Site:
        api = Till()

        @cherrypy.expose
        def login(self):
            cherrypy.session['user'] = 'ada'

        @cherrypy.expose
        def logout(self):
            cherrypy.session.delete()

    config = {'/': {'tools.sessions.on': True}, '/api': {
        'tools.wsrpc.on': True,
        'tools.wsrpc.user': lambda: cherrypy.session.get('user')}}
    with starting_quickly(), serving(Site(), config) as server:
        answer = server.http('/login')
        cookie = {'Cookie': answer.headers['set-cookie'].split(';')[0]}
        with server.peer('/api', headers=cookie) as peer:
            peer.send_json(keyed('pay', [5]))
            assert peer.recv_json() == result(1, 5)
            cherrypy.engine.wsrpc.hub.sessions.stop()
            server.http('/logout', headers=cookie)
            peer.send_json(keyed('pay', [5], 2))
            assert peer.recv_json()['error']['code'] == -32001
            assert peer.recv_close()[0] == 4401


# -- the Python client -------------------------------------------------------


def test_the_client_sends_a_key_and_makes_one():
    def answer(peer):
        peer.shake()
        for _ in range(3):
            said = peer.recv()
            peer.send({'jsonrpc': '2.0', 'id': said['id'],
                       'result': said.get('_meta')})
        peer.recv_close()

    with scripted(answer) as server, Client(server.url) as client:
        calls = [client.call('f', 1, idempotency_key=key)
                 for key in (KEY, True, None)]
        metas = [call.result(5) for call in calls]
        assert metas[0] == {'idempotencyKey': KEY}
        assert len(metas[1]['idempotencyKey']) == 32
        assert metas[2] is None
        for bad in ('', 'short', 'x' * 129, 5, b'x' * 16):
            with pytest.raises(ValueError):
                client.call('f', idempotency_key=bad)


def test_the_client_sends_it_again_first_of_all():
    heard = []

    def lose(peer):
        peer.shake()
        for _ in range(3):
            heard.append(peer.recv())
        peer.sock.close()

    def answer(peer):
        peer.shake()
        for _ in range(3):
            said = peer.recv()
            heard.append(said)
            peer.send({'jsonrpc': '2.0', 'id': said['id'],
                       'result': said['method']})
        peer.recv_close()

    with scripted(lose, answer) as server, \
            Client(server.url, reconnect_delay_s=0.001) as client:
        client.wait_connected(5)
        first = client.call('first', idempotency_key=True)
        plain = client.call('plain')
        second = client.call('second', idempotency_key=True)
        with pytest.raises(ConnectionLostError) as caught:
            plain.result(5)
        assert caught.value.maybe_executed
        last = client.call('last')
        assert [call.result(5) for call in (first, second, last)] == [
            'first', 'second', 'last']
    assert [said['method'] for said in heard] == [
        'first', 'plain', 'second', 'first', 'second', 'last']
    assert heard[0]['_meta'] == heard[3]['_meta']


def test_in_doubt_it_fails_as_maybe_executed_when_the_client_is_closed():
    def lose(peer):
        peer.shake()
        peer.recv()
        peer.close(4401)

    with scripted(lose) as server, Client(server.url) as client:
        call = client.call('pay', idempotency_key=True)
        with pytest.raises(ConnectionLostError) as caught:
            call.result(5)
        assert caught.value.maybe_executed


@pytest.mark.parametrize('clock', ['monotonic', 'time'])
def test_the_client_does_not_send_what_may_be_forgotten(clock, monkeypatch):
    shift = [0.0]
    real = client_calls.time

    class Time:
        monotonic = staticmethod(lambda: real.monotonic() + (
            shift[0] if clock == 'monotonic' else 0))
        time = staticmethod(lambda: real.time() + (
            shift[0] if clock == 'time' else 0))

    monkeypatch.setattr(client_calls, 'time', Time)

    def lose(peer):
        peer.shake()
        peer.recv()
        shift[0] = 100.0
        peer.sock.close()

    with scripted(lose) as server, \
            Client(server.url, reconnect_delay_s=0.001) as client:
        call = client.call('pay', idempotency_key=True, timeout=None)
        with pytest.raises(ConnectionLostError) as caught:
            call.result(5)
        assert caught.value.maybe_executed


@pytest.mark.parametrize('data', [{'executed': False},
                                  {'maybeExecuted': True}])
def test_refused_when_sent_again_it_may_have_run(data):
    refusal = {'code': -32602, 'message': 'another', 'data': data}

    def lose(peer):
        peer.shake()
        peer.recv()
        peer.sock.close()

    def refuse(peer):
        peer.shake()
        for _ in range(2):
            peer.send({'jsonrpc': '2.0', 'id': peer.recv()['id'],
                       'error': refusal})
        peer.recv_close()

    with scripted(lose, refuse) as server, \
            Client(server.url, reconnect_delay_s=0.001) as client:
        with pytest.raises(ConnectionLostError, match='another') as caught:
            client.call('pay', idempotency_key=True).result(5)
        assert caught.value.maybe_executed
        with pytest.raises(RemoteError) as plain:
            client.call('pay', idempotency_key=True).result(5)
        assert plain.value.data == data


# -- D10: cut at every byte --------------------------------------------------

#: Of '{"jsonrpc":"2.0","method":"pay","params":[1],"id":1,"_meta":...}' and
#: its frame, and of the reply; more than they have is no cut.
REQUEST_BYTES, REPLY_BYTES = 125, 38


def cuts():
    """(direction, byte, FIN or RST) for each byte, both ways."""
    every = [Cut(direction, at, how) for direction, count in (
        ('up', REQUEST_BYTES), ('down', REPLY_BYTES))
        for at in range(count) for how in ('close', 'reset')]
    if not FULL:
        return every
    seed = random.randrange(1 << 32)
    print(f'seed {seed}')
    return random.Random(seed).choices(every, k=10_000)


@contextlib.contextmanager
def cut_site():
    with serving_api(Till(), settings={'server.thread_pool': 20}) as server, \
            cutting(server.port) as proxy:
        yield proxy, [proxy.url('/api', cut) for cut in cuts()]


def assert_one_effect_each(till, proxy, urls, results):
    assert results == list(range(len(urls)))
    assert till.paid == dict.fromkeys(range(len(urls)), 1)
    assert proxy.connections > len(urls) * 1.9, 'few were cut at all'


@pytest.fixture
def room(monkeypatch):
    """Of the full size nobody alone may have so many keys in 120 s."""
    for limit in ('MAX_ENTRIES', 'MAX_ENTRIES_OF_NOBODY'):
        monkeypatch.setattr(idempotency, limit, 20_000)


@pytest.mark.usefixtures('room')
@pytest.mark.timeout(900 if FULL else 60)
def test_the_python_client_has_one_effect_wherever_it_is_cut(till):
    with cut_site() as (proxy, urls):
        assert_one_effect_each(till, proxy, urls,
                               call_with_keys(urls, PAYS))


@pytest.mark.usefixtures('room')
@pytest.mark.timeout(900 if FULL else 60)
def test_the_javascript_client_has_one_effect_wherever_it_is_cut(till, need):
    with cut_site() as (proxy, urls):
        assert_one_effect_each(till, proxy, urls, call_from_node(
            need, urls, timeout=600 if FULL else 60))
