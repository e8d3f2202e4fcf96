"""What surrounds a call: the table of design.md, row by row.

Request, session, ``authorize``, ``around``, errors and threads, each for
methods on the pool, ``async def`` and nonblocking ones.
"""
from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import sqlite3
import threading
import time

import cherrypy
import pytest

import cp_wsrpc
from cp_wsrpc import RPCError, expose, invocation, logs, nonblocking
from cp_wsrpc.host_session import SessionKey

from .apps import (
    WAIT_S,
    Gate,
    Root,
    assert_sent_away,
    failure_of,
    recv_all,
    request,
    result,
    serving_api,
    settle,
    starting_quickly,
    take_call,
)
from .rawpeer import CLOSE, CallFailed, PeerClosed
from .serving import serving, wait_until

KINDS = ['pool', 'later', 'here']


class Kinds:
    """One body under three names: on the pool, async, nonblocking.

    ``Kinds(body)``: each calls ``body(*args)``.
    """

    def __init__(self, body):
        self.body = body

    @expose
    def pool(self, *args):
        return self.body(*args)

    @expose
    async def later(self, *args):
        return self.body(*args)

    @expose
    @nonblocking
    def here(self, *args):
        return self.body(*args)


@pytest.fixture(autouse=True)
def undo(monkeypatch):
    """Callbacks for the end; no line of the log is held back for those of
    the test before."""
    monkeypatch.setattr(invocation, '_limiter', logs.LineLimiter())
    with contextlib.ExitStack() as undo:
        yield undo


# -- cherrypy.request ------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
def test_the_request_is_what_is_kept_of_the_handshake(kind):
    def body(*args):
        request = cherrypy.request
        return {
            'agent': request.headers['user-agent'],
            'cookie': request.cookie['lang'].value,
            'ip': request.remote.ip, 'port': request.remote.port,
            'login': request.login, 'path': request.path_info,
            'script': request.script_name, 'query': request.params,
            'config': request.config['my.own'], 'json': request.json,
            'authorization': request.headers.get('Authorization'),
            'app': request.app is cherrypy.tree.apps['/shop'],
            'base': request.base, 'method': request.method,
            'user': cp_wsrpc.connection.user}

    config = {'/api': {
        'tools.wsrpc.on': True, 'my.own': 'value',
        'tools.auth_basic.on': True, 'tools.auth_basic.realm': 'r',
        'tools.auth_basic.checkpassword': lambda *args: True}}
    with serving(Root(api=Kinds(body)), config, script_name='/shop') as it:
        with it.peer('/shop/api?lang=de', headers={
                'User-Agent': 'me', 'Cookie': 'lang=en',
                'Authorization': 'Basic YWRhOng='}) as peer:
            assert peer.call(kind, [1, 'x']) == {
                'agent': 'me', 'cookie': 'en', 'ip': '127.0.0.1',
                'port': peer.sock.getsockname()[1], 'login': 'ada',
                'path': '/api', 'script': '/shop', 'query': {'lang': 'de'},
                'config': 'value', 'json': [1, 'x'], 'authorization': None,
                'app': True, 'base': it.url(''), 'method': 'GET',
                'user': 'ada'}


@pytest.mark.parametrize('kind', KINDS)
def test_what_a_call_writes_to_its_request_no_other_call_sees(kind):
    def body(word):
        request, response = cherrypy.request, cherrypy.response
        seen = [getattr(request, 'word', None),
                response.headers.get('X-Word'),
                request.config.get('word'), request.headers.get('word'),
                request.params.get('word'), 'word' in request.cookie]
        request.word = request.config['word'] = word
        request.headers['word'] = request.params['word'] = word
        request.cookie['word'] = word
        response.headers['X-Word'] = word
        return seen

    with serving_api(Kinds(body)) as server:
        with server.peer('/api') as peer, server.peer('/api') as other:
            for _ in range(20):     # each worker is met more than once
                for one in (peer, other):
                    assert one.call(kind, ['x']) == [
                        None, None, None, None, None, False]
        assert getattr(cherrypy.request, 'word', None) is None


def test_async_calls_that_take_turns_keep_their_own_request():
    class Api:
        @expose
        async def meet(self, word):
            cherrypy.request.word = word
            await cp_wsrpc.connection.call('go_on', word)

            async def child():
                return cp_wsrpc.call.name, cp_wsrpc.call.args[0]

            return [cherrypy.request.word, cherrypy.request.json,
                    cp_wsrpc.call.args[0],
                    await asyncio.create_task(child()),
                    await asyncio.to_thread(lambda: cp_wsrpc.call.args[0])]

    with serving_api(Api()) as server, server.peer('/api') as peer:
        calls = []
        for word in 'abc':
            peer.send_json(request('meet', [word], word))
            calls.append(take_call(peer, 'go_on'))
        for call in reversed(calls):
            settle(peer, call)
        answers = recv_all(peer, 3)
        for word in 'abc':
            assert answers[word] == result(
                word, [word, [word], word, ['meet', word], word])


