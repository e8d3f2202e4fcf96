"""CherryPy's sessions as the methods of calls see them.  Layer 0.

A handshake's ``Session`` object is gone with its request and must not be
kept (it holds data that others change; CherryPy issue 1027).  What is kept
is a key, and each call opens the session by it::

    key = SessionKey.of_request(cherrypy.serving.request)   # or None
    opened = CallSession(key)                               # per call
    cherrypy.serving.session = LazySession(lambda: opened)
    ... the method: cherrypy.session['n'] += 1 ...
    opened.let_go()             # at its return, and around each wait

**Locking.**  The first touch, a reading one too, locks and loads: who reads
first and locks at the write loses increments.  ``let_go`` saves and
unlocks.  ``tools.sessions.locking`` changes nothing here: there is no
moment before the method at which ``early`` could lock without need, and
``explicit`` programs find that ``acquire_lock`` works and is not needed.

**Gone.**  A session that expired or was deleted is told by Unauthorized; it
is never made anew, neither at the touch nor by saving into it after a
logout: over a socket no cookie can be set.
"""
from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from typing import Any

import cherrypy
from cherrypy.lib import sessions
from cherrypy.lib.locking import LockTimeout

from .errors import Unauthorized
from .host_identity import is_same

__all__ = ['CallSession', 'SessionKey', 'renew_session']

log = logging.getLogger('cp_wsrpc.host_session')

#: Options of tools.sessions that are for the cookie or the tool; what is
#: left goes to the Session class, as ``cherrypy.lib.sessions.init`` does.
_NOT_OF_THE_STORE = frozenset({
    'on', 'priority', 'storage_type', 'storage_class', 'path',
    'path_header', 'name', 'domain', 'secure', 'persistent', 'httponly',
    'debug'})

#: A file's lock is tried once and, 0.1 s later, given up by ``exists``.
_GLANCE = datetime.timedelta(milliseconds=50)


class SessionKey:
    """What is kept of a handshake's session; immutable, for any thread.

    ``id``             ``'8f3c...'``, 40 hexadecimal digits as a rule
    ``storage_class``  ``cherrypy.lib.sessions.RamSession``, or another
    ``settings``       what its constructor gets:
                       ``{'timeout': 60, 'clean_freq': 5, ...}``, minutes
    ``identity``       entries that say who it is, ``{'user': 'ada'}``; once
                       one of them has changed it is another's
    ``in_memory``      whether :meth:`exists` may be asked on the loop
    """

    __slots__ = ('id', 'identity', 'in_memory', 'settings', 'storage_class')

    def __init__(self, id: str, storage_class: Any,
                 settings: dict[str, Any],
                 identity: Mapping[str, Any] | None = None) -> None:
        self.id = id
        self.identity = identity or {}
        self.storage_class = storage_class
        self.settings = {'timeout': 60, 'clean_freq': 5, **settings}
        self.in_memory = _keeps_all_as_ram_session(storage_class)

    def __repr__(self) -> str:
        # The id is a credential: only its head may stand in a log.
        return (f'<SessionKey {self.id[:6]}... of '
                f'{self.storage_class.__name__}>')

    @property
    def place(self) -> tuple[Any, ...]:
        """What tells it, and whose it is, from all others."""
        return (self.storage_class, self.settings.get('storage_path'),
                self.id, frozenset(self.identity.items()))

    @classmethod
    def of_request(cls, request: Any,
                   identity: Mapping[str, Any] | None = None,
                   ) -> SessionKey | None:
        """The key of the running request's session; None if it has none.

        To be asked at the end of the handshake, when nothing regenerates
        the session any more.  A session that is not stored yet (a new
        visitor, an expired one) is stored, empty, so that the id, which
        goes out in the cookie, is found again.  ``session.loaded`` is left
        as it was.  Raises what the store raises.
        """
        session = getattr(cherrypy.serving, 'session', None)
        if session is None:
            return None
        options = request.toolmaps.get('tools', {}).get('sessions', {})
        key = cls(session.id, type(session), {
            name: value for name, value in options.items()
            if name not in _NOT_OF_THE_STORE}, identity)
        if not session.loaded:      # else CherryPy's own hook saves it
            _store_if_missing(session)
        return key

    def exists(self) -> bool:
        """Whether it is stored, has not expired, and is still theirs.

        Under 1 us where ``in_memory``.  Elsewhere it reads the store and
        may wait for the session's lock, so not on the loop's thread; a
        file that stays locked for 0.1 s is in use, and thus exists.
        """
        if self.in_memory:
            stored = self.storage_class.cache.get(self.id)
            return (stored is not None
                    and stored[1] >= datetime.datetime.now()
                    and (not self.identity
                         or is_same(self.identity, stored[0])))
        try:
            return self.read_expiry() is not None
        except LockTimeout:
            return True

    def read_expiry(self) -> Any:
        """When it expires, by ``session.now()``; None: it is gone.

        Reads the store.  Raises LockTimeout for a file that stays locked.
        """
        session = self.make_session()
        if session is None:
            return None
        if isinstance(session, sessions.FileSession):
            session.lock_timeout = _GLANCE
        session.acquire_lock()
        try:
            stored = session._load()
            if (stored is None or stored[1] < session.now()
                    or not is_same(self.identity, stored[0])):
                return None
            return stored[1]
        finally:
            session.release_lock()

    def make_session(self) -> Any:
        """A Session object, not locked or loaded; None if it is gone.

        A Session class makes up a new id for one that it does not find;
        nothing is stored under that, and it is thrown away here.
        """
        session = self.storage_class(self.id, **self.settings)
        return session if session.id == self.id else None


