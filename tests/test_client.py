"""The Python client, against the real server and against bad ones."""
from __future__ import annotations

import asyncio
import json
import logging
import threading
import time

import cherrypy
import pytest
import websockets.sync.server

import cp_wsrpc
from cp_wsrpc import client_inbox
from cp_wsrpc import client_link, client_outbox, client_subscriptions
from cp_wsrpc.client import Client, HandshakeError
from cp_wsrpc.client_inbox import Inbox
from cp_wsrpc.errors import (Busy, CallTimeout, ConnectionLostError,
                             RemoteError, WrongThread)

from .apps import Exiting
from .scripted import frame, refuse, scripted, serve, text
from .serving import free_port, serving, wait_until


class Calculator:
    @cp_wsrpc.expose
    def add(self, a: int, b: int):
        return a + b

    @cp_wsrpc.expose
    def divide(self, a, b):
        return a / b


class Api:
    calc = Calculator()

    @cp_wsrpc.expose
    def echo(self, *args, **kwargs):
        return [args, kwargs]

    @cp_wsrpc.expose
    def ask(self, name, *args):
        return cp_wsrpc.connection.call(name, *args).result(timeout=5)

    @cp_wsrpc.expose
    def tell(self, name, *args):
        cp_wsrpc.connection.notify(name, *args)

    @cp_wsrpc.expose
    def header(self, name):
        return cherrypy.request.headers.get(name)

    @cp_wsrpc.expose
    def close(self, code, reason='bye'):
        cp_wsrpc.connection.close(code, reason)

    @cp_wsrpc.expose
    def connections(self):
        return len(cp_wsrpc.connections())


class Root:
    api = Api()


def topics(name):
    return name.startswith('t')


@pytest.fixture
def server():
    # One a test: its spare workers come and go.
    with serving(Root(), {'/api': {
            'tools.wsrpc.on': True, 'tools.wsrpc.debug': True,
            'tools.wsrpc.subscribe': ['t*'],
            'tools.wsrpc.publish': ['t*']}}) as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.ws_url('/api'), reconnect_delay_s=0.01) as client:
        yield client


def at_once(url, **options):
    """A client whose every delay is 0."""
    client = Client(url, **options)
    client.backoff.random = lambda: 0.0
    return client


@pytest.fixture
def impatient(monkeypatch):
    """The client waits 0.1 s, not 2, for a server's Close or EOF."""
    monkeypatch.setattr(client_link, 'LEAVE_TIMEOUT_S', 0.1)


def threads_of_clients():
    return [thread.name for thread in threading.enumerate()
            if thread.name.startswith('wsrpc-client')]


class Heard:
    """A function that keeps what it is called with."""

    def __init__(self):
        self.all = []
        self._changed = threading.Condition()

    def __call__(self, *args):
        with self._changed:
            self.all.append(args[0] if len(args) == 1 else args)
            self._changed.notify_all()

    def wait_for(self, count, timeout_s=5):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.all) >= count,
                                          timeout_s), self.all
        return self.all


# -- calls -------------------------------------------------------------------

@pytest.mark.parametrize('args, kwargs, expected', [
    ((), {}, [[], {}]), ((1, 'x'), {}, [[1, 'x'], {}]),
    ((), {'a': 1}, [[], {'a': 1}]), (({'a': 1},), {}, [[{'a': 1}], {}]),
    ((None,), {}, [[None], {}]), (([],), {}, [[[]], {}]),
    ((2 ** 70, 1.5, 'é\u2028'), {}, [[2 ** 70, 1.5, 'é\u2028'], {}])])
def test_arguments_arrive_as_they_were_given(client, args, kwargs, expected):
    assert client.call('echo', *args, **kwargs).result() == expected


def test_the_proxy_waits_and_returns_the_value(client):
    assert client.proxy.calc.add(1, 2) == 3
    assert client.proxy.echo(timeout=5, callback=6) == [
        [], {'timeout': 5, 'callback': 6}]


def test_the_proxy_is_no_dialogue_with_python_itself(client):
    assert not hasattr(client.proxy, '__len__')
    assert repr(client.proxy.a.b) == '<proxy a.b>'
    with pytest.raises(TypeError):
        client.proxy()


def test_an_exception_of_the_method_is_a_remote_error(client):
    with pytest.raises(RemoteError) as caught:
        client.proxy.calc.divide(1, 0)
    assert caught.value.type == 'ZeroDivisionError'
    assert 'in divide' in caught.value.stack


def test_an_unknown_method_and_wrong_arguments_have_their_codes(client):
    for name, code in [('nope', -32601), ('calc.add', -32602)]:
        with pytest.raises(RemoteError) as caught:
            client.call(name, 'x').result()
        assert caught.value.code == code


def test_what_is_no_json_is_told_at_once_and_waits_for_nothing(client):
    for value in (object(), float('nan')):
        with pytest.raises((TypeError, ValueError)):
            client.call('echo', value)
    with pytest.raises(TypeError):
        client.call('echo', 1, a=2)
    with pytest.raises(SystemExit):
        client.call('echo', Exiting())
    assert len(client._outbox._calls) == 0


