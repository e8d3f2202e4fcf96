"""Topics, broadcasts and the bus: who hears what, in which order."""
from __future__ import annotations

import threading

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import expose

from .apps import (
    WAIT_S,
    Root,
    failure_of,
    only_connection,
    request,
    serving_api,
    starting_quickly,
)
from .serving import serving, wait_until


class Api:
    @expose
    def say(self, text):
        cp_wsrpc.publish('chat', text)
        return 'said'

    @expose
    async def say_async(self, text):
        cp_wsrpc.publish('chat', text)
        return 'said'

    @expose
    def shout(self, *args):
        cp_wsrpc.broadcast('heard', *args)


@pytest.fixture
def server():
    with serving_api(Api(), {'subscribe': ['news', 'chat', 'room.*'],
                             'publish': ['room.*']}) as server:
        yield server


def event(peer):
    """(topic, data) of the next message, which must be an event."""
    message = peer.recv_json()
    assert message['method'] == 'rpc.subscription', message
    assert 'id' not in message and message['jsonrpc'] == '2.0'
    params = message['params']
    return params['topic'], params['result']


def test_an_event_has_the_shape_of_the_protocol(server):
    with server.peer('/api') as peer:
        subscription = peer.call('rpc.subscribe', ['news'])
        assert isinstance(subscription, str)
        assert cp_wsrpc.publish('news', {'a': [1]}) is None
        assert peer.recv_json() == {
            'jsonrpc': '2.0', 'method': 'rpc.subscription', 'params': {
                'subscription': subscription, 'result': {'a': [1]},
                'topic': 'news'}}


def test_an_event_goes_to_subscribers_alone(server):
    with server.peer('/api') as one, server.peer('/api') as two, \
            server.peer('/api') as none:
        first = one.call('rpc.subscribe', ['news'])
        # an id belongs to the topic, so that one text serves all
        assert two.call('rpc.subscribe', ['news']) == first
        assert two.call('rpc.subscribe', ['chat']) != first
        cp_wsrpc.publish('chat', 1)
        cp_wsrpc.publish('news', 2)
        cp_wsrpc.publish('nobody', 3)
        assert [event(two), event(two)] == [('chat', 1), ('news', 2)]
        assert event(one) == ('news', 2)
        for peer in (one, two, none):
            assert peer.call('rpc.ping', [1]) == [1] and not peer.events


def test_the_reply_of_a_subscribe_comes_before_the_first_event(server):
    stop = threading.Event()

    def flood():
        n = 0
        while not stop.is_set():
            try:
                cp_wsrpc.publish('news', n)
                n += 1
            except cp_wsrpc.Overloaded:
                pass
            stop.wait(0.0002)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(30):
            with server.peer('/api') as peer:
                peer.send_json(request('rpc.subscribe', ['news']))
                assert peer.recv_json()['id'] == 1
                numbers = [event(peer)[1] for _ in range(5)]
                assert numbers == list(range(numbers[0], numbers[0] + 5))
    finally:
        stop.set()
        thread.join(WAIT_S)


def test_events_of_many_threads_come_in_one_order_for_all(server):
    with server.peer('/api') as one, server.peer('/api') as two:
        for peer in (one, two):
            peer.call('rpc.subscribe', ['news'])

        def publish(thread):
            for n in range(100):
                cp_wsrpc.publish('news', [thread, n])

        threads = [threading.Thread(target=publish, args=(n,))
                   for n in range(6)]
        for thread in threads:
            thread.start()
        seen = [[event(peer)[1] for _ in range(600)] for peer in (one, two)]
        for thread in threads:
            thread.join(WAIT_S)
        assert seen[0] == seen[1]
        for n in range(6):
            assert [at for who, at in seen[0] if who == n] == list(
                range(100))


def test_a_second_subscribe_counts_up(server):
    with server.peer('/api') as peer:
        id = peer.call('rpc.subscribe', ['news'])
        assert peer.call('rpc.subscribe', ['news']) == id
        cp_wsrpc.publish('news', 1)
        assert event(peer) == ('news', 1)       # once, all the same
        assert peer.call('rpc.unsubscribe', [id]) is True
        cp_wsrpc.publish('news', 2)
        assert event(peer) == ('news', 2)
        assert peer.call('rpc.unsubscribe', [id]) is True
        assert peer.call('rpc.unsubscribe', [id]) is False
        cp_wsrpc.publish('news', 3)
        assert peer.call('rpc.ping', [1]) == [1] and not peer.events


