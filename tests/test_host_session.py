"""Calls read and write CherryPy's real sessions, by id, one at a time."""
from __future__ import annotations

import datetime
import threading
import timeit
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cherrypy
import pytest
from cherrypy.lib.locking import LockTimeout
from cherrypy.lib.sessions import FileSession, RamSession, Session

from cp_wsrpc.errors import Unauthorized, WsrpcError
from cp_wsrpc.host_identity import came_from_session
from cp_wsrpc.host_lazy_session import LazySession, ensure_proxy
from cp_wsrpc.host_session import CallSession, SessionKey

from .serving import serving

Make = Callable[..., SessionKey]
DEADLINE_S = 5


class ShelfSession(Session):
    """A custom class: no base but Session, a plain Lock, a clock of its
    own."""

    shelf: dict[str, Any] = {}
    locks: dict[str, threading.Lock] = {}

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    def _exists(self) -> bool:
        return self.id in self.shelf

    def _load(self) -> Any:
        stored = self.shelf.get(self.id)
        return stored and (dict(stored[0]), stored[1])

    def _save(self, expiration_time: datetime.datetime) -> None:
        self.shelf[self.id] = (dict(self._data), expiration_time)

    def _delete(self) -> None:
        self.shelf.pop(self.id, None)

    def acquire_lock(self) -> None:
        self.locks.setdefault(self.id, threading.Lock()).acquire()
        self.locked = True

    def release_lock(self) -> None:
        self.locked = False
        self.locks[self.id].release()

    def increment(self) -> int:
        self['n'] = self.get('n', 0) + 1
        return self['n']


@pytest.fixture(params=[RamSession, FileSession, ShelfSession])
def make(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Make]:
    """``make(n=0)``: the key of a stored session with that data."""
    storage_class = request.param
    settings: dict[str, Any] = {'clean_freq': 0}
    if storage_class is FileSession:
        settings['storage_path'] = str(tmp_path)

    def make_key(expires_in_s: float = 3600, **data: Any) -> SessionKey:
        session = storage_class(None, **settings)
        session.acquire_lock()
        try:
            session._data = data
            session._save(session.now()
                          + datetime.timedelta(seconds=expires_in_s))
        finally:
            session.release_lock()
        return SessionKey(session.id, storage_class, settings)

    yield make_key
    for store in (RamSession.cache, RamSession.locks, ShelfSession.shelf,
                  ShelfSession.locks):
        store.clear()


def lazy(opened: CallSession) -> LazySession:
    return LazySession(lambda: opened)