def test_concurrent_pool_calls_keep_their_own_request():
    barrier = threading.Barrier(4)

    class Api:
        @expose
        def meet(self, word):
            cherrypy.request.word = word
            barrier.wait(WAIT_S)
            return [cherrypy.request.word, cherrypy.request.json,
                    cp_wsrpc.call.id]

    with serving_api(Api()) as server, server.peer('/api') as peer:
        for n in range(4):
            peer.send_json(request('meet', [n], n))
        assert recv_all(peer, 4) == {n: result(n, [n, [n], n])
                                     for n in range(4)}


def test_outside_of_a_call_there_is_no_connection():
    for name in ('connection', 'call'):
        with pytest.raises(cp_wsrpc.NoConnection, match='inside the method'):
            getattr(cp_wsrpc, name)


@pytest.mark.parametrize('kind', KINDS)
def test_the_running_call_and_its_connection_can_be_seen(kind):
    def body(*args):
        call, connection = cp_wsrpc.call, cp_wsrpc.connection
        return [call.id, call.name, call.connection is connection,
                call.function.__name__, call.args, connection.id,
                connection.remote, connection.is_closed,
                connection in cp_wsrpc.connections()]

    with serving_api(Kinds(body)) as server, server.peer('/api') as peer:
        peer.send_json(request(kind, [1], 'me'))
        port = peer.sock.getsockname()[1]
        seen = peer.recv_json()['result']
        assert re.fullmatch(r'#\d+', seen.pop(5))
        assert seen == ['me', kind, True, kind, [1], f'127.0.0.1:{port}',
                        False, True]


def test_data_belongs_to_the_connection():
    class Api:
        @expose
        def count(self):
            data = cp_wsrpc.connection.data
            data['n'] = data.get('n', 0) + 1
            return data['n']

    with serving_api(Api()) as server:
        with server.peer('/api') as one, server.peer('/api') as other:
            assert [one.call('count') for _ in range(3)] == [1, 2, 3]
            assert other.call('count') == 1


# -- cherrypy.session ------------------------------------------------------


class Counter:
    @expose
    def bump(self):
        cherrypy.session['n'] = cherrypy.session.get('n', 0) + 1
        return cherrypy.session['n']

    @expose
    def ask(self):
        cherrypy.session['asked'] = 1
        answer = cp_wsrpc.connection.call('sure').result(timeout=WAIT_S)
        return [answer, cherrypy.session.get('n')]

    @expose
    def bad(self):
        cherrypy.session['n'] = 100
        raise ValueError

    @expose
    def answer(self):
        cherrypy.session['n'] = 200
        raise RPCError(7, 'no')

    @expose
    def misuse(self, name):
        getattr(cherrypy.session, name)()

    @expose
    async def later(self):
        return cherrypy.session['n']

    @expose
    @nonblocking
    def here(self):
        return cherrypy.session['n']


class Pages:
    @cherrypy.expose
    def index(self):
        return str(cherrypy.session.get('n'))

    @cherrypy.expose
    def set(self, n):
        cherrypy.session['n'] = int(n)
        return 'set'


class Site(Pages):
    api = Counter()


@contextlib.contextmanager
def site(**options):
    """A site with sessions: (server, the Cookie header of a visitor)."""
    config = {'/': {'tools.sessions.on': True, **options},
              '/api': {'tools.wsrpc.on': True,
                       'tools.wsrpc.subscribe': ['*'],
                       'tools.wsrpc.publish': ['*']}}
    with starting_quickly(), serving(Site(), config) as server:
        answer = server.http('/set?n=1')
        cookie = answer.headers['set-cookie'].split(';')[0]
        yield server, {'Cookie': cookie}


@pytest.mark.parametrize('locking', ['implicit', 'early'])
@pytest.mark.parametrize('store', ['ram', 'file'])
def test_a_pool_method_reads_and_writes_the_session(
        locking, store, tmp_path):
    options = {'tools.sessions.locking': locking}
    if store == 'file':
        options['tools.sessions.storage_class'] = \
            cherrypy.lib.sessions.FileSession
        options['tools.sessions.storage_path'] = str(tmp_path)
    with site(**options) as (server, cookie):
        with server.peer('/api', headers=cookie) as peer:
            assert [peer.call('bump') for _ in range(3)] == [2, 3, 4]
            assert server.http('/', headers=cookie).body == b'4'
            server.http('/set?n=10', headers=cookie)
            assert peer.call('bump') == 11


def test_concurrent_increments_are_all_counted():
    with site() as (server, cookie), server.peer(
            '/api', headers=cookie) as peer:
        for n in range(60):
            peer.send_json(request('bump', id=n))
        seen = [answer['result'] for answer in recv_all(peer, 60).values()]
        assert sorted(seen) == list(range(2, 62))


def test_the_session_is_let_go_while_a_method_waits_for_its_client():
    with site() as (server, cookie), server.peer(
            '/api', headers=cookie) as peer:
        peer.send_json(request('ask'))
        call = take_call(peer, 'sure')
        # as a page that answers by a fetch: it would wait for the lock
        assert server.http('/set?n=5', headers=cookie,
                           timeout_s=3).body == b'set'
        settle(peer, call, 'yes')
        assert peer.recv_json() == result(1, ['yes', 5])
        assert server.http('/', headers=cookie).body == b'5'