def test_what_a_connection_subscribed_to_is_forgotten_with_it(server):
    broker = cherrypy.engine.wsrpc.hub.broker
    with server.peer('/api') as peer:
        for n in range(20):
            peer.call('rpc.subscribe', [f'room.{n}'])
        peer.call('rpc.on', ['room.x'])
        assert len(broker._topics) == 20 and broker._listeners
    wait_until(lambda: not broker._topics and not broker._listeners
               and not broker._by_id)
    cp_wsrpc.publish('room.1', 1)


def test_a_method_may_publish_from_the_pool_and_from_the_loop(server):
    with server.peer('/api') as peer:
        peer.call('rpc.subscribe', ['chat'])
        for method in ('say', 'say_async'):
            peer.send_json(request(method, ['hi']))
            messages = [peer.recv_json(), peer.recv_json()]
            assert {'jsonrpc': '2.0', 'id': 1, 'result': 'said'} in messages
            assert any(m.get('params', {}).get('result') == 'hi'
                       for m in messages)


@pytest.mark.parametrize(('data', 'error'), [
    (object(), TypeError), (float('nan'), ValueError), ('\ud800', ValueError),
    ('x' * (4 << 20), cp_wsrpc.MessageTooBig)])
def test_what_cannot_be_published_is_the_publishers_error(
        server, data, error):
    with server.peer('/api') as peer:
        peer.call('rpc.subscribe', ['news'])
        with pytest.raises(error):
            cp_wsrpc.publish('news', data)
        with pytest.raises(error):
            cp_wsrpc.broadcast('f', data)
        cp_wsrpc.publish('news', 1)
        assert event(peer) == ('news', 1)


def test_before_the_start_and_after_the_stop_nothing_is_published():
    assert cp_wsrpc.publish('news', 1) is None
    cp_wsrpc.broadcast('f')
    assert cp_wsrpc.connections() == []


# -- broadcast -------------------------------------------------------------


class Site:
    api = Api()
    other = Api()

    @cherrypy.expose
    def notify(self, msg):
        cp_wsrpc.broadcast('notify', msg)
        cp_wsrpc.publish('news', {'msg': msg})
        return 'sent'

    @cherrypy.expose
    def bus(self, msg):
        cherrypy.engine.publish('wsrpc-publish', 'news', msg)
        cherrypy.engine.publish('wsrpc-broadcast', 'notify', msg)
        cherrypy.engine.publish('websocket-broadcast', 'raw ' + msg)
        return 'sent'


class Plain(cp_wsrpc.WebSocket):
    pass


@pytest.fixture
def site():
    on = {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['news'],
          'tools.wsrpc.user': lambda: cherrypy.request.params.get('as')}
    config = {'/api': on, '/other': on,
              '/plain': {'tools.wsrpc.on': True,
                         'tools.wsrpc.handler_cls': Plain}}
    with starting_quickly(), serving(Site(), config) as server:
        yield server


def test_a_page_handler_pushes_to_all(site):
    with site.peer('/api') as one, site.peer('/other') as two:
        one.call('rpc.subscribe', ['news'])
        two.call('rpc.ping')
        assert site.http('/notify?msg=Hello').body == b'sent'
        call = {'jsonrpc': '2.0', 'method': 'notify', 'params': ['Hello']}
        assert one.recv_json() == call and two.recv_json() == call
        assert event(one) == ('news', {'msg': 'Hello'})


def test_the_bus_has_channels_for_the_same(site):
    with site.peer('/api') as one, site.peer('/plain') as plain:
        one.call('rpc.subscribe', ['news'])
        wait_until(lambda: len(cherrypy.engine.wsrpc.manager) == 2)
        assert site.http('/bus?msg=Hi').body == b'sent'
        assert event(one) == ('news', 'Hi')
        assert one.recv_json()['method'] == 'notify'
        # raw text is for plain handlers: RPC peers could not parse it
        assert plain.recv_text() == 'raw Hi'
        assert one.call('rpc.ping', [1]) == [1] and not one.events


