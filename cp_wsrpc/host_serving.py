"""CherryPy's request, for code that runs long after it.  Layer 0.

One of the ``host_*`` modules, which keep CherryPy's and cheroot's insides
to themselves.  This one turns the upgrade request into a
:class:`Handshake` - the part of it that a connection keeps - and gives the
threads that run calls a ``cherrypy.request`` made of it.

Threads that are no HTTP workers share *one* default request and response
(pitfalls 29), so :func:`enter_thread` puts stand-ins at
``cherrypy.serving``.  They look for the running call (``current``) at
each access and build its request only when somebody reads it: a method
that never touches ``cherrypy.request`` pays nothing for it, and on the
loop's thread each task sees its own.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any

import cherrypy
import msgspec
from cherrypy.lib import httputil

from .current import cell

if TYPE_CHECKING:
    from .messages import Call

__all__ = ['Handshake', 'enter_thread', 'is_entered', 'leave_thread',
           'request_of_call']

#: Dropped from what is kept: secrets that were for the handshake alone
#: (pitfalls 11), and what only the upgrade itself needed.
_DROPPED = frozenset({
    'authorization', 'proxy-authorization', 'connection', 'upgrade',
    'sec-websocket-key', 'sec-websocket-version',
    'sec-websocket-extensions'})

_DEFAULT_REQUEST = cherrypy.serving.__class__.request
_DEFAULT_RESPONSE = cherrypy.serving.__class__.response


@dataclass(slots=True)
class Handshake:
    """What a connection keeps of the request that opened it.

    ``app``          the CherryPy application
    ``script_name``, ``path_info``, ``query_string``  of its URL
    ``scheme``, ``base``   'https', 'https://example.com', after tools.proxy
    ``remote``, ``local``  ``httputil.Host``: ``.ip``, ``.port``, ``.name``
    ``headers``      [(name, value)], without Authorization
    ``login``        ``request.login``, what an auth tool found
    ``user``         what ``tools.wsrpc.user`` returned, else ``login``
    ``session_key``  the ``host_session.SessionKey``, or None
    ``bound``        whether ``user`` came from that session
    ``subprotocol``  the one that was agreed upon, or None
    ``config``       the merged config of the endpoint's path (shared)
    ``extensions``   the ``compression.Agreement``, or None
    ``began``        ``time.monotonic()`` before the first guard
    """

    app: Any
    script_name: str = ''
    path_info: str = '/'
    query_string: str = ''
    scheme: str = 'http'
    base: str = ''
    remote: Any = None
    local: Any = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    login: Any = None
    user: Any = None
    session_key: Any = None
    bound: bool = False
    subprotocol: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    extensions: Any = None
    began: float = 0.0

    @classmethod
    def of(cls, request: Any, *, user: Any = None,
           subprotocol: str | None = None, session_key: Any = None,
           bound: bool = False, extensions: Any = None,
           began: float = 0.0,
           config: dict[str, Any] | None = None) -> Handshake:
        """What is kept of ``request``, at the end of its handshake."""
        return cls(
            app=request.app, script_name=request.script_name,
            path_info=request.path_info, query_string=request.query_string,
            scheme=request.scheme, base=request.base,
            remote=request.remote, local=request.local,
            headers=[(name, value) for name, value in request.header_list
                     if name.lower() not in _DROPPED],
            login=request.login, user=user, session_key=session_key,
            bound=bound, subprotocol=subprotocol, extensions=extensions,
            began=began,
            config=request.config if config is None else config)

    def header(self, name: str) -> str | None:
        """The first header of that name, or None."""
        name = name.lower()
        for key, value in self.headers:
            if key.lower() == name:
                return str(value)
        return None

    def environ(self) -> dict[str, Any]:
        """What ws4py's handlers read of ``self.environ``, no secrets."""
        environ = {
            'REQUEST_METHOD': 'GET', 'SCRIPT_NAME': self.script_name,
            'PATH_INFO': self.path_info, 'QUERY_STRING': self.query_string,
            'wsgi.url_scheme': self.scheme, 'REMOTE_USER': self.login or '',
            'REMOTE_ADDR': self.remote.ip if self.remote else '',
            'REMOTE_PORT': str(self.remote.port) if self.remote else ''}
        for name, value in self.headers:
            environ['HTTP_' + name.upper().replace('-', '_')] = value
        return environ

    def build_request(self, params: Any = None) -> Any:
        """A ``cherrypy.request`` as a handler at this path would see it.

        ``request.json`` is the call's params, decoded; there is no body,
        and no hook runs.
        """
        request = self.app.request_class(
            self.local, self.remote, self.scheme, 'HTTP/1.1')
        request.app = self.app
        request.script_name = self.script_name
        request.path_info = self.path_info
        request.query_string = self.query_string
        request.request_line = f'GET {self.script_name}{self.path_info}'
        request.method = 'GET'
        request.protocol = (1, 1)
        request.base = self.base
        request.login = self.login
        request.config = dict(self.config)
        request.header_list = list(self.headers)
        request.headers = headers = httputil.HeaderMap()
        for name, value in self.headers:
            headers[name] = value
        request.cookie = self._cookie(headers.get('Cookie'))
        request.params = httputil.parse_query_string(self.query_string)
        request.json = msgspec.json.decode(params) if params else None
        request.toolmaps = {}
        request.handler = request.body = request.rfile = None
        request.wsgi_environ = {}
        request.stage = 'handler'
        return request

    @staticmethod
    def _cookie(header: str | None) -> SimpleCookie:
        cookie = SimpleCookie()
        if header:
            try:
                cookie.load(header)
            except CookieError:
                # CherryPy refuses such a request itself; only a header
                # changed by a tool can come this far.
                cookie.clear()
        return cookie


