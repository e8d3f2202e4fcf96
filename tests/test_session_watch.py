"""A connection ends when the session does that it lives by (threats A5)."""
from __future__ import annotations

import contextlib
import datetime
import time
from types import SimpleNamespace

import cherrypy
import pytest
from cherrypy.lib.sessions import FileSession, RamSession

import cp_wsrpc
from cp_wsrpc import session_watch
from cp_wsrpc.host_session import SessionKey
from cp_wsrpc.session_watch import SessionWatch

from .apps import starting_quickly
from .attack import in_time
from .browsing import chromium
from .rawhttp import http_request
from .rawpeer import CLOSE, RawPeer
from .serving import free_port, serving, spawn, wait_until
from .session_app import Site, site_config

#: In which the end of a session is to be noticed.
NOTICED_S = 1.0


@pytest.fixture(params=['ram', 'file'])
def folder(request, tmp_path):
    yield None if request.param == 'ram' else str(tmp_path)
    RamSession.cache.clear()
    RamSession.locks.clear()


@contextlib.contextmanager
def site(folder=None, **more):
    with starting_quickly(), serving(
            Site(), site_config(folder, **more)) as server:
        yield server


def sign_in(server, name='ada'):
    """The Cookie header of somebody who has signed in."""
    answer = server.http(f'/login?name={name}')
    return {'Cookie': answer.headers['set-cookie'].split(';')[0]}


def visit(server, path, cookie):
    answer = server.http(path, headers=cookie)
    assert answer.status == 200, answer
    return answer.body.decode()


def expire(cookie):
    """An hour passes, without a request."""
    id = cookie['Cookie'].partition('=')[2]
    past = datetime.datetime.now() - datetime.timedelta(seconds=1)
    if id in RamSession.cache:
        RamSession.cache[id] = RamSession.cache[id][0], past
        return
    folder = cherrypy.tree.apps[''].config['/']['tools.sessions.storage_path']
    session = FileSession(id, storage_path=folder)
    session.acquire_lock()
    session.load()
    session._save(past)
    session.release_lock()


ENDS = {'logout': lambda server, cookie: visit(server, '/logout', cookie),
        'forget': lambda server, cookie: visit(server, '/forget', cookie),
        'other': lambda server, cookie: visit(server, '/login?name=bob',
                                              cookie),
        'regenerate': lambda server, cookie: visit(server, '/regenerate',
                                                   cookie),
        'expiry': lambda server, cookie: expire(cookie)}


def assert_lost(peer, since):
    """Closed 4401, in time, and nothing came before it."""
    assert peer.recv_close() == (4401, 'the session has ended')
    assert time.monotonic() - since < in_time(NOTICED_S)


def test_a_connection_is_closed_4401_within_a_second(folder):
    with site(folder) as server, contextlib.ExitStack() as stack:
        peers = {}
        for end in ENDS:
            cookie = sign_in(server)
            peer = stack.enter_context(server.peer('/api', headers=cookie))
            assert peer.call('who') == 'ada'
            peers[end] = cookie, peer
        since = time.monotonic()
        for end, (cookie, _) in peers.items():
            ENDS[end](server, cookie)
        for _, peer in peers.values():
            assert_lost(peer, since)


def test_all_of_a_sessions_sockets_are_closed_and_no_other(folder):
    with site(folder) as server, contextlib.ExitStack() as stack:
        ada, bob = sign_in(server), sign_in(server, 'bob')
        tabs = [stack.enter_context(server.peer(path, headers=ada))
                for path in ('/api', '/api', '/plain')]
        other = stack.enter_context(server.peer('/api', headers=bob))
        assert tabs[2].recv_text() == 'Welcome!'
        watch = cherrypy.engine.wsrpc.hub.sessions
        wait_until(lambda: len(watch) == 2, what='one watch a session')
        visit(server, '/logout', ada)
        since = time.monotonic()
        for peer in tabs:
            assert_lost(peer, since)
        assert other.call('who') == 'bob'
        assert len(watch) == 1


def test_no_push_comes_after(folder):
    with site(folder) as server:
        cookie = sign_in(server)
        with server.peer('/api', headers=cookie) as peer, \
                server.peer('/open') as other:
            peer.call('rpc.subscribe', ['news'])
            other.call('rpc.subscribe', ['news'])
            visit(server, '/logout', cookie)
            # Its Close not answered, the socket is there for 2 s more.
            assert peer.recv_close(timeout_s=3)[0] == 4401
            for n in range(20):
                other.call('publish', [n])
                other.recv_json()
            peer.send_frame(CLOSE, (4401).to_bytes(2, 'big'))
            assert peer.recv_eof() == b''


def test_who_does_not_live_by_a_session_is_left_alone(folder):
    with site(folder) as server:
        cookie = sign_in(server)
        with server.peer('/open', headers={**cookie, 'X-User': 'eve'}) \
                as by_header, server.peer('/api') as nobody, \
                server.peer('/api', headers=cookie) as bound:
            visit(server, '/logout', cookie)
            assert bound.recv_close(timeout_s=3)[0] == 4401
            # Its round was theirs, had they been in it.
            assert by_header.call('who') == 'eve'
            assert nobody.call('who') is None
            assert len(cherrypy.engine.wsrpc.hub.sessions) == 0