def test_what_a_failed_method_wrote_is_saved_only_if_it_is_an_answer(
        tmp_path):
    with site(**{'tools.sessions.storage_class':
                 cherrypy.lib.sessions.FileSession,
                 'tools.sessions.storage_path': str(tmp_path),
                 }) as (server, cookie):
        with server.peer('/api', headers=cookie) as peer:
            assert failure_of(peer, 'bad')[0] == -32000
            assert server.http('/', headers=cookie).body == b'1'
            assert failure_of(peer, 'answer')[0] == 7
            assert server.http('/', headers=cookie).body == b'200'
            assert peer.call('bump') == 201     # it is not left locked


@pytest.mark.parametrize('kind', ['later', 'here'])
def test_the_session_is_not_for_the_loop_which_says_what_is(kind):
    with site() as (server, cookie), server.peer(
            '/api', headers=cookie) as peer:
        assert failure_of(peer, kind)[1] == 'internal error'
        line, = server.logged(f'{kind} of')
        assert 'cp_wsrpc.connection.user' in line


@pytest.mark.parametrize('name', ['regenerate', 'delete', 'expire'])
def test_what_needs_a_cookie_raises_and_says_over_http(name):
    with site() as (server, cookie), server.peer(
            '/api', headers=cookie) as peer:
        assert failure_of(peer, 'misuse', [name])[1] == 'internal error'
        line, = server.logged('misuse of')
        assert 'needs a cookie' in line and 'over HTTP' in line
        assert peer.call('bump') == 2


def test_without_sessions_the_log_says_what_to_switch_on():
    with serving_api(Counter()) as server, server.peer('/api') as peer:
        assert failure_of(peer, 'bump')[1] == 'internal error'
        line, = server.logged('bump of')
        assert 'tools.sessions is not on' in line


class Mine:
    """What a visitor who has signed in may do."""

    ran = []
    kinds = Kinds(lambda *args: Mine.ran.append(args))

    @cherrypy.expose
    def login(self):
        cherrypy.session['user'] = 'ada'
        return 'in'

    @cherrypy.expose
    def logout(self):
        cherrypy.session.delete()
        return 'out'


@contextlib.contextmanager
def signed_in(**more):
    config = {'/': {'tools.sessions.on': True, **more},
              '/kinds': {'tools.wsrpc.on': True,
                         'tools.wsrpc.subscribe': ['*'],
                         'tools.wsrpc.publish': ['*'],
                         'tools.wsrpc.user':
                         lambda: cherrypy.session['user']}}
    with starting_quickly(), serving(Mine(), config) as server:
        answer = server.http('/login')
        cookie = {'Cookie': answer.headers['set-cookie'].split(';')[0]}
        with server.peer('/kinds', headers=cookie) as peer:
            assert peer.call('pool') is None
            # Its call is to find out, not the watch.
            cherrypy.engine.wsrpc.hub.sessions.stop()
            Mine.ran.clear()
            yield server, cookie, peer


@pytest.mark.parametrize(('method', 'params'), [
    ('pool', None), ('later', None), ('here', None),
    ('rpc.subscribe', ['news']), ('rpc.on', ['news']),
    ('rpc.publish', {'topic': 'news', 'data': 1})])
@pytest.mark.parametrize('store', ['ram', 'file'])
def test_a_call_after_the_logout_is_refused_and_the_socket_closed(
        method, params, store, tmp_path):
    more = {} if store == 'ram' else {
        'tools.sessions.storage_class': cherrypy.lib.sessions.FileSession,
        'tools.sessions.storage_path': str(tmp_path)}
    with signed_in(**more) as (server, cookie, peer):
        assert server.http('/logout', headers=cookie).body == b'out'
        try:
            assert failure_of(peer, method, params)[0] == -32001
            # nothing between the two, no second answer
            assert peer.recv_frame() == (
                CLOSE, (4401).to_bytes(2, 'big') + b'the session has ended')
        except PeerClosed as closed:
            # the watch over sessions, which looks each second, was first
            assert closed.code == 4401
    assert Mine.ran == []


@pytest.mark.parametrize('params', [
    ('pool', None), ('later', None), ('here', None), ('rpc.ping', [1]),
    ('rpc.subscribe', ['news']), ('rpc.publish', {'topic': 'a', 'data': 1})])
@pytest.mark.parametrize('key', [{}, {
    '_meta': {'idempotencyKey': 'a-key-of-16-chars'}}])
def test_a_store_that_cannot_be_asked_is_an_error_and_no_silence(
        params, key, tmp_path, monkeypatch):
    def fail(self):
        raise OSError('the store is away')

    with signed_in(**{
            'tools.sessions.storage_class': cherrypy.lib.sessions.FileSession,
            'tools.sessions.storage_path': str(tmp_path),
            }) as (server, _, peer), monkeypatch.context() as patched:
        patched.setattr(SessionKey, 'exists', fail)
        peer.send_json({**request(*params), **key})
        assert peer.recv_json()['error']['code'] == -32000
        assert not server.logged('a task of the pool failed')
    assert Mine.ran == []