class Surroundings:
    """A call's own request, response and session, made when asked for.

    Stands in ``call.scope``; touched by the thread (or task) of the call.
    """

    __slots__ = ('reply', 'request', 'response', 'session', 'turn')

    def __init__(self) -> None:
        self.request: Any = None
        self.response: Any = None
        self.session: Any = None
        self.turn: Any = None       # on a Route's instance (turns.Turn)
        self.reply: Any = None      # of the client: it is the answer


def surroundings_of(call: Call) -> Surroundings:
    """The call's surroundings, made at the first use."""
    if call.scope is None:
        call.scope = Surroundings()
    scope: Surroundings = call.scope
    return scope


def _running_call() -> Call | None:
    mine = cell.get()
    return mine.call if mine is not None else None


class _LazyRequest:
    """Stands for ``cherrypy.request``: the running call's, built lazily."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(_request(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_request(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_request(), name)


class _LazyResponse:
    """Stands for ``cherrypy.response``; what is set on it goes nowhere."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(_response(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_response(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_response(), name)


def _request() -> Any:
    call = _running_call()
    if call is None:
        return _DEFAULT_REQUEST
    scope = surroundings_of(call)
    if scope.request is None:
        scope.request = call.connection.handshake.build_request(call.params)
    return scope.request


def _response() -> Any:
    call = _running_call()
    if call is None:
        return _DEFAULT_RESPONSE
    scope = surroundings_of(call)
    if scope.response is None:
        scope.response = call.connection.handshake.app.response_class()
    return scope.response


#: what ``cherrypy.request`` is in a thread that follows its calls
request_of_call = _LazyRequest()
_response_of_call = _LazyResponse()


def enter_thread() -> None:
    """Give this thread a ``cherrypy.serving`` that follows its calls."""
    cherrypy.serving.load(request_of_call, _response_of_call)


def is_entered() -> bool:
    """False once code of the application has loaded something else."""
    return cherrypy.serving.request is request_of_call


def leave_thread() -> None:
    """Clear this thread's ``cherrypy.serving``."""
    cherrypy.serving.clear()
