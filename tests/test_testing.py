"""Methods tested without a server, as an application would."""
from __future__ import annotations

import asyncio
import dataclasses
import threading

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import testing
from cp_wsrpc.errors import (CallTimeout, ConnectionLostError, NoConnection,
                             RemoteError, RPCError)


class Chat:
    """The methods under test."""

    @cp_wsrpc.expose
    def say(self, text):
        connection = cp_wsrpc.connection
        if connection.call('confirm', 'Sure?').result(timeout=5):
            cp_wsrpc.publish('chat', {'from': connection.user, 'text': text})
        return cp_wsrpc.call.name

    @cp_wsrpc.expose
    async def later(self):
        await asyncio.sleep(0)
        return await cp_wsrpc.connection.call('whoAreYou')


class Visitor(cp_wsrpc.Route):
    def init(self, **kwargs):
        self.agent = self.connection.call('whoAreYou').result()
        return self.agent


def test_a_method_runs_as_in_a_call_and_all_is_recorded():
    with testing.call(user='ada', answers={'confirm': True},
                      name='chat.say') as conn:
        assert Chat().say('hi') == 'chat.say'
    assert conn.published == [('chat', {'from': 'ada', 'text': 'hi'})]
    assert conn.called == [('confirm', ('Sure?',), {})]


def test_the_bus_is_recorded_as_the_functions_are():
    with testing.call() as conn:
        cherrypy.engine.publish('wsrpc-publish', 'news', {'msg': 'hi'})
        cherrypy.engine.publish('wsrpc-broadcast', 'total', 5, user='ada')
    assert conn.published == [('news', {'msg': 'hi'})]
    assert conn.broadcasted == [('total', (5,), {'user': 'ada'})]


def test_it_is_reached_by_the_package_too():
    with cp_wsrpc.testing.call() as conn:
        assert cp_wsrpc.connection is conn


def test_outside_of_the_block_there_is_no_call():
    with testing.call():
        pass
    for name in ('connection', 'call'):
        assert not hasattr(cp_wsrpc, name)
        with pytest.raises(NoConnection):
            getattr(cp_wsrpc, name)


def test_outside_of_the_block_all_of_the_package_can_be_imported():
    names = {}
    exec('from cp_wsrpc import *', names)
    assert names['expose'] is cp_wsrpc.expose
    assert 'connection' not in names


def test_an_async_method_is_awaited_in_the_block():
    with testing.call(answers={'whoAreYou': 'Firefox'}):
        assert asyncio.run(Chat().later()) == 'Firefox'


def test_a_route_is_made_as_a_connection_makes_it():
    with testing.call(answers={'whoAreYou': 'Firefox'}) as conn:
        visitor = conn.make(Visitor)
        assert visitor.init() == visitor.agent == 'Firefox'
        assert visitor.connection is conn


# -- answers -----------------------------------------------------------------

@pytest.mark.parametrize('answer, value', [
    (0, 0), (None, None), ('', ''), ((1, 2), [1, 2]), ({'a': (1,)},
                                                      {'a': [1]}),
    (lambda a, b: a + b, 3), (lambda *args: args, [1, 2])])
def test_an_answer_comes_as_json_brings_it(answer, value):
    with testing.call(answers={'f': answer}) as conn:
        assert conn.call('f', 1, 2).result() == value


def test_a_callable_gets_keywords_too():
    with testing.call(answers={'f': lambda **kw: kw}) as conn:
        assert conn.call('f', a=1).result() == {'a': 1}


def fail(*args):
    raise KeyError('x')


@pytest.mark.parametrize('answer, kind, code, type_', [
    (KeyError('x'), RemoteError, -32000, 'KeyError'),
    (KeyError, RemoteError, -32000, 'KeyError'),
    (fail, RemoteError, -32000, 'KeyError'),
    (RPCError(7, 'closed', {'id': 4}), RemoteError, 7, None),
    (RemoteError('x', code=5), RemoteError, 5, None)])
def test_an_exception_as_an_answer_is_the_clients(answer, kind, code, type_):
    with testing.call(answers={'f': answer}) as conn:
        with pytest.raises(kind) as caught:
            conn.call('f').result()
    assert (caught.value.code, caught.value.type) == (code, type_)