# -- authorize -------------------------------------------------------------


def _authorize(call):
    asked.append((call.name, call.function.__name__, list(call.args),
                  dict(call.kwargs), call.connection.user,
                  cp_wsrpc.call is call, cherrypy.request.json))
    verdict = call.args[0]
    if verdict == 'raise':
        raise KeyError('a secret')
    if verdict == 'refuse':
        raise RPCError(403, 'not you', {'why': 'because'})
    if verdict == 'http':
        raise cherrypy.HTTPError(402, 'pay first')
    if verdict == 'exit':
        raise SystemExit(3)
    return verdict


asked = []


@nonblocking
def _authorize_here(call):
    assert threading.current_thread().name == 'wsrpc-io'
    return _authorize(call)


def _authorize_there(call):
    assert threading.current_thread().name.startswith('wsrpc-worker')
    return _authorize(call)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('authorize', [_authorize_there, _authorize_here])
def test_authorize_decides_before_the_method_runs(kind, authorize):
    ran = []
    if kind == 'pool':
        authorize = _authorize      # wherever it is asked
    with serving_api(Kinds(lambda verdict: ran.append(verdict)),
                     {'authorize': authorize}) as server:
        with server.peer('/api') as peer:
            for verdict in (True, 1):
                asked.clear()
                assert peer.call(kind, [verdict]) is None
                assert asked == [(kind, kind, [verdict], {}, None, True,
                                  [verdict])]
            assert ran == [True, 1]
            for verdict in (False, None, 0, ''):
                assert failure_of(peer, kind, [verdict]) == (
                    -32601, 'Method not found', None)
            assert failure_of(peer, kind, ['refuse']) == (
                403, 'not you', {'why': 'because'})
            assert failure_of(peer, kind, ['http']) == (
                402, 'pay first', None)
            for verdict in ('raise', 'exit'):
                assert failure_of(peer, kind, [verdict])[:2] == (
                    -32000, 'internal error')
            assert ran == [True, 1]
            # not asked for what does not fit
            asked.clear()
            assert failure_of(peer, 'no.such', [True])[0] == -32601
            assert asked == []


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('n', [1, 5])
def test_authorize_may_touch_the_session_and_lets_it_go(kind, n):
    class Site(Pages):
        api = Kinds(lambda: 'ran')

    config = {'/': {'tools.sessions.on': True},
              '/api': {'tools.wsrpc.on': True, 'tools.wsrpc.authorize':
                       lambda call: cherrypy.session['n'] == 5}}
    with starting_quickly(), serving(Site(), config) as server:
        answer = server.http(f'/set?n={n}')
        cookie = {'Cookie': answer.headers['set-cookie'].split(';')[0]}
        with server.peer('/api', headers=cookie) as peer:
            if n == 5:
                assert peer.call(kind) == 'ran'
            else:
                assert failure_of(peer, kind)[0] == -32601
            # nobody holds its lock
            assert server.http('/', headers=cookie, timeout_s=3
                               ).body == str(n).encode()


def test_a_role_may_stand_on_the_function():
    def needs(role):
        def mark(function):
            function.role = role
            return function
        return mark

    class Api:
        @expose
        @needs('admin')
        def wipe(self):
            return 'wiped'

        @expose
        async def look(self):
            return 'looked'

        @expose(authorize=lambda call: call.args[0] == 'open')
        def own(self, word):
            return word

    def authorize(call):
        role = getattr(call.function, 'role', None)
        return role is None or role == call.connection.user

    with serving_api(Api(), {
            'authorize': authorize,
            'user': lambda: cherrypy.request.params.get('as')}) as server:
        with server.peer('/api?as=admin') as admin:
            assert admin.call('wipe') == 'wiped'
        with server.peer('/api?as=guest') as guest:
            assert failure_of(guest, 'wipe')[0] == -32601
            assert guest.call('look') == 'looked'
            assert guest.call('own', ['open']) == 'open'
            assert failure_of(guest, 'own', ['shut'])[0] == -32601


async def _authorize_async(call):
    return False


@pytest.mark.parametrize('option', [
    {'authorize': _authorize_async},
    {'subscribe': {'news': _authorize_async}},
    {'publish': {'news': _authorize_async}},
    {'user': _authorize_async}, {'opened': _authorize_async}])
def test_a_coroutine_function_cannot_decide_and_is_an_error_at_start(option):
    # What it returns is true, whatever it decides.
    with pytest.raises(Exception, match='cannot be async'):
        with serving_api(Kinds(lambda *args: 1), option):
            pass


def test_a_coroutine_function_cannot_be_the_authorize_of_a_method():
    with pytest.raises(TypeError, match='cannot be async'):
        expose(authorize=_authorize_async)