def stored_data(key: SessionKey) -> Any:
    """What another call would find; it must not have to wait."""
    opened = CallSession(key)
    try:
        return dict(opened.session().items())
    finally:
        opened.let_go(save=False)


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """What ``function`` returns or raises in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result(DEADLINE_S)


def delete(key: SessionKey) -> None:
    """As a logout does over HTTP under implicit locking."""
    session = key.make_session()
    session.acquire_lock()
    try:
        session.delete()
    finally:
        session.release_lock()


# -- one call ----------------------------------------------------------------

def test_what_a_call_writes_is_there_for_the_next(make: Make) -> None:
    key = make(n=1)
    opened = CallSession(key)
    lazy(opened)['n'] += 1
    opened.let_go()
    assert in_thread(stored_data, key) == {'n': 2}


def test_an_untouched_session_is_neither_opened_nor_saved(make: Make,
                                                          ) -> None:
    key = make()
    opened = CallSession(key)
    session = lazy(opened)
    assert session.id == session.originalid == key.id
    assert session.timeout == 60
    assert (session.loaded, session.locked, session.missing,
            session.regenerated) == (False, False, False, False)
    assert bool(session)
    assert not opened.is_open
    delete(key)
    opened.let_go()
    assert not key.exists()


def test_a_touch_prolongs_the_session(make: Make) -> None:
    key = make(expires_in_s=60, n=1)
    opened = CallSession(key)
    assert lazy(opened)['n'] == 1
    opened.let_go()
    session = key.make_session()
    session.acquire_lock()
    _, expires = session._load()
    session.release_lock()
    assert expires - session.now() > datetime.timedelta(minutes=59)


def test_reading_locks_until_it_is_let_go(make: Make) -> None:
    key = make(n=1)
    opened = CallSession(key)
    lazy(opened).get('n')
    got_in = threading.Event()

    def other() -> None:
        mine = CallSession(key)
        mine.session()
        got_in.set()
        mine.let_go()

    thread = threading.Thread(target=other)
    thread.start()
    try:
        assert not got_in.wait(0.05)
    finally:
        opened.let_go()
    assert got_in.wait(DEADLINE_S)
    thread.join()


@pytest.mark.parametrize('rounds', [50])
def test_increments_of_eight_threads_lose_none(make: Make,
                                               rounds: int) -> None:
    key = make(n=0)
    # A file's lock is polled every 0.1 s by CherryPy.
    threads, rounds = (4, 5) if key.storage_class is FileSession \
        else (8, rounds)

    def count() -> None:
        for _ in range(rounds):
            opened = CallSession(key)
            session = lazy(opened)
            n = session['n']
            threading.Event().wait(0)       # offer the other threads a turn
            session['n'] = n + 1
            opened.let_go()

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(count) for _ in range(threads)]:
            done.result(30)
    assert stored_data(key) == {'n': threads * rounds}


def test_letting_go_around_a_wait_lets_another_in_and_reads_anew(
        make: Make) -> None:
    key = make(n=1)
    opened = CallSession(key)
    session = lazy(opened)
    session['n'] = 2
    opened.let_go()                     # as before connection.call(...)

    def answer_of_the_page() -> None:
        mine = CallSession(key)
        assert lazy(mine)['n'] == 2
        lazy(mine)['n'] = 3
        mine.let_go()

    in_thread(answer_of_the_page)
    assert session['n'] == 3
    opened.let_go()


def test_letting_go_twice_is_letting_go_once(make: Make) -> None:
    opened = CallSession(make(n=1))
    opened.session()
    opened.let_go()
    opened.let_go()
    assert not opened.is_open


def test_a_call_that_failed_unlocks_without_saving(make: Make) -> None:
    key = make(n=1)
    opened = CallSession(key)
    lazy(opened)['n'] = 2
    opened.let_go(save=False)
    # A RamSession is its store: what was set in it stands.
    expected = 2 if key.storage_class is RamSession else 1
    assert in_thread(stored_data, key) == {'n': expected}


# -- a session that is gone --------------------------------------------------

def test_a_deleted_session_is_told_and_not_made_anew(make: Make) -> None:
    key = make(n=1)
    assert key.exists()
    delete(key)
    assert not key.exists()
    opened = CallSession(key)
    with pytest.raises(Unauthorized, match='sign in again'):
        lazy(opened)['n'] = 2
    opened.let_go()
    assert not key.exists()


def test_an_expired_session_is_told_and_left_unlocked(make: Make) -> None:
    key = make(expires_in_s=-1, n=1)
    assert not key.exists()
    for _ in range(2):                  # the second in another thread
        with pytest.raises(Unauthorized):
            in_thread(CallSession(key).session)


def test_a_session_that_is_gone_is_told_though_its_lock_is_too(
        make: Make, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    key = make(expires_in_s=-1, n=1)
    release = key.storage_class.release_lock

    def fail(self: Any) -> None:
        release(self)
        raise KeyError('dropped by the cleaner of CherryPy')

    monkeypatch.setattr(key.storage_class, 'release_lock', fail)
    with pytest.raises(Unauthorized):
        in_thread(CallSession(key).session)
    assert 'could not be unlocked' in caplog.text


def test_a_session_that_goes_while_its_lock_is_waited_for_is_told(
        make: Make) -> None:
    key = make(n=1)
    logout = key.make_session()
    logout.acquire_lock()
    about_to_wait = threading.Event()

    def touch() -> None:
        about_to_wait.set()
        CallSession(key).session()

    with ThreadPoolExecutor(1) as pool:
        touched = pool.submit(touch)
        assert about_to_wait.wait(DEADLINE_S)
        # Whether it waits by now or not, it has to end in the same way.
        logout.delete()
        logout.release_lock()
        with pytest.raises(Unauthorized):
            touched.result(DEADLINE_S)
    assert not key.exists()


def test_a_logout_under_the_method_is_not_undone_by_its_save(
        make: Make) -> None:
    # locking = explicit: a page handler deletes without the lock.
    key = make(n=1)
    opened = CallSession(key)
    lazy(opened)['n'] = 2
    other = key.make_session()
    other.locked = True                 # a FileSession asserts it
    other._delete()
    opened.let_go()
    assert not key.exists()
    with pytest.raises(Unauthorized):
        lazy(opened)['n']


def test_an_empty_session_is_not_taken_for_one_that_is_gone(make: Make,
                                                            ) -> None:
    key = make()
    assert key.exists()
    assert stored_data(key) == {}


# -- locks never stay ---------------------------------------------------------

class BrokenRamSession(RamSession):
    """Fails at the step that ``broken`` names."""

    broken = ''

    def _load(self) -> Any:
        if self.broken == 'load':
            raise OSError('no store')
        return super()._load()

    def _save(self, expiration_time: Any) -> None:
        if self.broken == 'save':
            raise OSError('no store')
        super()._save(expiration_time)

    def _exists(self) -> bool:
        if self.broken == 'exists' and self.locked:
            raise OSError('no store')
        return super()._exists()


@pytest.mark.parametrize('make', [RamSession], indirect=True)
@pytest.mark.parametrize('step', ['load', 'save', 'exists'])
def test_a_store_that_fails_leaves_no_lock(
        step: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(n=1)
    key = SessionKey(made.id, BrokenRamSession, made.settings)
    assert not key.in_memory
    monkeypatch.setattr(BrokenRamSession, 'broken', step)
    opened = CallSession(key)
    with pytest.raises(OSError, match='no store'):
        opened.session()
        opened.let_go()
    assert not opened.is_open
    monkeypatch.undo()
    assert in_thread(stored_data, key) == {'n': 1}


@pytest.mark.parametrize('make', [FileSession], indirect=True)
def test_a_value_that_cannot_be_pickled_raises_and_unlocks(make: Make,
                                                           ) -> None:
    key = make(n=1)
    opened = CallSession(key)
    lazy(opened)['f'] = lambda: None
    with pytest.raises(Exception, match='pickle'):
        opened.let_go()
    in_thread(lambda: _lock_and_unlock(key))


def _lock_and_unlock(key: SessionKey) -> None:
    session = key.make_session()
    session.acquire_lock()
    session.release_lock()


def test_lock_timeout_of_a_file_session_ends_the_wait(tmp_path: Any) -> None:
    settings = {'storage_path': str(tmp_path), 'clean_freq': 0,
                'lock_timeout': 0.05}
    holder = FileSession(None, **settings)
    holder.acquire_lock()
    holder.load()
    holder._save(holder.now() + datetime.timedelta(minutes=1))
    key = SessionKey(holder.id, FileSession, settings)
    opened = CallSession(key)
    try:
        with pytest.raises(LockTimeout):
            opened.session()
        assert not opened.is_open
        assert key.exists()             # in use, so it is there
    finally:
        holder.release_lock()
    assert opened.session() is opened.session()
    opened.let_go()


# -- the mapping --------------------------------------------------------------

def test_the_mapping_is_whole(make: Make) -> None:
    opened = CallSession(make(a=1))
    session = lazy(opened)
    session['b'] = 2
    session.update({'c': 3})
    assert session.setdefault('d', 4) == 4
    assert session.pop('c') == 3
    assert session.pop('c', None) is None
    with pytest.raises(KeyError):
        session['c']
    del session['b']
    assert 'a' in session and 'b' not in session
    assert session.get('b') is None and session.get('b', 7) == 7
    assert list(session) == list(session.keys()) == ['a', 'd']
    assert list(session.values()) == [1, 4]
    assert dict(session.items()) == {'a': 1, 'd': 4}
    session.clear()
    assert dict(session.items()) == {}
    assert session.loaded and session.locked
    opened.let_go()
    assert not session.loaded and not session.locked


@pytest.mark.parametrize('make', [RamSession, FileSession], indirect=True)
def test_len_counts_the_sessions_of_the_store_as_cherrypys_does(
        make: Make) -> None:
    opened = CallSession(make(a=1, b=2))
    make()
    assert len(lazy(opened)) == 2
    make()
    assert len(lazy(opened)) == 3
    opened.let_go()


@pytest.mark.parametrize('let_go', ['save', 'release_lock'])
@pytest.mark.parametrize('take', ['acquire_lock', 'load'])
def test_programs_with_explicit_locking_go_on_working(
        take: str, let_go: str, make: Make) -> None:
    key = make(n=1)
    opened = CallSession(key)
    session = lazy(opened)
    getattr(session, take)()
    assert opened.is_open
    session['n'] = 2
    getattr(session, let_go)()
    assert not opened.is_open
    assert in_thread(stored_data, key) == {'n': 2}
    assert session['n'] == 2            # opened once more
    opened.let_go()


@pytest.mark.parametrize('name', ['regenerate', 'delete', 'expire'])
def test_what_needs_a_cookie_says_over_http(name: str, make: Make) -> None:
    opened = CallSession(make(n=1))
    with pytest.raises(WsrpcError, match='over HTTP'):
        getattr(lazy(opened), name)()
    assert not opened.is_open
    assert opened.key.exists()


def test_a_timeout_that_is_set_holds_for_the_save(make: Make) -> None:
    key = make(n=1)
    opened = CallSession(key)
    session = lazy(opened)
    session.timeout = 600
    assert session.timeout == 600
    opened.let_go()
    stored = key.make_session()
    stored.acquire_lock()
    _, expires = stored._load()
    stored.release_lock()
    assert expires - stored.now() > datetime.timedelta(minutes=590)


def test_the_id_cannot_be_set(make: Make) -> None:
    session = lazy(CallSession(make()))
    with pytest.raises(AttributeError):
        session.id = 'x' * 40


def test_what_a_subclass_adds_is_there_and_locks(make: Make) -> None:
    opened = CallSession(make(n=1))
    session = lazy(opened)
    if opened.key.storage_class is not ShelfSession:
        with pytest.raises(AttributeError):
            session.increment()
    else:
        assert session.increment() == 2
        assert opened.is_open
    opened.let_go()


def test_looking_for_private_names_does_not_open_it(make: Make) -> None:
    opened = CallSession(make())
    assert not hasattr(lazy(opened), '__deepcopy__')
    assert not hasattr(lazy(opened), '_data')
    assert not opened.is_open


def test_where_no_session_may_be_used_each_use_says_so() -> None:
    def find() -> CallSession:
        raise WsrpcError('not here: see connection.user')

    session = LazySession(find)
    for use in (lambda: session['a'], lambda: session.id,
                lambda: session.get('a'), lambda: list(session),
                session.acquire_lock, lambda: session.timeout):
        with pytest.raises(WsrpcError, match=r'connection\.user'):
            use()
    assert bool(session)


# -- the key ------------------------------------------------------------------

def test_only_a_ram_session_may_be_asked_for_on_the_loop(make: Make) -> None:
    key = make(n=1)
    assert key.in_memory is (key.storage_class is RamSession)
    if key.in_memory:
        # 0.2 us each on the machine on which this was written.
        assert min(timeit.repeat(key.exists, number=1000)) < 5e-3


@pytest.mark.parametrize('make', [RamSession, FileSession], indirect=True)
def test_a_session_in_use_exists_without_waiting_for_ever(make: Make,
                                                          ) -> None:
    key = make(n=1)
    opened = CallSession(key)
    opened.session()
    assert in_thread(key.exists)
    opened.let_go()


def test_a_repr_does_not_give_the_id_away(make: Make) -> None:
    opened = CallSession(make())
    text = repr(opened) + repr(opened.key) + repr(lazy(opened))
    assert opened.key.id not in text
    assert opened.key.id[:6] in text
    assert 'closed' in text


def test_the_proxy_is_made_once_and_then_left(
        monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    monkeypatch.setattr(cherrypy, 'session', None, raising=False)
    monkeypatch.delattr(cherrypy, 'session')
    ensure_proxy()
    proxy = cherrypy.session
    ensure_proxy()
    assert cherrypy.session is proxy
    opened = CallSession(make(n=1))
    cherrypy.serving.session = lazy(opened)
    try:
        assert cherrypy.session['n'] == 1
        cherrypy.session['n'] = 2
        assert 'n' in cherrypy.session
        assert cherrypy.session.id == opened.key.id
        cherrypy.session.timeout = 5
        assert opened.session().timeout == 5
        opened.let_go()
    finally:
        cherrypy.serving.clear()
        # What monkeypatch puts back is the one there was, or none.
        del cherrypy.session


# -- over a real CherryPy ---------------------------------------------------

def lock_once() -> None:
    """Take the session's lock where CherryPy has not (locking explicit)."""
    if not cherrypy.session.locked:
        cherrypy.session.acquire_lock()