@pytest.mark.parametrize('error', [CallTimeout('late'),
                                   ConnectionLostError('gone')])
def test_what_may_befall_any_call_comes_as_it_is(error):
    with testing.call(answers={'f': error}) as conn:
        with pytest.raises(type(error)):
            conn.call('f').result()


def test_a_call_without_an_answer_fails_and_says_what_to_write():
    with testing.call() as conn:
        with pytest.raises(AssertionError, match=r"answers=\{'ask': \.\.\.\}"):
            conn.call('ask', 1)


def test_what_is_no_json_is_refused_as_by_a_real_connection():
    with testing.call(answers={'f': 1}) as conn:
        for send in (conn.call, conn.notify):
            with pytest.raises(TypeError):
                send('f', object())
            with pytest.raises(TypeError):
                send('f', 1, a=2)
        assert conn.called == conn.notified == []


def test_a_callback_gets_the_settled_reply():
    heard = []
    with testing.call(answers={'f': 5}) as conn:
        conn.call('f', callback=lambda reply: heard.append(reply.result()))
    assert heard == [5]


# -- the rest of a connection ------------------------------------------------

def test_notifications_are_recorded():
    with testing.call() as conn:
        conn.notify('moved', x=1)
        conn.notify('beep')
    assert conn.notified == [('moved', (), {'x': 1}), ('beep', (), {})]


def test_user_data_remote_and_id_are_there():
    with testing.call(user='ada', remote='10.0.0.7') as conn:
        conn.data['a'] = 1
        assert (conn.user, conn.remote, conn.data) == (
            'ada', '10.0.0.7:40000', {'a': 1})
        assert conn.id and not conn.is_closed


def test_a_close_runs_on_close_once_and_ends_the_calls():
    heard = []
    with testing.call(answers={'f': 1}) as conn:
        conn.on_close(lambda *told: heard.append(told))
        with pytest.raises(ValueError, match='1006 may not be sent'):
            conn.close(1006)
        conn.close(4403, 'out')
        conn.close()
        conn.on_close(lambda *told: heard.append(told))
        with pytest.raises(ConnectionLostError):
            conn.call('f')
        conn.notify('f')
    assert heard == [(4403, 'out')] * 2
    assert conn.closed_with == (4403, 'out')
    assert conn.notified == []


# -- publishing --------------------------------------------------------------

@dataclasses.dataclass
class Point:
    x: int


def test_what_is_published_and_broadcast_is_what_clients_would_get():
    with testing.call() as conn:
        assert cp_wsrpc.publish('news', Point(1)) is None
        cp_wsrpc.publish('price', 9, key='car-7')
        cp_wsrpc.broadcast('total', 5)
        cp_wsrpc.broadcast('total', (6,), endpoint='/api', user='ada')
    assert conn.published == [('news', {'x': 1}),
                              ('price', 9, {'key': 'car-7'})]
    assert conn.broadcasted == [
        ('total', (5,), {}),
        ('total', ([6],), {'endpoint': '/api', 'user': 'ada'})]


def test_publishing_what_is_no_json_is_told_to_the_publisher():
    with testing.call() as conn:
        with pytest.raises(TypeError):
            cp_wsrpc.publish('news', object())
        with pytest.raises(TypeError):
            cp_wsrpc.broadcast('f', object())
    assert conn.published == conn.broadcasted == []


def test_connections_are_this_one():
    with testing.call(user='ada') as conn:
        assert cp_wsrpc.connections() == [conn]
        assert cp_wsrpc.connections(user='ada') == [conn]
        assert cp_wsrpc.connections(user='bob') == []


# -- cherrypy ----------------------------------------------------------------

def test_the_request_is_that_of_the_handshake():
    with testing.call(user='ada', headers={'Cookie': 'a=1', 'X-Y': 'z'},
                      params=[1, 2], path='/api', remote='10.0.0.7'):
        request = cherrypy.request
        assert request.headers['X-Y'] == 'z'
        assert request.cookie['a'].value == '1'
        assert request.login == 'ada'
        assert request.json == [1, 2]
        assert request.path_info == '/api'
        assert request.remote.ip == '10.0.0.7'
        cherrypy.response.headers['Set-Cookie'] = 'goes nowhere'