@pytest.mark.parametrize('kind', KINDS)
def test_a_coroutine_is_no_permission(kind):
    with serving_api(Kinds(lambda *args: 1), {
            'authorize': lambda call: _authorize_async(call)}) as server:
        with server.peer('/api') as peer:
            assert failure_of(peer, kind)[1] == 'internal error'
            assert server.logged('coroutine')


# -- around ----------------------------------------------------------------


class Around:
    """A context manager for both kinds, which writes down what happens."""

    events = []
    mode = ''

    def __init__(self, call):
        self.call = call

    def __enter__(self):
        self.note('enter')
        if Around.mode == 'enter raises':
            raise KeyError('enter')

    def __exit__(self, kind, error, trace):
        self.note(f'leave {kind.__name__ if kind else None}')
        if Around.mode == 'leave raises':
            raise KeyError('leave')
        return Around.mode == 'swallow'

    async def __aenter__(self):
        self.__enter__()

    async def __aexit__(self, *error):
        return self.__exit__(*error)

    def note(self, word):
        Around.events.append((word, threading.current_thread().name))


def _body(what):
    Around.events.append((f'run {what}', threading.current_thread().name))
    if what == 'raise':
        raise RPCError(5, 'on purpose')
    if what == 'nan':
        return float('nan')
    return what


@pytest.fixture
def around():
    Around.events.clear()
    Around.mode = ''
    with serving_api(Kinds(_body), {'around': Around}) as server:
        with server.peer('/api') as peer:
            yield peer


@pytest.mark.parametrize('kind', ['pool', 'later'])
def test_around_is_entered_on_the_methods_thread(around, kind):
    assert around.call(kind, ['ok']) == 'ok'
    words = [word for word, _ in Around.events]
    # left before the reply: nothing is waited for here
    assert words == ['enter', 'run ok', 'leave None']
    thread, = {thread for _, thread in Around.events}
    assert thread.startswith('wsrpc-worker' if kind == 'pool'
                             else 'wsrpc-io')


@pytest.mark.parametrize('kind', ['pool', 'later'])
def test_an_exception_passes_through_around(around, kind):
    assert failure_of(around, kind, ['raise']) == (
        5, 'on purpose', None)
    assert [word for word, _ in Around.events] == [
        'enter', 'run raise', 'leave RPCError']


@pytest.mark.parametrize('kind', ['pool', 'later'])
def test_around_is_left_after_the_result_was_encoded(around, kind):
    # so a transaction is rolled back when its reply cannot be told
    assert failure_of(around, kind, ['nan'])[0] == -32000
    assert [word for word, _ in Around.events] == [
        'enter', 'run nan', 'leave ValueError']


@pytest.mark.parametrize('kind', ['pool', 'later'])
@pytest.mark.parametrize('mode', ['enter raises', 'leave raises'])
def test_an_around_that_raises_fails_the_call(around, kind, mode):
    Around.mode = mode
    assert failure_of(around, kind, ['ok'])[:2] == (-32000, 'internal error')
    Around.mode = ''
    assert around.call(kind, ['ok']) == 'ok'


@pytest.mark.parametrize('kind', ['pool', 'later'])
def test_an_around_that_swallows_does_not_make_a_failure_a_result(
        around, kind):
    Around.mode = 'swallow'
    assert failure_of(around, kind, ['raise'])[0] in (-32000, -32603)


def test_around_is_not_for_nonblocking_methods(around):
    assert around.call('here', ['ok']) == 'ok'
    assert [word for word, _ in Around.events] == ['run ok']


def test_around_is_left_when_a_method_returns_the_clients_reply():
    class Api:
        @expose
        def ask(self):
            return cp_wsrpc.connection.call('question')

        @expose
        async def ask_later(self):
            return cp_wsrpc.connection.call('question')

    Around.events.clear()
    Around.mode = ''
    with serving_api(Api(), {'around': Around}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('ask'))
            call = take_call(peer, 'question')
            wait_until(lambda: Around.events[-1][0] == 'leave None')
            settle(peer, call, 5)
            assert peer.recv_json() == result(1, 5)
            Around.mode = 'leave raises'    # so there is an answer already
            for method in ('ask', 'ask_later'):
                peer.send_json(request(method))
                call = take_call(peer, 'question')
                assert peer.recv_json()['error']['code'] == -32000
                settle(peer, call, 5)
                assert peer.call('rpc.ping', [1]) == [1]
                assert peer.events == []


def test_an_around_may_be_a_contextmanager():
    @contextlib.contextmanager
    def around(call):
        try:
            yield
        except KeyError:
            raise RPCError(8, 'translated') from None

    class Api:
        @expose
        def fail(self):
            raise KeyError

        @expose
        @nonblocking
        def here(self):
            return 1

    with serving_api(Api(), {'around': around}) as server:
        with server.peer('/api') as peer:
            assert failure_of(peer, 'fail')[:2] == (8, 'translated')
            assert peer.call('here') == 1


