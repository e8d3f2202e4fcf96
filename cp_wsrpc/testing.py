"""Methods are tested without a server.  Layer 6.

::

    from cp_wsrpc import testing

    def test_say():
        with testing.call(user='ada', answers={'confirm': True}) as conn:
            Chat().say('hi')
        assert conn.published == [('chat', {'from': 'ada', 'text': 'hi'})]
        assert conn.called == [('confirm', ('Sure?',), {})]

Inside of the block ``cp_wsrpc.connection``, ``cp_wsrpc.call``,
``cherrypy.request`` and (with ``session={}``) ``cherrypy.session`` are as
in a call, and what is published or broadcast is recorded.  What goes to a
client is what it would get: turned into JSON and back, and TypeError for
what is no JSON.

Blocks may stand in one another, and in several threads.  An ``async``
method is awaited in the block: ``asyncio.run(api.later(1))``.  Threads that
a method starts itself are, as in a call, outside.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import cherrypy
import msgspec
from cherrypy.lib import httputil

from . import host_serving
from .broker import encode_event
from .conversation import PendingReply
from .current import Cell, cell
from .dialects import JSONRPC
from .errors import ConnectionLostError, RemoteError, RPCError, WsrpcError
from .exposure import Route, make_route
from .frame_rules import check_close_code
from .history import Position
from .host_lazy_session import LazySession, ensure_proxy
from .json_text import encode_json
from .messages import Call
from .presence import Presence, presence_of
from .recording import recorder
from .users import Target, key_of

__all__ = ['Connection', 'call']

R = TypeVar('R', bound=Route)

_Said = list[tuple[str, tuple[Any, ...], dict[str, Any]]]


class Connection:
    """What the methods under test have as ``cp_wsrpc.connection``.

    The public part of a real one, and what was said to it::

        published     [('news', {'msg': 'hi'})]     by cp_wsrpc.publish
        broadcasted   [('total', (5,), {})]         by cp_wsrpc.broadcast
        called        [('confirm', ('Sure?',), {})] by connection.call
        notified      [('moved', (), {'x': 1})]     by connection.notify
        closed_users  [('eve', 4403, '')]           by cp_wsrpc.close_user

    ``present = {'room': ['ada', None]}`` says whom ``cp_wsrpc.who('room')``
    finds: Ada, and one who is anonymous.

    ``broadcasted`` has ``endpoint`` and ``user`` in its dict, if they were
    given; ``published`` has a dict where a ``key`` or a ``user`` was,
    ``('price', 9, {'key': 'car-7'})``.
    """

    def __init__(self, user: Any = None,
                 answers: Mapping[str, Any] | None = None,
                 handshake: Any = None) -> None:
        self.id = '#test'
        self.user = user
        self.data: dict[Any, Any] = {}
        self.answers = dict(answers or {})
        self.handshake = handshake
        self.published: list[tuple[Any, ...]] = []
        self.broadcasted: _Said = []
        #: {'room': ['ada', None]}: what cp_wsrpc.who('room') finds
        self.present: dict[str, list[Any]] = {}
        self.closed_users: list[tuple[Any, int, str]] = []
        self.called: _Said = []
        self.notified: _Said = []
        self.is_closed = False
        self.closed_with: tuple[int, str] | None = None
        self._on_close: list[Callable[[int, str], object]] = []

    def __repr__(self) -> str:
        return f'<testing.Connection user={self.user!r}>'

    @property
    def user_key(self) -> bytes:
        """For ``users``."""
        return key_of(self.user)

    @property
    def remote(self) -> str:
        """``'127.0.0.1:40000'``."""
        remote = self.handshake.remote
        return f'{remote.ip}:{remote.port}'

    # -- the connection ----------------------------------------------------

    def call(self, name: str, /, *args: Any, timeout: float | None = 30.0,
             callback: Callable[[PendingReply], object] | None = None,
             **kwargs: Any) -> PendingReply:
        """What the client answers, from ``answers``; settled already.

        AssertionError if there is no answer of that name.
        """
        said = _as_sent(name, args, kwargs)
        self._refuse_closed()
        self.called.append(said)
        reply = PendingReply(1, name, timeout)
        try:
            reply.succeed(encode_json(self._answer(*said)))
        except WsrpcError as error:
            reply.fail(error)
        if callback is not None:
            callback(reply)
        return reply

    def notify(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Recorded in ``notified``."""
        said = _as_sent(name, args, kwargs)
        if not self.is_closed:
            self.notified.append(said)

    def close(self, code: int = 1000, reason: str = '') -> None:
        """Runs what ``on_close`` was given; ``closed_with`` keeps both.

        ValueError for a code that the server would not take either.
        """
        check_close_code(code)
        if not self.is_closed:
            self.is_closed = True
            self.closed_with = (code, reason)
            for function in self._on_close:
                function(code, reason)

    def on_close(self, function: Callable[[int, str], object]) -> None:
        """Run at ``close``, or now if it is closed."""
        if self.closed_with is not None:
            function(*self.closed_with)
        else:
            self._on_close.append(function)

    def make(self, route: type[R]) -> R:
        """An instance of a ``Route`` class, as this connection's."""
        instance = make_route(route, self)
        assert isinstance(instance, route)
        return instance

    def _refuse_closed(self) -> None:
        if self.is_closed:
            raise ConnectionLostError('the connection is closed',
                                      maybe_executed=False)

    def _answer(self, name: str, args: tuple[Any, ...],
                kwargs: dict[str, Any]) -> Any:
        if name not in self.answers:
            raise AssertionError(
                f'the method called {name}() of its client; say what that '
                f'answers: testing.call(answers={{{name!r}: ...}})')
        answer = self.answers[name]
        if isinstance(answer, BaseException) or (
                isinstance(answer, type)
                and issubclass(answer, BaseException)):
            raise _as_remote(answer)
        if not callable(answer):
            return answer
        try:
            return answer(*args, **kwargs)
        except Exception as error:  # what a client's function raises
            raise _as_remote(error) from error

    # -- the server --------------------------------------------------------

    def publish(self, topic: str, data: Any, key: str | None = None,
                user: Any = ...) -> None:
        """For ``recording``."""
        what = topic, msgspec.json.decode(encode_event(data, key))
        more = {} if key is None else {'key': key}
        if user is not ...:
            more['user'] = Target(user).user
        self.published.append((*what, more) if more else what)

    def broadcast(self, name: str, *args: Any, endpoint: str | None = None,
                  user: Any = None) -> None:
        """For ``recording``."""
        given = {'endpoint': endpoint, 'user': user}
        name, args, _ = _as_sent(name, args, {})
        self.broadcasted.append((name, args, {
            key: value for key, value in given.items() if value is not None}))

    def connections(self, endpoint: str | None = None,
                    user: Any = None) -> list[Any]:
        """For ``recording``: this one, if it is of that user."""
        return [self] if user is None or Target(user).is_met_by(self) else []

    def who(self, topic: str) -> Presence:
        """For ``recording``: those of ``present``."""
        return presence_of(
            ((key_of(user), 1, [f'#{number}']) for number, user
             in enumerate(self.present.get(topic, ()), 1)),
            Position('testing', 0))

    def close_user(self, user: Any, code: int, reason: str) -> int:
        """For ``recording``: closes this one, if it is of that user."""
        check_close_code(code)
        is_mine = Target(user).is_met_by(self) and not self.is_closed
        self.closed_users.append((user, code, reason))
        if is_mine:
            self.close(code, reason)
        return int(is_mine)