def test_what_is_set_on_the_request_is_gone_after_the_block():
    with testing.call():
        cherrypy.request.mine = 1
    assert not hasattr(cherrypy.request, 'mine')
    with testing.call():
        assert not hasattr(cherrypy.request, 'mine')


def test_the_session_is_the_tests_own_dict():
    session = {'n': 1}
    with testing.call(session=session):
        cherrypy.session['n'] += 1
        cherrypy.session.setdefault('list', []).append(3)
        assert cherrypy.session.get('none') is None
        assert 'n' in cherrypy.session
        assert sorted(cherrypy.session.keys()) == ['list', 'n']
        cherrypy.session.acquire_lock()
        cherrypy.session.save()
        assert cherrypy.session.id
    assert session == {'n': 2, 'list': [3]}


def test_without_a_session_the_error_says_how_to_give_one():
    with testing.call():
        with pytest.raises(AttributeError, match=r'session=\{\}'):
            cherrypy.session['n']


def test_a_session_that_needs_a_cookie_says_so_as_in_a_call():
    with testing.call(session={}):
        with pytest.raises(cp_wsrpc.WsrpcError, match='cookie'):
            cherrypy.session.regenerate()


# -- blocks beside and in one another ----------------------------------------

def test_blocks_nest():
    with testing.call(user='outer', session={'who': 'outer'}) as outer:
        with testing.call(user='inner', session={'who': 'inner'}) as inner:
            assert cp_wsrpc.connection is inner
            assert cherrypy.request.login == cherrypy.session['who'] \
                == 'inner'
            cp_wsrpc.publish('t', 1)
        assert cp_wsrpc.connection is outer
        assert cherrypy.request.login == cherrypy.session['who'] == 'outer'
        cp_wsrpc.publish('t', 2)
    assert inner.published == [('t', 1)]
    assert outer.published == [('t', 2)]


def test_what_stood_at_cherrypy_serving_before_stands_there_again():
    request, response = object(), object()
    cherrypy.serving.load(request, response)
    try:
        with testing.call(session={}):
            assert cherrypy.serving.request is not request
        assert cherrypy.serving.request is request
        assert not hasattr(cherrypy.serving, 'session')
        with pytest.raises(ValueError), testing.call():
            raise ValueError
        assert cherrypy.serving.response is response
    finally:
        cherrypy.serving.clear()


def test_threads_do_not_see_one_another():
    both = threading.Barrier(2)
    seen = {}

    def use(name):
        with testing.call(user=name) as conn:
            both.wait(5)
            cp_wsrpc.publish('t', cp_wsrpc.connection.user)
            both.wait(5)
            seen[name] = (cherrypy.request.login, conn.published)

    threads = [threading.Thread(target=use, args=(name,))
               for name in ('a', 'b')]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert seen == {name: (name, [('t', name)]) for name in ('a', 'b')}


def test_a_thread_that_a_method_starts_is_outside():
    raised = []

    def run():
        try:
            cp_wsrpc.connection
        except NoConnection as error:
            raised.append(error)

    with testing.call():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(5)
    assert raised


def test_what_is_for_one_user_is_recorded_as_such():
    with testing.call(user='ada') as conn:
        assert cp_wsrpc.publish('news', 1, user={'id': (7,)}) is None
        assert cp_wsrpc.close_user('eve', reason='bye') == 0
        assert cp_wsrpc.connections(user='eve') == [] and not conn.is_closed
        assert cp_wsrpc.close_user('ada', 4401) == 1
        for method in (cp_wsrpc.close_user,
                       lambda user: cp_wsrpc.publish('news', 1, user=user)):
            with pytest.raises(ValueError):
                method(None)
    assert conn.published == [('news', 1, {'user': {'id': (7,)}})]
    assert conn.closed_users == [('eve', 4403, 'bye'), ('ada', 4401, '')]
    assert conn.closed_with == (4401, '')


def test_who_is_on_a_topic_is_what_the_test_says():
    with testing.call() as conn:
        conn.present['room'] = ['ada', None, {'id': 7}, 'ada']
        found = cp_wsrpc.who('room')
        assert cp_wsrpc.who('other').users == []
    assert [(present.user, present.count) for present in found.users] == [
        ('ada', 2), ({'id': 7}, 1)]
    assert found.anonymous == 1
