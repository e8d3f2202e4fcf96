"""``cherrypy.session`` while the method of a call runs.  Layer 0.

::

    cherrypy.serving.session = LazySession(lambda: opened)
    cherrypy.session['n'] += 1          # opens it: locks, loads
    cherrypy.session.regenerate()       # WsrpcError: it needs a cookie

``host_session`` opens and lets go; ``invocation`` puts one object into each
thread that runs methods.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cherrypy

from .errors import WsrpcError
from .host_session import CallSession

__all__ = ['LazySession', 'ensure_proxy']


class LazySession:
    """What stands at ``cherrypy.serving.session`` while a method runs.

    ``cherrypy.session`` is CherryPy's proxy of it.  ``find()`` returns the
    running call's :class:`CallSession`, or raises where a session may not
    be used; it is asked at each use, so one object serves a whole thread.

    As of a ``cherrypy.lib.sessions.Session``, except that

    * ``id``, ``originalid``, ``timeout``, ``loaded``, ``locked`` are told
      without opening it;
    * ``acquire_lock`` and ``load`` open it; ``release_lock`` and ``save``
      let it go, saved, and the next touch opens it again;
    * ``regenerate``, ``delete`` and ``expire`` raise: they need a cookie.

    ``len`` counts the sessions of the store, as CherryPy's does; iterating
    gives the keys.  Any other public name (``get``, ``items``, ``update``,
    and what a subclass adds) is the opened Session's.
    """

    __slots__ = ('_find',)

    _find: Callable[[], CallSession]
    missing = False
    regenerated = False

    def __init__(self, find: Callable[[], CallSession]) -> None:
        object.__setattr__(self, '_find', find)

    def __repr__(self) -> str:
        return '<LazySession>'

    # -- told without opening it ------------------------------------------

    @property
    def id(self) -> str:
        """The session's id; it cannot change over a socket."""
        return self._find().key.id

    originalid = id

    @property
    def loaded(self) -> bool:
        """Whether the call has it open."""
        return self._find().is_open

    locked = loaded

    @property
    def timeout(self) -> Any:
        """Minutes until it expires; writing it holds for the next save."""
        opened = self._find()
        if opened.is_open:
            return opened.session().timeout
        return opened.key.settings['timeout']

    # -- the mapping ------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        return self._find().session()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._find().session()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._find().session()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._find().session()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._find().session().keys())

    def __len__(self) -> int:
        return len(self._find().session())

    def __bool__(self) -> bool:
        return True

    # -- locking ----------------------------------------------------------

    def acquire_lock(self) -> None:
        """Open it now."""
        self._find().session()

    load = acquire_lock

    def release_lock(self) -> None:
        """Let it go before the method returns; what was set is saved."""
        self._find().let_go()

    save = release_lock

    # -- what needs a cookie ----------------------------------------------

    def regenerate(self) -> None:
        """Raise: a new id needs a cookie."""
        raise _needs_http('regenerate')

    def delete(self) -> None:
        """Raise: a logout belongs to a request."""
        raise _needs_http('delete')

    def expire(self) -> None:
        """Raise: a cookie cannot be expired over a socket."""
        raise _needs_http('expire')

    # -- all else ---------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):        # hasattr, copy, pickle: no lock
            raise AttributeError(name)
        return getattr(self._find().session(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == 'id' or name.startswith('_'):
            raise AttributeError(f'{name} of a session cannot be set here')
        setattr(self._find().session(), name, value)


def _needs_http(name: str) -> WsrpcError:
    return WsrpcError(
        f'cherrypy.session.{name}() needs a cookie, which no call over a '
        'WebSocket can set: do it over HTTP, in a page handler that the '
        'client asks by fetch()')


def ensure_proxy() -> None:
    """Make ``cherrypy.session``, as the first session of a process does.

    Only for where no handshake made one (``testing``, a connection without
    sessions, whose method is to get a helpful error): the same first time
    is when CherryPy calls ``setup`` of the storage class, so whoever comes
    before keeps a MemcachedSession from being set up.
    """
    if not hasattr(cherrypy, 'session'):
        cherrypy.session = cherrypy._ThreadLocalProxy('session')