def test_an_around_may_be_an_asynccontextmanager():
    @contextlib.asynccontextmanager
    async def around(call):
        await asyncio.sleep(0)
        yield

    class Api:
        @expose
        async def later(self):
            return 1

    with serving_api(Api(), {'around': around}) as server:
        with server.peer('/api') as peer:
            assert peer.call('later') == 1


class OnPool:
    @expose
    def pool(self):
        return 1


class OnLoop:
    @expose
    async def later(self):
        return 1


@contextlib.contextmanager
def _sync_around(call):
    yield


@contextlib.asynccontextmanager
async def _async_around(call):
    yield


class _SyncAround(contextlib.AbstractContextManager):
    def __init__(self, call):
        pass

    def __exit__(self, *error):
        pass


def _bare_around(call):
    yield


async def _coroutine_around(call):
    pass


@pytest.mark.parametrize(('api', 'around', 'words'), [
    (OnLoop(), _sync_around, 'later is async'),
    (OnLoop(), functools.partial(_sync_around), 'later is async'),
    (OnLoop(), _SyncAround, 'later is async'),
    (OnPool(), _async_around, 'pool is not async'),
    (OnPool(), _bare_around, 'contextlib.contextmanager'),
    (OnPool(), _coroutine_around, 'asynccontextmanager')])
def test_an_around_that_cannot_be_entered_is_an_error_at_start(
        api, around, words):
    with pytest.raises(Exception, match=re.escape(words)):
        with serving_api(api, {'around': around}):
            pass


# -- errors ----------------------------------------------------------------


class Denied(RPCError):
    """An application's own."""


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError('no words')

    __repr__ = __str__


class Bottom(BaseException):
    pass


ERRORS = {
    'rpc': lambda: RPCError(7, 'closed', {'id': 4}),
    'bare': lambda: RPCError(7, 'closed'),
    'own': lambda: Denied(9, 'denied'),
    'own with data': lambda: Denied(9, 'denied', [1]),
    'http': lambda: cherrypy.HTTPError(404, 'no such book'),
    'http bare': lambda: cherrypy.HTTPError(403),
    'not found': lambda: cherrypy.NotFound(),
    'redirect': lambda: cherrypy.HTTPRedirect('http://x.test/login'),
    'key': lambda: KeyError('a secret'),
    'exit': lambda: SystemExit('a secret'),
    'interrupt': lambda: KeyboardInterrupt('a secret'),
    'bottom': lambda: Bottom('a secret'),
    'unspeakable': lambda: Unspeakable(),
    'odd code': lambda: RPCError(2 ** 40, 'odd'),
    'surrogate': lambda: RPCError(7, 'a\ud800b'),
    'bad data': lambda: RPCError(7, 'closed', {'x': object()}),
}


def _raise(name):
    raise ERRORS[name]()


@pytest.fixture
def failing():
    with serving_api(Kinds(_raise)) as server, server.peer('/api') as peer:
        yield server, peer


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('name', 'error'), [
    ('rpc', (7, 'closed', {'id': 4})), ('bare', (7, 'closed', None)),
    ('own', (9, 'denied', {'type': 'Denied'})),
    ('own with data', (9, 'denied', [1])),
    ('http', (404, 'no such book', None)),
    ('http bare', (403, 'Request forbidden -- authorization will not help',
                   None)),
    ('redirect', (303, 'redirected', {'location': 'http://x.test/login'})),
    ('odd code', (-32000, 'odd', None)),
    ('surrogate', (7, 'a\\ud800b', None)),
    ('bad data', (7, 'closed', None))])
def test_an_error_that_is_an_answer_arrives_as_written(
        failing, kind, name, error):
    server, peer = failing
    assert failure_of(peer, kind, [name]) == error
    assert not server.logged('Traceback')


@pytest.mark.parametrize('kind', KINDS)
def test_a_relative_redirect_arrives_whole(failing, kind):
    server, peer = failing
    assert failure_of(peer, kind, ['not found'])[0] == 404
    ERRORS['relative'] = lambda: cherrypy.HTTPRedirect('/login')
    code, _, data = failure_of(peer, kind, ['relative'])
    assert (code, data) == (303, {'location': server.url('/login')})


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', ['key', 'exit', 'interrupt', 'bottom',
                                  'unspeakable'])
def test_any_other_exception_stays_behind_a_reference(failing, kind, name):
    server, peer = failing
    peer.send_json(request(kind, [name]))
    text = peer.recv_text()
    assert 'secret' not in text and 'Traceback' not in text
    error = json.loads(text)['error']
    assert (error['code'], error['message']) == (-32000, 'internal error')
    assert set(error['data']) == {'ref'}
    line, = server.logged(error['data']['ref'])
    assert line.startswith('cherrypy.error')    # the application's own log
    assert type(ERRORS[name]()).__name__ in line and '_raise' in line
    assert failure_of(peer, kind, ['rpc'])[0] == 7


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', ['__class__', '__traceback__'])
def test_what_raises_when_it_is_looked_at_is_an_error_like_any(name, kind):
    harms = []

    def look(error, *args):
        if harms:
            raise SystemExit
        return {'__class__': Evil, '__traceback__': None}[name]

    Evil = type('Evil', (Exception,), {name: property(look, look)})

    def work(does_harm):
        if does_harm:
            harms.append(True)
            raise Evil
        harms.clear()

    with serving_api(Kinds(work)) as server, server.peer('/api') as peer:
        try:
            code, message, data = failure_of(peer, kind, [True])
        finally:
            harms.clear()       # pytest looks at it, too
        assert (code, message) == (-32000, 'internal error')
        assert server.logged(data['ref'])
        assert peer.call(kind, [False]) is None