def _keeps_all_as_ram_session(storage_class: Any) -> bool:
    ram = sessions.RamSession
    return issubclass(storage_class, ram) and all(
        getattr(storage_class, name) is getattr(ram, name)
        for name in ('_exists', '_load', 'load', 'now'))


def _is_stored(session: Any) -> bool:
    """Whether the store has it, not expired; needs the session's lock."""
    stored = session._load()
    return stored is not None and stored[1] >= session.now()


def _store_if_missing(session: Any) -> None:
    was_locked = session.locked
    if not was_locked:
        session.acquire_lock()
    try:
        if not _is_stored(session):
            session._save(session.now()
                          + datetime.timedelta(minutes=session.timeout))
    finally:
        if not was_locked:
            session.release_lock()


def renew_session() -> float | None:
    """Have the running request keep its session alive.

    CherryPy saves, and so renews, only what was read.  Returns
    ``tools.sessions.timeout`` in seconds; None if the request came with no
    session that still lives: none is made.
    """
    session = getattr(cherrypy.serving, 'session', None)
    if session is None or session.originalid != session.id:
        return None
    if not session.locked:
        session.acquire_lock()      # CherryPy's save, or its close, unlocks
    if not session.loaded:
        if not _is_stored(session):
            return None
        session.load()
    return float(session.timeout) * 60


class CallSession:
    """One call's access to the session, opened at its first use.

    For the thread that runs the method, which must also let go: CherryPy's
    locks belong to threads.

    ============  ===================  =========================
    state         ``session()``        ``let_go()``
    ============  ===================  =========================
    closed        locks, loads: open   nothing
    open          the same object      saves, unlocks: closed
    ============  ===================  =========================
    """

    __slots__ = ('_session', 'key')

    def __init__(self, key: SessionKey) -> None:
        self.key = key
        self._session: Any = None

    def __repr__(self) -> str:
        return (f'<CallSession {"open" if self.is_open else "closed"} '
                f'{self.key!r}>')

    @property
    def is_open(self) -> bool:
        """Whether it is locked and loaded by this call."""
        return self._session is not None

    def session(self) -> Any:
        """The Session object, locked and loaded.

        Waits for the lock as CherryPy does: for ever, or until
        ``tools.sessions.lock_timeout`` of a FileSession, then
        ``cherrypy.lib.locking.LockTimeout``.  Raises Unauthorized if the
        session is gone.
        """
        if self._session is None:
            self._session = self._open()
        return self._session

    def let_go(self, save: bool = True) -> None:
        """Save what was touched and unlock; nothing if nothing was.

        To be called at the method's return and before each wait for the
        client.  The next touch opens the session again and reads it anew.

        ``save``: False after an exception that is no answer (neither
        RPCError nor HTTPError nor HTTPRedirect): CherryPy's tool saves
        after those two of its own, and after any other only unlocks.  A
        RamSession is changed in place: there the changes stand anyway.

        Raises what the store raises (a value that cannot be pickled, say);
        it is unlocked all the same.
        """
        session, self._session = self._session, None
        if session is None:
            return
        try:
            # Explicit locking lets a handler delete it under our lock; to
            # save would undo that logout.
            if save and session._exists():
                session.save()          # unlocks, too
        finally:
            if session.locked:
                session.release_lock()

    def _open(self) -> Any:
        session = self.key.make_session()
        if session is None:
            raise _gone()
        session.acquire_lock()
        try:
            session.load()
            # load() says nothing of a session that went while the lock
            # was waited for: it gives an empty one.
            if not session._data and not _is_stored(session):
                raise _gone()
        except BaseException:  # else it stays locked for ever
            self._unlock_failed(session)
            raise
        return session

    def _unlock_failed(self, session: Any) -> None:
        try:
            session.release_lock()
        except Exception:
            # CherryPy's cleaner may drop the lock of a session that is
            # gone in the moment in which we take it.
            log.exception('%r could not be unlocked', self.key)


def _gone() -> Unauthorized:
    return Unauthorized('the session has expired or was ended: sign in again')
