"""Who somebody is, and what of the session says so.  Layer 0.

::

    find_user(request, options.user)
        -> Found('ada', bound=True, identity={'user': 'ada'})

A logout need not delete the session: CherryPy's own ``session_auth`` sets
its entry to None.  So the entries that were read to find the user are
kept, by name and value, and a connection ends when one of them changes.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import cherrypy

__all__ = ['Found', 'came_from_session', 'find_user', 'is_same']

#: What equals itself after a file or a cache has had it.
_COMPARABLE = (str, int, float, bytes, type(None))
#: Stands for a value of any other kind: it must be there, and not None.
_ANYTHING = object()


class Found(NamedTuple):
    """Who opens a connection.

    ``user``      what ``connection.user`` will be, None: nobody
    ``bound``     whether that came from the session
    ``identity``  entries of the session that said so: ``{'user': 'ada'}``
    """

    user: Any
    bound: bool
    identity: dict[str, Any]


def find_user(request: Any, ask: Callable[[], Any] | None) -> Found:
    """Find out whose handshake this is.

    ``ask`` is ``tools.wsrpc.user``; without it the user is
    ``request.login``.  To be called where the session is live.  Raises
    what ``ask`` raises.
    """
    session = getattr(cherrypy.serving, 'session', None)
    if ask is None:
        user, reads = request.login, _Reads()
    elif session is None:
        return Found(ask(), False, {})
    else:
        with _recorded(session) as reads:
            user = ask()
    if user is None or session is None:
        return Found(user, False, {})
    names = set(reads.names)
    login_is_theirs = bool(request.login) and came_from_session(request)
    if login_is_theirs and session.loaded:
        names.update(name for name, value in session.items()
                     if type(value) in (str, int) and value == request.login)
    bound = reads.touched or login_is_theirs
    return Found(user, bound, {
        name: _comparable(session.get(name)) for name in names}
        if bound else {})


def came_from_session(request: Any) -> bool:
    """Whether ``request.login`` may have come from the session.

    So it is taken if ``tools.session_auth`` is on, or if something has read
    the session by now and no HTTP authentication is on.
    """
    session = getattr(cherrypy.serving, 'session', None)
    if session is None:
        return False
    on = {name for name, options in request.toolmaps.get('tools', {}).items()
          if options.get('on', False)}
    return 'session_auth' in on or bool(
        session.loaded and not on & {'auth_basic', 'auth_digest'})


def is_same(identity: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether a session's data still say the same of who it is."""
    for name, value in identity.items():
        now = data.get(name)
        if now is None if value is _ANYTHING else now != value:
            return False
    return True


def _comparable(value: Any) -> Any:
    return value if isinstance(value, _COMPARABLE) else _ANYTHING


class _Reads:
    """What of a session was read."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.touched = False


@contextmanager
def _recorded(session: Any) -> Iterator[_Reads]:
    """Have ``cherrypy.session`` write down what is read of it."""
    reads = _Reads()
    cherrypy.serving.session = _Recorder(session, reads)
    try:
        yield reads
    finally:
        cherrypy.serving.session = session


class _Recorder:
    """The running request's session, watched for a moment."""

    __slots__ = ('_reads', '_session')

    _reads: _Reads
    _session: Any

    def __init__(self, session: Any, reads: _Reads) -> None:
        object.__setattr__(self, '_session', session)
        object.__setattr__(self, '_reads', reads)

    def _note(self, name: Any) -> None:
        self._reads.touched = True
        self._reads.names.add(name)

    def __getitem__(self, name: Any) -> Any:
        self._note(name)
        return self._session[name]

    def get(self, name: Any, default: Any = None) -> Any:
        self._note(name)
        return self._session.get(name, default)

    def __contains__(self, name: Any) -> bool:
        self._note(name)
        return name in self._session

    def __setitem__(self, name: Any, value: Any) -> None:
        self._session[name] = value

    def __delitem__(self, name: Any) -> None:
        del self._session[name]

    def __len__(self) -> int:
        return len(self._session)

    def __bool__(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name not in ('id', 'loaded', 'locked', 'missing', 'timeout'):
            self._reads.touched = True      # items(), a method of its own
        return getattr(self._session, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._session, name, value)