def test_each_error_has_a_reference_that_stands_in_the_log(failing):
    server, peer = failing
    refs = {failure_of(peer, 'pool', [name])[2]['ref']
            for _ in range(20) for name in ('key', 'exit')}
    assert 2 <= len(refs) < 40
    for ref in refs:
        assert len(server.logged(ref)) == 1


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', ['key', 'exit'])
def test_an_exception_is_the_callers_beside_an_authorizer_too(kind, name):
    @nonblocking
    def authorize(call):
        return True

    with serving_api(Kinds(_raise), {'authorize': authorize}) as server:
        with server.peer('/api') as peer:
            assert failure_of(peer, kind, [name])[0] == -32000
            assert failure_of(peer, kind, ['rpc'])[0] == 7
        assert not server.logged('a fault of')


def test_what_a_store_raises_at_the_end_of_a_failed_call_is_its_error(
        monkeypatch):
    class Api:
        @expose
        def fail(self):
            cherrypy.session['n'] = 1
            raise RPCError(7, 'closed')

        @expose
        def ping(self):
            return 'pong'

    def save(self):
        raise OSError('the store is full')

    with serving_api(Api(), {'tools.sessions.on': True}) as server:
        with server.peer('/api') as peer, monkeypatch.context() as patched:
            assert failure_of(peer, 'fail')[0] == 7
            patched.setattr(cherrypy.lib.sessions.RamSession, 'save', save)
            assert failure_of(peer, 'fail')[0] == -32000
            assert server.logged('the store is full')
            assert peer.call('ping') == 'pong'


@pytest.mark.parametrize('kind', KINDS)
def test_debug_tells_type_message_and_traceback(kind):
    with serving_api(Kinds(_raise), {'debug': True}) as server:
        assert server.logged('debug is on')
        with server.peer('/api') as peer:
            code, message, data = failure_of(peer, kind, ['key'])
            assert (code, message) == (-32000, "'a secret'")
            assert data['type'] == 'KeyError' and '_raise' in (
                data['traceback'])
            assert server.logged(data['ref'])
            # an answer stays as written
            assert failure_of(peer, kind, ['rpc']) == (
                7, 'closed', {'id': 4})
            data = failure_of(peer, kind, ['unspeakable'])[2]
            assert data['type'] == 'Unspeakable'


def test_an_application_has_its_own_log():
    class Api:
        @expose
        def fail(self):
            raise KeyError

    config = {'/api': {'tools.wsrpc.on': True}}
    with serving(Root(api=Api()), config,
                 apps=[(Root(api=Api()), '/other', config)]) as server:
        with server.peer('/other/api') as peer:
            ref = failure_of(peer, 'fail')[2]['ref']
        line, = server.logged(ref)
        app = cherrypy.tree.apps['/other']
        assert line.startswith(f'{app.log.error_log.name} ERROR')


class Odd:
    @expose
    def generator(self):
        yield 1

    @expose
    async def async_generator(self):
        yield 1

    @expose
    def coroutine(self):
        return self._later()

    async def _later(self):
        return 5

    @expose
    @nonblocking
    def coroutine_here(self):
        return self._later()

    @expose
    def generator_object(self):
        return iter([1])

    @expose(timeout_s=0.01)
    async def endless(self):
        await asyncio.Event().wait()

    @expose(timeout_s=60)
    async def limited(self):
        raise TimeoutError('my own')


@pytest.mark.parametrize(('method', 'words'), [
    ('generator', 'generator'), ('async_generator', 'async_generator'),
    ('generator_object', 'iterator'), ('coroutine', 'async def'),
    ('coroutine_here', 'async def')])
def test_a_result_that_is_none_is_a_clear_error(method, words):
    with serving_api(Odd(), {'debug': True}) as server:
        with server.peer('/api') as peer:
            code, message, _ = failure_of(peer, method)
            assert code == -32000 and words in message


def test_an_async_method_ends_at_its_timeout():
    with serving_api(Odd()) as server, server.peer('/api') as peer:
        assert failure_of(peer, 'endless') == (
            -32000, 'the method timed out', None)
        # an application's own TimeoutError is none of ours
        assert failure_of(peer, 'limited')[1] == 'internal error'