def test_a_hundred_calls_in_flight_each_get_their_own_answer(client):
    replies = [client.call('calc.add', n, n) for n in range(100)]
    assert [reply.result() for reply in replies] == [
        2 * n for n in range(100)]


def test_many_threads_may_use_one_client(client):
    wrong = []

    def use(start):
        for n in range(start, start + 100):
            if client.call('calc.add', n, 1).result() != n + 1:
                wrong.append(n)

    threads = [threading.Thread(target=use, args=(1000 * i,))
               for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert wrong == []


def test_a_callback_gets_the_settled_reply_in_a_thread_of_the_client(client):
    heard = Heard()
    client.call('calc.add', 1, 2, callback=lambda reply: heard(
        reply.result(), threading.current_thread().name))
    value, thread = heard.wait_for(1)[0]
    assert value == 3
    assert thread.startswith('wsrpc-client-')


def test_a_reply_can_be_awaited(client):
    async def ask():
        return await client.call('calc.add', 1, 2)

    assert asyncio.run(ask()) == 3


def test_a_notification_is_not_answered(client):
    heard = Heard()
    client.route('heard', heard)
    client.notify('ask', 'heard', 5)
    assert heard.wait_for(1) == [5]


def test_headers_cookies_and_credentials_reach_the_server(server):
    with Client(server.ws_url('/api'), {'Cookie': 'a=1', 'X-Y': 'z'}) as c:
        assert c.proxy.header('Cookie') == 'a=1'
        assert c.proxy.header('X-Y') == 'z'
        assert c.proxy.header('Origin') is None


def test_an_http_url_will_do(server):
    with Client(server.url('/api')) as client:
        assert client.proxy.calc.add(1, 2) == 3


def test_a_call_without_an_answer_times_out_by_itself(impatient):
    with scripted(lambda peer: (peer.shake(), peer.recv_eof())) as server, \
            Client(server.url) as client:
        started = time.monotonic()
        slow, quick = (client.call('f', timeout=t) for t in (30, 0.05))
        with pytest.raises(CallTimeout):
            quick.result()
        assert time.monotonic() - started < 2
        assert not slow.done


def test_falsy_and_deep_and_large_values_come_whole():
    deep = 0
    for _ in range(300):
        deep = [deep]
    for value in (0, '', False, [], {}, None, deep, 'x' * 5_000_000):
        with scripted(serve({'f': value})) as server, \
                Client(server.url) as client:
            assert client.proxy.f() == value


def test_websockets_own_server_is_understood():
    def handle(connection):
        for message in connection:
            call = json.loads(message)
            connection.send(json.dumps({
                'jsonrpc': '2.0', 'id': call['id'], 'result': 7}))

    with websockets.sync.server.serve(
            handle, '127.0.0.1', 0, compression=None,
            logger=logging.getLogger('tests.quiet')) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        with Client(f'ws://127.0.0.1:{port}/') as client:
            assert client.proxy.anything() == 7
        server.shutdown()
        thread.join(5)


# -- routes ------------------------------------------------------------------

def test_the_server_calls_functions_of_the_client(client):
    client.route('plus', lambda a, b: a + b)

    @client.route
    def named_by_itself():
        return 'itself'

    @client.route('other')
    async def spoken_of():
        await asyncio.sleep(0)
        return 'async'

    assert client.proxy.ask('plus', 1, 2) == 3
    assert client.proxy.ask('named_by_itself') == 'itself'
    assert client.proxy.ask('other') == 'async'
    assert spoken_of.__name__ == 'spoken_of'
    assert client.delete_route('plus')
    assert not client.delete_route('plus')
    with pytest.raises(RemoteError, match='no route plus'):
        client.proxy.ask('plus', 1, 2)


def test_a_route_may_call_back_and_wait(client):
    client.route('back', lambda n: client.call('calc.add', n, 1).result())
    replies = [client.call('ask', 'back', n) for n in range(30)]
    assert [reply.result(10) for reply in replies] == list(range(1, 31))


def test_calls_in_both_directions_may_nest_deep(client):
    @client.route('down')
    def down(n):
        return n if n == 0 else client.proxy.ask('down', n - 1) + 1

    assert client.proxy.ask('down', 3) == 3


@pytest.mark.parametrize('error', [KeyError, SystemExit])
def test_a_route_that_raises_sends_type_and_stack(client, error):
    @client.route('bad')
    def bad():
        raise error('x')

    with pytest.raises(RemoteError) as caught:
        client.proxy.ask('bad')
    # debug is on: the server's own error names the client's
    assert error.__name__ in str(caught.value)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError('no words')

    __repr__ = __str__


class Unprintable(SyntaxError):
    text = 5            # the traceback module trusts it to be a str
    lineno = 1


@pytest.mark.parametrize('kind', [Unspeakable, Unprintable])
def test_a_route_whose_exception_cannot_be_shown_is_answered(client, kind):
    @client.route('bad')
    def bad():
        raise kind('x')

    with pytest.raises(RemoteError, match=kind.__name__):
        client.proxy.ask('bad')
    assert client.proxy.calc.add(1, 2) == 3


def test_a_route_checks_its_annotated_arguments(client):
    @client.route('typed')
    def typed(n: int):
        return n

    with pytest.raises(RemoteError, match='expected int'):
        client.proxy.ask('typed', 'x')


def test_notifications_run_in_the_order_of_their_sending(client):
    heard = Heard()
    client.route('n', heard)
    for n in range(50):
        client.notify('tell', 'n', n)
        client.proxy.calc.add(0, 0)
    assert heard.wait_for(50) == list(range(50))


@pytest.mark.parametrize('name', ['rpc.ping', '$/x'])
def test_reserved_names_are_no_routes(name):
    with pytest.raises(ValueError):
        Client('ws://h').route(name, print)


def test_a_client_whose_routes_are_slow_says_busy_and_lives():
    answers = Heard()
    go_on = threading.Event()

    def flood(peer):
        peer.shake()
        for id in range(0, 600, 2):
            peer.send({'jsonrpc': '2.0', 'method': 'slow', 'id': id})
        for _ in range(300):
            answers(peer.recv())

    with scripted(flood) as server:
        client = Client(server.url, threads=2)
        client.route('slow', lambda: go_on.wait(10))
        with client:
            answers.wait_for(300 - 2 - 128)
            go_on.set()
            done = answers.wait_for(300)
    busy = [a for a in done if 'error' in a]
    assert {a['error']['code'] for a in busy} == {-32009}
    assert len(done) - len(busy) == 2 + 128


def test_a_duplicate_id_is_not_run_twice():
    runs = Heard()
    go_on = threading.Event()

    def twice(peer):
        peer.shake(early=text({'jsonrpc': '2.0', 'method': 'f', 'id': 2}) * 2)
        server.said.put(peer.recv())
        go_on.set()
        server.said.put(peer.recv())
        peer.recv_close()

    with scripted(twice) as server:
        client = Client(server.url)
        client.route('f', lambda: (runs(1), go_on.wait(10)))
        with client:
            assert server.next()['id'] is None
            assert server.next()['id'] == 2
    assert runs.all == [1]


@pytest.mark.parametrize('asked, answered', [
    ({'serial': 2, 'call': 'f', 'arguments': [1], 'type': 'call'},
     {'data': [1], 'serial': 2, 'type': 'callback'}),
    ({'id': 2, 'method': 'f', 'params': [1]}, {'id': 2, 'result': [1]}),
    ([{'jsonrpc': '2.0', 'id': 2, 'method': 'f', 'params': [1]}],
     {'jsonrpc': '2.0', 'id': 2, 'result': [1]})])
def test_a_server_is_answered_in_its_own_dialect(asked, answered):
    def ask(peer):
        peer.shake(early=text(asked))
        server.said.put(peer.recv())
        peer.recv_close()

    with scripted(ask) as server:
        client = Client(server.url)
        client.route('f', lambda *args: args)
        with client:
            assert server.next() == answered


# -- topics ------------------------------------------------------------------

def joined(client, topic, function, **options):
    """Subscribe and wait for the join."""
    told = Heard()
    off = client.subscribe(topic, function, onjoin=told, **options)
    assert told.wait_for(1) == [None]
    return off


def test_a_subscriber_hears_what_is_published_in_order(client):
    heard = Heard()
    joined(client, 'topic', heard)
    for n in range(100):
        cp_wsrpc.publish('topic', {'n': n})
    assert heard.wait_for(100) == [{'n': n} for n in range(100)]


def test_a_client_may_publish_and_two_functions_hear(client):
    one, two = Heard(), Heard()
    joined(client, 'topic', one)
    joined(client, 'topic', lambda data, publication: two(publication))
    assert client.publish('topic', 7).result() is None
    assert one.wait_for(1) == [7]
    assert two.wait_for(1) == [('topic', 7, None, None)]


def test_off_ends_it_and_the_last_one_leaves_the_topic(client, server):
    one, two = Heard(), Heard()
    off = joined(client, 'topic', one)
    other = joined(client, 'topic', two)
    off()
    client.publish('topic', 1).result()
    two.wait_for(1)
    assert one.all == []
    other()
    off()                           # again: nothing
    wait_until(lambda: not client._topics._topics)
    joined(client, 'topic', one)    # and it can be joined anew
    client.publish('topic', 2).result()
    assert one.wait_for(1) == [2]


def test_a_refused_topic_is_told_to_onerror_or_logged(client, caplog):
    told = Heard()
    client.subscribe('secret', print, onerror=told)
    assert told.wait_for(1)[0].code == -32012
    client.subscribe('secret', print)
    wait_until(lambda: 'no subscription to secret' in caplog.text)


def test_a_subscription_made_before_connect_and_survives_a_reconnect(server):
    heard, told = Heard(), Heard()
    client = at_once(server.ws_url('/api'))
    client.subscribe('topic', heard, onjoin=told)
    with client:
        told.wait_for(1)
        client.call('close', 1012)
        assert told.wait_for(2) == [None, False]
        cp_wsrpc.publish('topic', 1)
        assert heard.wait_for(1) == [1]


def test_a_subscriber_that_raises_or_calls_back_stops_nothing(client):
    heard = Heard()

    def bad(data):
        if data == 1:
            raise ValueError('on purpose')
        heard(client.proxy.calc.add(data, 0))

    joined(client, 'topic', bad)
    for n in (1, 2):
        client.publish('topic', n).result()
    assert heard.wait_for(1) == [2]


def push(n):
    return text({'jsonrpc': '2.0', 'method': 'rpc.subscription', 'params': {
        'subscription': 's1', 'result': n, 'topic': 'news'}})


def test_the_first_event_right_behind_the_subscription_is_heard():
    def script(peer):
        peer.shake()
        call = peer.recv()
        peer.sock.sendall(text({'jsonrpc': '2.0', 'id': call['id'],
                                'result': 's1'}) + push(1) + push(2))
        peer.recv_close()

    heard = Heard()
    with scripted(script) as server, Client(server.url) as client:
        client.subscribe('news', heard)
        assert heard.wait_for(2) == [1, 2]


def test_a_slow_subscriber_is_told_of_the_gap_and_bounded(monkeypatch):
    monkeypatch.setattr(client_subscriptions, 'MAX_WAITING_EVENTS', 50)

    def script(peer):
        peer.shake()
        call = peer.recv()
        peer.sock.sendall(text({'jsonrpc': '2.0', 'id': call['id'],
                                'result': 's1'}) + push(1) * 100)
        server.said.put(peer.recv_close())

    told = Heard()
    go_on = threading.Event()
    with scripted(script) as server:
        with at_once(server.url) as client:
            client.subscribe('news', lambda data: go_on.wait(10),
                             onjoin=told)
            assert server.next() == 4408
            go_on.set()
            assert told.wait_for(2)[:2] == [None, False]


def test_events_of_topics_that_nobody_knows_are_passed_over():
    def script(peer):
        peer.shake(early=push(1) + text(
            {'jsonrpc': '2.0', 'method': 'rpc.subscription', 'params': 5}))
        peer.answer(result=7)
        peer.recv_close()

    with scripted(script) as server, Client(server.url) as client:
        assert client.proxy.f() == 7


# -- lost connections --------------------------------------------------------

def test_calls_wait_for_the_first_connection(server):
    client = Client(server.ws_url('/api'))
    reply = client.call('calc.add', 1, 2)
    client.notify('echo', 1)
    assert client.state == 'new'
    assert not reply.done
    with client:
        assert reply.result(5) == 3


def test_the_clock_of_a_call_starts_with_connect(server):
    client = Client(server.ws_url('/api'))
    reply = client.call('calc.add', 1, 2, timeout=20)
    assert client._outbox._calls.expire(time.monotonic() + 100) is None
    with client:
        assert reply.result() == 3
        never = client.call('ask', 'sleepy', timeout=0.05)
        client.route('sleepy', lambda: threading.Event().wait(0.3))
        with pytest.raises((CallTimeout, RemoteError)):
            never.result()


def test_who_forgets_to_connect_is_told_once(monkeypatch, caplog):
    monkeypatch.setattr(client_outbox, 'WARN_UNCONNECTED_S', 0.01)
    client = Client('ws://127.0.0.1:1/')
    client.call('calc.add')
    client.call('calc.sub')
    wait_until(lambda: 'calc.add waits for connect()' in caplog.text)
    assert 'calc.sub' not in caplog.text
    client.close()


def test_a_sent_call_fails_at_once_with_the_connection():
    def drop(peer):
        peer.shake()
        peer.recv()
        peer.reset()

    with scripted(drop, serve({'f': 1})) as server, \
            at_once(server.url) as client:
        with pytest.raises(ConnectionLostError) as caught:
            client.call('f').result(5)
        assert caught.value.maybe_executed is True
        assert 'f: ' in str(caught.value)
        assert client.proxy.f() == 1        # and it comes back by itself


def test_what_was_not_sent_is_sent_after_the_reconnect():
    go_on = threading.Event()

    def drop(peer):
        peer.shake()
        go_on.wait(10)
        peer.reset()

    greeted = Heard()

    def on_connect(client):
        greeted(client)
        if len(greeted.all) == 1:
            go_on.set()
            wait_until(lambda: len(server.peers) == 2)

    with scripted(drop, serve({'f': 1})) as server:
        client = at_once(server.url, on_connect=on_connect)
        with client:
            reply = client.call('f')
            assert reply.result(5) == 1
    assert len(greeted.all) == 2


def test_a_failed_attempt_rejects_what_waited_for_it():
    client = Client(f'ws://127.0.0.1:{free_port()}/')
    reply = client.call('f')
    with client:
        with pytest.raises(ConnectionLostError, match='not sent') as caught:
            reply.result(5)
        assert caught.value.maybe_executed is False
        assert not client.is_closed


@pytest.mark.parametrize('status, code', [
    (401, 4401), (403, 4403), (404, 4403), (302, 4401)])
def test_a_final_refusal_ends_the_client_and_says_why(status, code):
    closes = Heard()
    with scripted(refuse(status, 'Location: /login\r\n', 'why')) as server:
        client = Client(server.url)
        client.on_close(lambda *told: closes(told))
        reply = client.call('f')
        with client:
            for failing in (lambda: reply.result(5), lambda: client.wait(5)):
                with pytest.raises(HandshakeError) as caught:
                    failing()
                assert caught.value.status == status
                assert caught.value.body == b'why'
            assert client.is_closed
            assert closes.wait_for(1)[0][0] == code
            with pytest.raises(ConnectionLostError):
                client.call('f')
    assert len(server.peers) == 1


def test_a_503_is_told_and_tried_again():
    with scripted(refuse(503), refuse(503), serve({'f': 1})) as server:
        with at_once(server.url) as client:
            with pytest.raises(HandshakeError) as caught:
                client.call('f').result(5)
            assert caught.value.status == 503
            wait_until(lambda: client.is_connected)
            assert client.proxy.f() == 1


@pytest.mark.parametrize('code', [1000, 1008, 4400, 4401, 4403])
def test_a_final_close_ends_the_client(client, code):
    closes = Heard()
    client.on_close(lambda *told: closes(told))
    client.call('close', code)
    with pytest.raises(ConnectionLostError, match=str(code)):
        client.wait(5)
    assert client.is_closed
    assert closes.wait_for(1) == [(code, 'bye')]


@pytest.mark.parametrize('code', [1001, 1012, 1011, 4408, 3000])
def test_other_closes_are_followed_by_a_new_connection(server, code):
    closes = Heard()
    with at_once(server.ws_url('/api')) as client:
        client.on_close(lambda *told: closes(told))
        client.call('close', code)
        assert closes.wait_for(1) == [(code, 'bye')]
        client.wait_connected(5)
        assert client.proxy.calc.add(1, 2) == 3


def test_it_stops_at_the_third_protocol_error_in_a_row():
    def break_it(peer):
        peer.shake(early=b'\xf0\x00')
        peer.recv_close()

    with scripted(break_it) as server, at_once(server.url) as client:
        with pytest.raises(ConnectionLostError, match='1002'):
            client.wait(5)
    assert len(server.peers) == 3


@pytest.mark.parametrize('bad, code', [
    (frame(1, b'no json'), 4400), (frame(1, b'\xff'), 1007),
    (frame(2, b'x'), 1003), (b'\x81\x82abcdef', 1002),
    (b'\x81\x7f' + (1 << 40).to_bytes(8, 'big'), 1009)])
def test_a_server_that_talks_nonsense_is_told_the_code_and_left(bad, code):
    def talk(peer):
        peer.shake()
        peer.recv()
        peer.sock.sendall(bad)
        server.said.put(peer.recv_close())

    with scripted(talk, serve({'f': 1})) as server, \
            at_once(server.url) as client:
        with pytest.raises(ConnectionLostError) as caught:
            client.call('f').result(5)
        assert caught.value.maybe_executed is True
        assert server.next() == code
        assert client.proxy.f() == 1


@pytest.mark.parametrize('odd', [
    '{}', '[]', '5', '"x"', '{"jsonrpc":"2.0"}', '{"jsonrpc":"2.0","id":1}',
    '{"jsonrpc":"2.0","id":99,"result":1}',
    '{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}',
    '{"jsonrpc":"2.0","id":true,"result":1}',
    '{"jsonrpc":"2.0","method":"$/progress","params":{}}',
    '{"jsonrpc":"2.0","method":"nobody"}'])
def test_odd_messages_settle_no_call_and_end_nothing(odd):
    def talk(peer):
        peer.shake()
        call = peer.recv()
        peer.sock.sendall(frame(1, odd.encode()))
        peer.send({'jsonrpc': '2.0', 'id': call['id'], 'result': 'right'})
        peer.recv_close()

    with scripted(talk) as server, Client(server.url) as client:
        assert client.proxy.f() == 'right'


def test_a_result_that_cannot_be_decoded_is_an_error_not_a_hang():
    def talk(peer):
        peer.shake()
        call = peer.recv()
        peer.sock.sendall(frame(1, b'{"jsonrpc":"2.0","id":%d,"result":%s}'
                                % (call['id'], b'[' * 20_000 + b']' * 20_000)))
        peer.recv_close()

    with scripted(talk) as server, at_once(server.url) as client:
        with pytest.raises((RemoteError, ConnectionLostError, CallTimeout)):
            client.call('f', timeout=1).result()


def test_on_connect_goes_before_what_waited_and_others_wait_for_it():
    order = Heard()

    def script(peer):
        peer.shake()
        for _ in range(3):
            order(peer.answer(result=1)['method'])
        peer.recv_close()

    def on_connect(client):
        thread = threading.Thread(target=client.call, args=('other',))
        thread.start()
        thread.join(5)
        assert client.proxy.login() == 1

    with scripted(script) as server:
        client = Client(server.url, on_connect=on_connect)
        client.call('early')
        with client:
            assert order.wait_for(3) == ['login', 'early', 'other']


def test_an_on_connect_that_raises_is_logged_and_the_calls_go_out(caplog):
    def on_connect(client):
        raise ValueError('on purpose')

    with scripted(serve({'f': 1})) as server:
        with Client(server.url, on_connect=on_connect) as client:
            assert client.proxy.f() == 1
    assert 'on_connect raised ValueError' in caplog.text


def test_neither_on_connect_nor_calls_wait_for_a_listener(server):
    heard = Heard()

    def listener(data):
        first = client._link.ws
        client.call('close', 4000)
        wait_until(lambda: client._link.ws is not first)
        heard(client.call('calc.add', 1, 2, timeout=5).result())

    client = at_once(server.ws_url('/api'),
                     on_connect=lambda client: client.proxy.calc.add(0, 0))
    with client:
        joined(client, 'topic', listener)
        cp_wsrpc.publish('topic', 1)
        assert heard.wait_for(1) == [3]


def test_an_on_connect_that_outlives_its_connection_stops_no_calls():
    greeted = Heard()

    def drop(peer):
        peer.shake()
        peer.answer(result=1)
        peer.reset()

    def on_connect(client):
        greeted(threading.get_ident())
        if len(greeted.all) == 1:
            client.proxy.f()
            wait_until(lambda: client._link.ws is None
                       or len(server.peers) == 2)
            assert client.call('f', timeout=5).result() == 1

    with scripted(drop, serve({'f': 1})) as server:
        with at_once(server.url, on_connect=on_connect) as client:
            greeted.wait_for(2)
            assert client.call('f', timeout=5).result() == 1


def test_the_end_of_a_late_on_connect_does_not_end_the_next_one():
    greeted, again = Heard(), threading.Event()

    def drop(peer):
        peer.shake()
        peer.reset()

    def on_connect(client):
        greeted(1)
        if len(greeted.all) == 1:
            assert again.wait(5)
        else:
            again.set()
            wait_until(lambda: client._routes._pool.active_strands == 1)
            greeted(client.call('login', timeout=5).result())

    with scripted(drop, serve({'login': 'in'})) as server:
        with at_once(server.url, on_connect=on_connect):
            assert greeted.wait_for(3) == [1, 1, 'in']


def test_on_close_comes_before_the_next_on_connect(server):
    """Though a listener is at work, and on_close itself is slow."""
    order, go_on = Heard(), threading.Event()

    def on_close(code, reason):
        if code == 4000:
            wait_until(lambda: client._link.ws not in (None, first))
            order('closed')

    client = at_once(server.ws_url('/api'),
                     on_connect=lambda client: order('connected'))
    client.on_close(on_close)
    with client:
        joined(client, 'topic', lambda data: go_on.wait(10))
        cp_wsrpc.publish('topic', 1)
        first = client._link.ws
        client.call('close', 4000)
        assert order.wait_for(3) == ['connected', 'closed', 'connected']
        go_on.set()


def test_an_on_close_that_calls_does_not_stop_on_connect(
        server, monkeypatch):
    monkeypatch.setattr(client_inbox, 'ON_CLOSE_WAIT_S', 0.05)
    heard = Heard()
    client = at_once(server.ws_url('/api'), on_connect=lambda client: None)
    client.on_close(lambda code, reason: client.is_closed or heard(
        client.call('calc.add', 1, 2, timeout=5).result()))
    with client:
        client.call('close', 4000)
        assert heard.wait_for(1) == [3]


def test_on_connect_runs_though_all_other_threads_are_held(server):
    greeted, held, go_on = Heard(), Heard(), threading.Event()

    def hold(*args):
        held(args)
        go_on.wait(10)

    client = at_once(server.ws_url('/api'), on_connect=greeted, threads=1)
    with client:
        client.route('hold', hold)
        joined(client, 'topic', hold)
        cp_wsrpc.publish('topic', 1)
        client.call('ask', 'hold')
        held.wait_for(2)
        client.call('close', 4000)
        greeted.wait_for(2)
        go_on.set()


BUSY = {'code': -32009, 'message': 'Busy',
        'data': {'retryable': True, 'executed': False}}
GOING = {**BUSY, 'code': -32011}


def test_a_busy_server_is_asked_again(monkeypatch):
    monkeypatch.setattr('cp_wsrpc.client_calls.RETRY_DELAY_S', 0.01)

    def script(peer):
        peer.shake()
        asked = [peer.answer(error=BUSY), peer.answer(error=BUSY),
                 peer.answer(result=7)]
        assert len({json.dumps(call) for call in asked}) == 1
        peer.recv_close()

    with scripted(script) as server, Client(server.url) as client:
        assert client.proxy.f(1) == 7


def test_a_server_that_stays_busy_is_believed_at_last(monkeypatch):
    monkeypatch.setattr('cp_wsrpc.client_calls.RETRY_DELAY_S', 0.01)

    def script(peer):
        peer.shake()
        for _ in range(4):
            peer.answer(error=BUSY)
        peer.recv_close()

    with scripted(script) as server, Client(server.url) as client:
        with pytest.raises(RemoteError) as caught:
            client.proxy.f()
        assert caught.value.executed is False


def test_a_server_that_goes_away_gets_no_new_calls(monkeypatch):
    monkeypatch.setattr('cp_wsrpc.client_calls.RETRY_DELAY_S', 0.01)
    seen = []

    def leaving(peer):
        peer.shake()
        seen.append(peer.answer(error=GOING)['method'])
        server.said.put('refused')
        peer.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.recv()
        peer.sock.settimeout(10)
        peer.close(1012)

    with scripted(leaving, serve({'f': 1, 'g': 2})) as server, \
            at_once(server.url) as client:
        first = client.call('f')
        server.next()
        wait_until(lambda: client._outbox._draining)
        second = client.call('g')
        assert (first.result(5), second.result(5)) == (1, 2)
    assert seen == ['f']


# -- liveness, limits --------------------------------------------------------

def test_a_silent_server_is_pinged_and_given_up():
    def silent(peer):
        peer.shake()
        server.said.put(peer.recv_frame()[0])
        peer.recv_eof()

    with scripted(silent, serve({'f': 1})) as server:
        with at_once(server.url, ping_interval_s=0.05,
                     ping_timeout_s=0.3) as client:
            assert server.next() == 9
            wait_until(lambda: len(server.peers) == 2)
            assert client.proxy.f() == 1


def test_a_server_that_pongs_is_kept():
    def ponging(peer):
        peer.shake()
        for _ in range(3):
            opcode, payload = peer.recv_frame()
            assert opcode == 9
            peer.sock.sendall(frame(10, payload))
        server.said.put('three')
        peer.recv_close()

    with scripted(ponging) as server:
        with at_once(server.url, ping_interval_s=0.02,
                     ping_timeout_s=0.4):
            assert server.next() == 'three'
    assert len(server.peers) == 1


def test_a_ping_of_the_server_is_answered():
    def ping(peer):
        peer.shake(early=frame(9, b'abc'))
        server.said.put(peer.recv_frame())
        peer.recv_close()

    with scripted(ping) as server, Client(server.url):
        assert server.next() == (10, b'abc')


def test_a_server_that_takes_no_bytes_fills_the_queue(impatient):
    go_on = threading.Event()

    def stuck(peer):
        peer.shake()
        go_on.wait(10)
        peer.recv_eof()

    with scripted(stuck) as server:
        client = Client(server.url)
        with client:
            client.wait_connected(5)
            with pytest.raises(Busy):
                for _ in range(200):
                    client.call('f', 'x' * 1_000_000)
            assert client._outbox._calls._queued_bytes <= 16 << 20
            go_on.set()


def test_calls_behind_a_slow_server_go_out_in_order_when_it_reads():
    go_on = threading.Event()

    def slow(peer):
        peer.shake()
        go_on.wait(10)
        for n in range(30):
            call = peer.recv()
            assert call['params'][0] == n
        peer.send({'jsonrpc': '2.0', 'id': call['id'], 'result': 'all'})
        peer.recv_close()

    with scripted(slow) as server, Client(server.url) as client:
        replies = []
        for n in range(30):
            replies.append(client.call('f', n, 'x' * 500_000))
            if n == 20:
                wait_until(lambda: client._outbox._open is None)
        go_on.set()
        assert replies[-1].result(10) == 'all'


# -- the end -----------------------------------------------------------------

def test_close_may_be_repeated_and_connect_works_again(server):
    heard = Heard()
    client = Client(server.ws_url('/api'))
    client.close()
    client.close()
    assert client.is_closed
    client.subscribe('topic', heard)
    for n in (1, 2):
        with client:
            client.wait_connected(5)
            assert client.proxy.calc.add(1, 2) == 3
            wait_until(lambda: client._topics._by_id)
            cp_wsrpc.publish('topic', n)
            assert heard.wait_for(n)[-1] == n
        assert client.is_closed
        assert client.wait() is True


def test_close_fails_what_waits_and_ends_the_threads(impatient):
    with scripted(lambda peer: (peer.shake(), peer.recv_close(),
                                peer.recv_eof())) as server:
        client = Client(server.url).connect()
        client.wait_connected(5)
        reply = client.call('f')
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 4
        assert isinstance(reply.exception(), ConnectionLostError)
    assert not threads_of_clients()


def test_a_close_while_connecting_does_not_wait():
    with scripted(lambda peer: peer.recv_eof()) as server:
        client = Client(server.url).connect()
        reply = client.call('f')
        wait_until(lambda: server.peers)
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 2
        assert reply.exception().maybe_executed is False


def test_a_deadline_holds_while_connecting():
    with scripted(lambda peer: peer.recv_eof()) as server:
        with Client(server.url) as client:
            with pytest.raises(CallTimeout):
                client.call('f', timeout=0.05).result()
            with pytest.raises(CallTimeout):
                client.wait_connected(0.05)


def test_a_function_of_the_client_may_close_it(client):
    client.route('stop', client.close)
    client.call('ask', 'stop')
    assert client.wait(5) is True


def test_a_function_of_the_client_may_close_it_and_connect_again(client):
    heard = Heard()

    @client.route
    def again():
        client.close()
        client.connect()
        heard(client.proxy.calc.add(1, 2))

    client.call('ask', 'again')
    assert heard.wait_for(1) == [3]
    assert client.is_connected


def test_events_keep_their_order_when_a_listener_connects_again(client):
    heard = Heard()

    def listener(data):
        heard(data)
        if data == 1:
            client.close()
            client.connect()
            wait_until(lambda: client._topics._by_id)
            for n in (2, 3):
                cp_wsrpc.publish('topic', n)
            wait_until(lambda: client._routes.waiting >= 3)
            heard('end of 1')

    joined(client, 'topic', listener)
    cp_wsrpc.publish('topic', 1)
    assert heard.wait_for(4) == [1, 'end of 1', 2, 3]


@pytest.mark.parametrize('end', [
    lambda client: client.call('ask', 'stop'),
    lambda client: client.call('close', 4401)])
def test_its_threads_end_though_nobody_closes_it_from_outside(server, end):
    client = Client(server.ws_url('/api')).connect()
    closes = Heard()
    client.on_close(lambda *told: closes(told))
    client.route('one', lambda: 1)
    client.route('stop', client.close)
    assert client.proxy.ask('one') == 1
    end(client)
    wait_until(lambda: client.is_closed)
    wait_until(lambda: not threads_of_clients())
    assert len(closes.all) == 1


def test_a_callback_of_a_call_never_sent_runs_before_close_returns():
    told = Heard()
    client = Client('ws://h')
    client.call('f', callback=told)
    client.close()
    assert isinstance(told.all[0].exception(), ConnectionLostError)
    wait_until(lambda: not threads_of_clients())


def test_on_close_functions_run_before_close_returns(server):
    closes = Heard()
    client = Client(server.ws_url('/api'))
    for _ in range(3):
        client.on_close(lambda *told: closes(told))
    with client:
        client.wait_connected(5)
    assert closes.all == [(1000, '')] * 3


@pytest.mark.parametrize('code', [0, 999, 1005, 1006, 1015, 5000])
def test_codes_that_may_not_be_sent_are_the_callers_fault(client, code):
    with pytest.raises(ValueError, match=f'code {code} may not be sent'):
        client.close(code)
    assert client.call('rpc.ping', 5).result(5) == [5]


def test_the_server_hears_the_code_and_reason(server):
    with scripted(lambda peer: (peer.shake(), server.said.put(
            peer.recv_close()))) as server:
        client = Client(server.url).connect()
        client.wait_connected(5)
        client.close(4000, 'enough')
        assert server.next() == 4000


def test_the_clients_own_thread_never_waits(client):
    link = client._link
    failed = Heard()

    def wait():
        try:
            client.call('calc.add', 1, 2).result()
        except Exception as error:
            failed(error)

    link.post(wait)
    assert isinstance(failed.wait_for(1)[0], WrongThread)


def test_wait_says_when_the_time_is_up(client):
    client.wait_connected(5)
    assert client.wait(0.01) is False


@pytest.mark.parametrize('url, headers', [
    ('http:/x', ()), ('nowhere', ()), ('ws://h', {'A': 'b\r\nC: d'})])
def test_what_cannot_be_is_told_when_it_is_made(url, headers):
    with pytest.raises(ValueError):
        Client(url, headers)


@pytest.mark.parametrize('auth', [
    'ada:secret', ('ada',), ('ada', 5), ('ada', '\udcd0')])
def test_credentials_that_cannot_be_are_told_when_it_is_made(auth):
    with pytest.raises(ValueError):
        Client('ws://h', auth=auth)


def test_a_context_of_the_user_that_raises_is_a_failed_attempt():
    class Context:
        def wrap_socket(self, *args, **kwargs):
            raise RuntimeError('a context of the user')

    with scripted(lambda peer: peer.recv_eof()) as server:
        client = Client(server.url.replace('ws:', 'wss:'),
                        ssl_context=Context())
        with client, pytest.raises(ConnectionLostError, match='of the user'):
            client.call('f').result(5)


def test_a_fault_of_ours_ends_the_connection_and_not_the_client(
        server, monkeypatch):
    on_text, faults = Inbox.on_text, [AssertionError('a fault of ours')]

    def fail_once(self, *args):
        if faults:
            raise faults.pop()
        on_text(self, *args)

    with at_once(server.ws_url('/api')) as client:
        client.wait_connected(5)
        monkeypatch.setattr(Inbox, 'on_text', fail_once)
        with pytest.raises(ConnectionLostError, match='1011'):
            client.call('calc.add', 1, 2).result(5)
        client.wait_connected(5)
        assert client.proxy.calc.add(1, 2) == 3


def test_a_socket_that_cannot_be_made_is_a_failed_attempt(monkeypatch):
    def make(*args, **options):
        raise RuntimeError('on purpose')

    monkeypatch.setattr(cp_wsrpc.client, 'ClientSocket', make)
    with Client('ws://h') as client:
        with pytest.raises(ConnectionLostError, match='on purpose'):
            client.call('f', timeout=5).result()
        assert client.state == 'waiting'


def test_its_repr_says_where_and_how(client):
    client.wait_connected(5)
    assert repr(client) == f'<Client {client.url} open>'