def test_a_session_that_is_used_goes_on(folder):
    with site(folder) as server:
        cookie = sign_in(server)
        rounds = Rounds()
        with server.peer('/api', headers=cookie) as peer, rounds.counted():
            for _ in range(2):
                rounds.wait_for_next()
                visit(server, '/touch', cookie)
            rounds.wait_for_next()
            assert peer.call('who') == 'ada'


class Rounds:
    """Counts the looks at sessions."""

    def __init__(self):
        self.looks = 0

    @contextlib.contextmanager
    def counted(self):
        real = SessionWatch._is_gone

        def is_gone(watch, watched):
            gone = real(watch, watched)
            self.looks += 1
            return gone

        SessionWatch._is_gone = is_gone
        try:
            yield
        finally:
            SessionWatch._is_gone = real

    def wait_for_next(self):
        seen = self.looks
        wait_until(lambda: self.looks > seen, what='a look')


def test_session_auths_own_logout_ends_it():
    class Root(Site):
        @cherrypy.expose
        def index(self):
            return f'hello {cherrypy.request.login}'

    config = site_config()
    config['/']['tools.session_auth.on'] = True
    config['/']['tools.session_auth.check_username_and_password'] = (
        lambda name, password: None if password == 'x' else 'no')
    del config['/api']['tools.wsrpc.user']
    with starting_quickly(), serving(Root(), config) as server:
        answer = server.http(
            '/do_login', method='POST',
            headers={'Content-Type': 'application/x-www-form-urlencoded'},
            body=b'username=ada&password=x&from_page=/')
        cookie = {'Cookie': answer.headers['set-cookie'].split(';')[0]}
        with server.peer('/api', headers=cookie) as peer:
            assert peer.call('who') == 'ada'
            server.http('/do_logout', method='POST', headers=cookie)
            assert_lost(peer, time.monotonic())


def test_a_logout_in_another_process_is_noticed_in_each(tmp_path):
    ports = [free_port(), free_port()]
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(spawn(
                'tests.session_app', str(port), str(tmp_path)))
        first, second = (_Address(port) for port in ports)
        for address in (first, second):
            wait_until(address.is_up, timeout_s=20)
        cookie = sign_in(first)
        peers = [stack.enter_context(RawPeer(port, '/api', headers=cookie))
                 for port in ports]
        assert [peer.call('who') for peer in peers] == ['ada', 'ada']
        visit(second, '/logout', cookie)
        since = time.monotonic()
        for peer in peers:
            assert_lost(peer, since)


class _Address:
    """A server of another process."""

    def __init__(self, port):
        self.port = port

    def http(self, path, **options):
        return http_request(self.port, path, **options)

    def is_up(self):
        try:
            return self.http('/touch').status == 200
        except OSError:
            return False


# -- by itself ---------------------------------------------------------------


class Loop:
    """What a watch needs of the I/O loop; timers run when told to."""

    def __init__(self):
        self.loop = self
        self.timers = []

    def call_later(self, delay_s, run):
        self.timers.append((delay_s, run))

    def post(self, run, *args):
        run(*args)

    def turn(self):
        """Run what is due next; the seconds that it waited."""
        delay_s, run = self.timers.pop(0)
        run()
        return delay_s


class Socket:
    def __init__(self, key):
        self.handshake = SimpleNamespace(session_key=key)
        self.ended = []

    def close(self, *args):
        self.ended.append(args)


@pytest.fixture
def ram():
    """``ram(n)``: the key of a session in memory."""
    def make(n):
        later = datetime.datetime.now() + datetime.timedelta(hours=1)
        RamSession.cache[f'{n:040}'] = {}, later
        return SessionKey(f'{n:040}', RamSession, {})

    yield make
    RamSession.cache.clear()


@pytest.mark.parametrize('number', [1, 3, 1000, 20_000])
def test_a_round_over_all_sessions_in_memory_takes_under_a_second(
        number, ram):
    loop = Loop()
    watch = SessionWatch(loop)
    sockets = [Socket(ram(n)) for n in range(number)]
    for socket in sockets:
        watch.join(socket)
    for socket in sockets:
        del RamSession.cache[socket.handshake.session_key.id]
    waited_s = 0.0
    while loop.timers and len(watch):
        waited_s += loop.turn()
    assert waited_s <= NOTICED_S
    assert all(socket.ended == [(4401, 'the session has ended')]
               for socket in sockets)
    while loop.timers:          # nothing is watched: the timer ends
        loop.turn()


def test_many_sessions_are_said_to_be_noticed_later_once(ram, caplog,
                                                         monkeypatch):
    monkeypatch.setattr(session_watch, 'SLICE', 2)
    loop = Loop()
    watch = SessionWatch(loop)
    for n in range(20):
        watch.join(Socket(ram(n)))
    for _ in range(30):
        loop.turn()
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 1 and '20 sessions' in lines[0], lines