def _state_of_session() -> Any:
    session = getattr(cherrypy.serving, 'session', None)
    return session is None or (session.locked, session.loaded)


class Root:
    """Its pages do at their end what a handshake does."""

    def __init__(self) -> None:
        self.keys: list[SessionKey | None] = []
        self.from_session: list[bool] = []

    @cherrypy.expose
    def handshake(self, touch: str = '') -> str:
        request = cherrypy.serving.request
        if touch:
            lock_once()
            cherrypy.session['n'] = int(touch)
        self.from_session.append(came_from_session(request))
        before = _state_of_session()
        self.keys.append(SessionKey.of_request(request))
        assert _state_of_session() == before
        return 'done'

    @cherrypy.expose
    def stream(self) -> Any:
        self.handshake()
        return iter(['done'])

    stream._cp_config = {'response.stream': True}

    @cherrypy.expose
    def read(self) -> str:
        lock_once()
        return str(cherrypy.session.get('n'))

    @cherrypy.expose
    def logout(self) -> str:
        lock_once()
        cherrypy.session.delete()
        return 'bye'


SESSIONS = {'tools.sessions.on': True, 'tools.sessions.clean_freq': 0,
            'tools.sessions.timeout': 7, 'tools.sessions.httponly': True}


@pytest.mark.parametrize('locking', ['implicit', 'early', 'explicit'])
@pytest.mark.parametrize('storage', ['ram', 'file', 'custom'])
def test_a_handshakes_session_lives_in_the_calls_and_in_http(
        storage: str, locking: str, tmp_path: Any) -> None:
    config: dict[str, Any] = {**SESSIONS, 'tools.sessions.locking': locking}
    if storage == 'file':
        config['tools.sessions.storage_class'] = FileSession
        config['tools.sessions.storage_path'] = str(tmp_path)
    elif storage == 'custom':
        config['tools.sessions.storage_class'] = ShelfSession
    root = Root()
    with serving(root, {'/': config}) as server:
        for path in ('/handshake', '/stream'):
            cookie = _cookie(server.http(path))
            key = root.keys.pop()
            assert key is not None
            # A new visitor's session is stored, unlocked, and goes on.
            assert cookie == f'session_id={key.id}'
            assert key.exists()
            assert key.settings['timeout'] == 7
            assert not {'on', 'httponly'} & key.settings.keys()
            opened = CallSession(key)
            lazy(opened)['n'] = 5
            opened.let_go()
            headers = {'Cookie': cookie}
            assert server.http('/read', headers=headers).body == b'5'
            # The next handshake finds it and leaves what it holds.
            server.http('/handshake', headers=headers)
            again = root.keys.pop()
            assert again is not None and again.id == key.id
            assert stored_data(key) == {'n': 5}
            server.http('/handshake?touch=6', headers=headers)
            assert stored_data(key) == {'n': 6}
            server.http('/logout', headers=headers)
            with pytest.raises(Unauthorized):
                CallSession(key).session()
            root.keys.clear()
    assert server.logged('Traceback') == []


def _cookie(answer: Any) -> str:
    value: str = answer.headers['set-cookie']
    return value.partition(';')[0]


def test_without_the_tool_there_is_no_key_and_no_identity() -> None:
    root = Root()
    with serving(root) as server:
        server.http('/handshake')
    assert root.keys == [None]
    assert root.from_session == [False]


def test_an_identity_is_the_sessions_if_something_has_read_it() -> None:
    root = Root()
    with serving(root, {'/': SESSIONS}) as server:
        server.http('/handshake')
        server.http('/handshake?touch=1')
    assert root.from_session == [False, True]
    assert all(key is not None and key.exists() for key in root.keys)


def test_an_identity_is_the_sessions_if_session_auth_is_on() -> None:
    root = Root()
    config = {**SESSIONS, 'tools.session_auth.on': True,
              'tools.session_auth.anonymous': lambda: 'guest'}
    with serving(root, {'/': config}) as server:
        server.http('/handshake')
    assert root.from_session == [True]