def _as_sent(name: str, args: tuple[Any, ...], kwargs: dict[str, Any],
             ) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """What the client would get; raises as a real call does."""
    text = JSONRPC.encode_call(1, name, args, kwargs)
    params = msgspec.json.decode(text).get('params')
    if isinstance(params, dict):
        return name, (), params
    return name, tuple(params or ()), {}


def _as_remote(error: Any) -> WsrpcError:
    """An exception of the client's, as the server gets to see it."""
    if isinstance(error, type):
        error = error()
    if isinstance(error, RPCError):
        return RemoteError(error.message, code=error.code, data=error.data)
    if isinstance(error, WsrpcError):       # RemoteError, CallTimeout, ...
        return error
    return RemoteError(str(error), code=-32000, type=type(error).__name__)


@contextmanager
def call(user: Any = None, answers: Mapping[str, Any] | None = None, *,
         session: dict[Any, Any] | None = None,
         headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
         params: Any = None, remote: str = '127.0.0.1', path: str = '/',
         name: str = 'test') -> Iterator[Connection]:
    """Everything in the block is as in a call of a client.

    ``user``
        ``connection.user``, and ``cherrypy.request.login``.
    ``answers``
        What the client's functions answer, by name: a value, a callable
        that gets the arguments, or an exception, which comes as
        RemoteError (CallTimeout and ConnectionLostError as they are).
    ``session``
        ``cherrypy.session``: this very dict, so that it can be looked at
        afterwards.  None: as where ``tools.sessions`` is off.
    ``headers``
        Of the handshake, for ``cherrypy.request.headers`` and ``.cookie``.
    ``params``
        ``cherrypy.request.json``.
    ``remote``, ``path``, ``name``
        The client's IP address, the endpoint's path, and the name of the
        method for ``cp_wsrpc.call.name``.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    connection = Connection(user, answers, host_serving.Handshake(
        app=_application(), path_info=path, base='http://127.0.0.1',
        remote=httputil.Host(remote, 40000),
        local=httputil.Host('127.0.0.1', 80), headers=list(pairs),
        login=user, user=user))
    running = Call(1, name, None if params is None else encode_json(params),
                   JSONRPC, connection=connection)
    with _serving(_session_of(session)):
        cell_token = cell.set(Cell(running))
        recorder_token = recorder.set(connection)
        try:
            yield connection
        finally:
            recorder.reset(recorder_token)
            cell.reset(cell_token)


@functools.cache
def _application() -> Any:
    return cherrypy.Application(None, '')


@contextmanager
def _serving(session: LazySession) -> Iterator[None]:
    """CherryPy's thread-local, as in a worker; put back at the end."""
    before = dict(vars(cherrypy.serving))
    host_serving.enter_thread()
    ensure_proxy()
    cherrypy.serving.session = session
    try:
        yield
    finally:
        cherrypy.serving.clear()
        vars(cherrypy.serving).update(before)


class _GivenSession:
    """What :class:`LazySession` asks: the test's own dict."""

    is_open = False
    key = SimpleNamespace(id='testing', settings={'timeout': 60})

    def __init__(self, data: dict[Any, Any]) -> None:
        self._data = data

    def session(self) -> dict[Any, Any]:
        return self._data

    def let_go(self, save: bool = True) -> None:
        """Nothing was locked."""


def _session_of(data: dict[Any, Any] | None) -> LazySession:
    given: Any = _GivenSession({} if data is None else data)

    def find() -> Any:
        if data is None:
            raise AttributeError('this call has no session: '
                                 'testing.call(session={})')
        return given
    return LazySession(find)