def test_a_socket_that_has_left_is_not_looked_at(ram):
    loop = Loop()
    watch = SessionWatch(loop)
    socket = Socket(ram(1))
    watch.join(socket)
    watch.leave(socket)
    watch.leave(socket)
    assert len(watch) == 0
    RamSession.cache.clear()
    loop.turn()
    assert socket.ended == [] and loop.timers == []


def test_a_store_that_is_down_ends_no_connection(tmp_path, caplog):
    key = SessionKey('a' * 40, FileSession, {'storage_path': str(tmp_path)})
    loop = Loop()
    watch = SessionWatch(loop)
    seen = Rounds()

    class Broken(FileSession):
        def _exists(self):
            raise ConnectionError('no store')

    key.storage_class = Broken
    socket = Socket(key)
    with seen.counted():
        watch.join(socket)
        seen.wait_for_next()
        seen.wait_for_next()
        watch.stop()
    assert socket.ended == []
    assert 'could not be looked at' in caplog.text


def test_the_thread_is_there_only_while_a_stored_session_is_watched(
        tmp_path):
    def make():
        session = FileSession(None, storage_path=str(tmp_path))
        session.acquire_lock()
        session.load()
        session.save()
        return SessionKey(session.id, FileSession,
                          {'storage_path': str(tmp_path)})

    watch = SessionWatch(Loop())
    for _ in range(2):
        socket = Socket(make())
        watch.join(socket)
        thread = watch._thread
        assert thread.name == 'wsrpc-sessions' and thread.is_alive()
        watch.leave(socket)
        thread.join(2)
        assert not thread.is_alive()
    watch.stop()


# -- an open page keeps its session ------------------------------------------

ASKS = {'Accept': 'application/vnd.cp-wsrpc.session+json'}


def test_an_open_page_renews_its_session_and_its_cookie(folder):
    with site(folder, **{'tools.sessions.timeout': 2}) as server:
        cookie = sign_in(server)
        key = SessionKey(cookie['Cookie'].partition('=')[2],
                         FileSession if folder else RamSession,
                         {'storage_path': folder} if folder else {})
        before = key.read_expiry()
        answer = server.http('/api', headers={**cookie, **ASKS})
        assert (answer.status, answer.body) == (200, b'{"keepAliveMs":60000}')
        assert answer.headers['set-cookie'].startswith(cookie['Cookie'])
        assert 'Max-Age=120' in answer.headers['set-cookie']
        assert key.read_expiry() > before


@pytest.mark.parametrize('who', ['nobody', 'gone', 'expired'])
def test_there_is_nothing_to_keep_for(who, folder):
    with site(folder) as server:
        cookie = sign_in(server)
        if who == 'gone':
            visit(server, '/logout', cookie)
        elif who == 'expired':
            expire(cookie)
        answer = server.http('/api', headers={
            **({} if who == 'nobody' else cookie), **ASKS})
        assert (answer.status, answer.body) == (200, b'{"keepAliveMs":0}')
        id = answer.headers['set-cookie'].split(';')[0].partition('=')[2]
        assert not SessionKey(id, FileSession if folder else RamSession,
                              {'storage_path': folder}).exists()


def test_without_sessions_it_says_so_and_a_plain_get_is_as_before():
    with starting_quickly(), serving(
            Site(), {'/api': {'tools.wsrpc.on': True}}) as server:
        answer = server.http('/api', headers=ASKS)
        assert (answer.status, answer.body) == (200, b'{"keepAliveMs":0}')
        assert answer.headers['cache-control'] == 'no-store'
        assert server.http('/api').status == 426


@pytest.fixture(scope='module')
def browser(need):
    with chromium(need('chromium')) as browser:
        yield browser


@pytest.fixture
def page(browser):
    with contextlib.closing(browser.new_context()) as context:
        yield context.new_page()


def test_a_page_signs_in_reconnects_and_keeps_its_session(page):
    with site(**{'tools.sessions.timeout': 2}) as server:
        page.goto(server.url('/page'))
        page.evaluate("""() => {
            window.closes = [];
            window.rpc = WSRPC('/api', {keepAliveMs: 1000});
            rpc.addEventListener('close', (closed) => closes.push(closed));
            rpc.connect();
        }""")
        assert page.evaluate('rpc.call("who")') is None
        page.evaluate('fetch("/login").then(() => rpc.reconnect())')
        assert page.evaluate('rpc.call("who")') == 'ada'
        key = wait_until(lambda: _bound())[0].handshake.session_key
        renewed = key.read_expiry() + datetime.timedelta(seconds=0.5)
        cookie = page.context.cookies()[0]['expires']
        wait_until(lambda: key.read_expiry() > renewed, what='the renewal')
        wait_until(lambda: page.context.cookies()[0]['expires'] > cookie,
                   what='a newer cookie')
        # Its session ends: it is told so, and is back as a guest.
        page.evaluate('fetch("/logout")')
        page.wait_for_function('closes.some(({code}) => code === 4401)')
        assert page.evaluate('rpc.call("who")') is None
        page.context.close()


def _bound():
    return [one for one in cp_wsrpc.connections() if one.user == 'ada']