def test_a_broadcast_may_be_for_an_endpoint_or_a_user(site):
    with site.peer('/api?as=ada') as ada, site.peer('/api?as=bob') as bob, \
            site.peer('/other?as=ada') as other:
        for peer in (ada, bob, other):
            peer.call('rpc.ping')
        cp_wsrpc.broadcast('f', 1)
        cp_wsrpc.broadcast('f', 2, endpoint='/api')
        cp_wsrpc.broadcast('f', 3, user='ada')
        cp_wsrpc.broadcast('f', 4, user='ada', endpoint='/other/')
        cp_wsrpc.broadcast('f', 5, user='eve')
        cp_wsrpc.broadcast('f')

        def heard(peer, count):
            return [peer.recv_json().get('params', [None])[0]
                    for _ in range(count)]

        assert heard(ada, 4) == [1, 2, 3, None]
        assert heard(bob, 3) == [1, 2, None]
        assert heard(other, 4) == [1, 3, 4, None]


def test_a_push_is_encoded_once_for_each_dialect(site, monkeypatch):
    from cp_wsrpc import dialects
    encoded = []
    for dialect in (dialects.JSONRPC, dialects.WSRPC1):
        cls = type(dialect)
        original = cls.encode_event

        def count(self, *args, original=original):
            encoded.append(self.name)
            return original(self, *args)

        monkeypatch.setattr(cls, 'encode_event', count)
    peers = [site.peer('/api') for _ in range(6)]
    try:
        for n, peer in enumerate(peers):
            if n % 2:
                peer.call('rpc.subscribe', ['news'])
            else:
                peer.send_json({'serial': 3, 'call': 'rpc.subscribe',
                                'arguments': ['news']})
                peer.recv_json()
        cp_wsrpc.publish('news', 1)
        for peer in peers:
            peer.recv_json()
        assert sorted(encoded) == ['jsonrpc', 'wsrpc1']
    finally:
        for peer in peers:
            peer.drop()


def test_all_pushes_of_one_connection_keep_their_order(site):
    with site.peer('/api') as peer:
        peer.call('rpc.subscribe', ['news'])
        connection = only_connection()
        for n in range(50):
            cp_wsrpc.publish('news', n)
            cp_wsrpc.broadcast('f', n)
        seen = [peer.recv_json() for _ in range(100)]
        assert [m['params']['result'] for m in seen
                if m['method'] == 'rpc.subscription'] == list(range(50))
        assert [m['params'][0] for m in seen if m['method'] == 'f'] == list(
            range(50))
        assert not connection.is_closed


# -- npm rpc-websockets ----------------------------------------------------


def test_rpc_on_and_off_are_those_of_npm_rpc_websockets(server):
    with server.peer('/api') as peer, server.peer('/api') as other:
        assert peer.call('rpc.on', ['news', 'chat']) == {
            'news': 'ok', 'chat': 'ok'}
        assert peer.call('rpc.on', ['news']) == {'news': 'ok'}
        cp_wsrpc.publish('news', {'a': 1})
        assert peer.recv_json() == {'notification': 'news',
                                    'params': [{'a': 1}]}
        other.call('rpc.subscribe', ['news'])
        cp_wsrpc.publish('news', 2)
        assert event(other) == ('news', 2)
        assert peer.recv_json() == {'notification': 'news', 'params': [2]}
        off = peer.call('rpc.off', ['news', 'never'])
        assert off['news'] == 'ok' and off['never'] != 'ok'
        cp_wsrpc.publish('news', 3)
        cp_wsrpc.publish('chat', 4)
        assert peer.recv_json() == {'notification': 'chat', 'params': [4]}


def test_rpc_on_of_a_topic_that_is_refused_joins_none(server):
    with server.peer('/api') as peer:
        assert failure_of(peer, 'rpc.on', ['news', 'secret'])[0] == -32012
        cp_wsrpc.publish('news', 1)
        assert peer.call('rpc.ping', [1]) == [1] and not peer.events


def test_a_root_may_have_many_endpoints_with_one_space_of_topics():
    on = {'tools.wsrpc.on': True, 'tools.wsrpc.subscribe': ['t']}
    with starting_quickly(), serving(
            Root(a=Api(), b=Api()), {'/a': on, '/b': on}) as server:
        with server.peer('/a') as a, server.peer('/b') as b:
            for peer in (a, b):
                peer.call('rpc.subscribe', ['t'])
            cp_wsrpc.publish('t', 1)
            assert event(a) == event(b) == ('t', 1)