def test_a_call_that_waited_longer_than_its_timeout_is_not_run():
    gate, ran = Gate(), []

    class Api:
        @expose
        def hold(self):
            gate.enter()

        @expose(timeout_s=0.001)
        def quick(self):
            ran.append(1)

    with serving_api(Api(), engine={'wsrpc.thread_pool': 1}) as server:
        with server.peer('/api') as peer:
            peer.send_json(request('hold', id='hold'))
            gate.wait_entered()
            peer.send_json(request('quick', id='quick'))
            peer.send_json(request('rpc.ping', id='ping'))
            assert peer.recv_json()['id'] == 'ping'     # quick has arrived
            arrived = time.monotonic()
            wait_until(lambda: time.monotonic() > arrived + 0.002)
            gate.open()
            answers = recv_all(peer, 2)
            assert answers['quick']['error']['data'] == {
                'retryable': True, 'executed': False}
    assert ran == []


# -- threads ---------------------------------------------------------------


def test_workers_keep_cherrypys_thread_rules(tmp_path, undo):
    """As an application does that gives each thread a database of its own."""
    database = str(tmp_path / 'data.db')
    own, events = threading.local(), []

    def connect(index):
        events.append(('start', threading.current_thread().name))
        own.db = sqlite3.connect(database, check_same_thread=False)
        # CherryPy's own threads never release theirs, and at graceful it
        # takes back all of them in one thread.
        undo.callback(own.db.close)

    def disconnect(index):
        events.append(('stop', threading.current_thread().name))

    class Api:
        @expose
        def insert(self, n: int):
            with own.db:
                own.db.execute('insert into t values (?)', (n,))
            return threading.current_thread().name

        @expose
        def sum(self):
            return own.db.execute('select sum(n) from t').fetchone()[0]

    with sqlite3.connect(database) as db:
        db.execute('create table t (n int)')
    db.close()
    cherrypy.engine.subscribe('start_thread', connect)
    cherrypy.engine.subscribe('stop_thread', disconnect)
    undo.callback(cherrypy.engine.unsubscribe, 'start_thread', connect)
    undo.callback(cherrypy.engine.unsubscribe, 'stop_thread', disconnect)
    with serving_api(Api(), engine={'wsrpc.thread_pool': 3}) as server:
        with server.peer('/api') as peer:
            for n in range(30):
                peer.send_json(request('insert', [n], n))
            used = {answer['result']
                    for answer in recv_all(peer, 30).values()}
            assert peer.call('sum') == sum(range(30))
            assert {('start', name) for name in used} <= set(events)
            # CherryPy itself takes back what they had; they ask for more
            server.engine.graceful()
            events.clear()
            again = {peer.call('insert', [1]) for _ in range(20)}
            assert {('start', name) for name in again} <= set(events)
        events.clear()
        server.engine.stop()
        stopped = [name for what, name in events
                   if what == 'stop' and name.startswith('wsrpc-worker')]
        assert sorted(stopped) == sorted(again)     # once each


def test_an_application_that_clears_serving_harms_no_later_call():
    class Api:
        @expose
        def clear(self):
            cherrypy.serving.clear()

        @expose
        def agent(self):
            return cherrypy.request.headers['User-Agent']

    with serving_api(Api(), engine={'wsrpc.thread_pool': 1}) as server:
        with server.peer('/api', headers={'User-Agent': 'me'}) as peer:
            assert peer.call('clear') is None
            assert peer.call('agent') == 'me'


@pytest.mark.parametrize('new_loop', [asyncio.new_event_loop, None])
def test_an_exception_of_a_child_task_harms_no_other_connection(
        new_loop, monkeypatch):
    if new_loop is not None:        # else uvloop's, where it is installed
        monkeypatch.setattr(cherrypy.engine.wsrpc.manager, 'new_loop',
                            new_loop)

    class Api:
        @expose
        async def spawn(self, what):
            async def child():
                raise ERRORS[what]()
            self.task = asyncio.create_task(child())
            return 1

        @expose
        async def look(self):
            return 2

    with serving_api(Api()) as server:
        with server.peer('/api') as peer, server.peer('/api') as other:
            for what in ('exit', 'interrupt'):
                assert peer.call('spawn', [what]) == 1
                assert other.call('look') == 2
                assert peer.call('look') == 2


def test_the_engines_stop_can_be_seen_by_a_long_method():
    seen = []

    class Api:
        @expose
        def long(self):
            seen.append(cherrypy.engine.wsrpc.stopping.is_set())
            gate.enter()
            seen.append(cherrypy.engine.wsrpc.stopping.wait(WAIT_S))
            return 'in time'

    gate = Gate()
    with serving_api(Api()) as server, server.peer('/api') as peer:
        peer.send_json(request('long'))
        gate.wait_entered()
        gate.open()
        stop = threading.Thread(target=server.engine.stop)
        stop.start()
        assert peer.recv_json() == result(1, 'in time')
        assert_sent_away(peer)
        stop.join(WAIT_S)
    assert seen == [False, True]


def test_a_failed_call_is_told_to_its_own_caller_alone():
    with serving_api(Kinds(_raise)) as server:
        with server.peer('/api') as peer, server.peer('/api') as other:
            with pytest.raises(CallFailed):
                peer.call('pool', ['rpc'])
            assert other.call('rpc.ping', [1]) == [1]
            assert other.events == []
