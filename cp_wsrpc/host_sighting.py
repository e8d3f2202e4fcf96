"""Whether a session is still there, asked over and over.  Layer 0.

``SessionKey.exists`` locks and reads a session that is no RamSession:
0.1 ms of a file, and a wait while a request has it.  Of a FileSession most
looks can do without: a file that was not written since the last look
expires when it said then.
"""
from __future__ import annotations

import datetime
import os
from typing import Any

from cherrypy.lib import sessions
from cherrypy.lib.locking import LockTimeout

from .host_session import SessionKey

__all__ = ['Sighting']


class Sighting:
    """The last that was seen of one session.

    ``is_gone``: one thread at a time; not the loop's unless the key is
    ``in_memory``.  Raises what the store raises.
    """

    __slots__ = ('_expires', '_mark', '_path', 'key')

    def __init__(self, key: SessionKey) -> None:
        self.key = key
        self._path = _path_of(key)
        self._mark: tuple[int, ...] | None = None
        self._expires = datetime.datetime.min

    def is_gone(self) -> bool:
        """Whether it expired, was deleted, or is another's by now."""
        if self._path is None:
            return not self.key.exists()
        try:
            state = os.stat(self._path)
        except FileNotFoundError:
            return True
        mark = state.st_ino, state.st_mtime_ns, state.st_size
        if mark != self._mark:
            try:
                expires = self.key.read_expiry()
            except LockTimeout:
                return False        # in use; the next look sees what came
            if expires is None:
                return True
            # What was written after the stat has another mark.
            self._mark, self._expires = mark, expires
        return self._expires < datetime.datetime.now()


def _path_of(key: SessionKey) -> str | None:
    """The session's file, if it is kept just as FileSession does."""
    file = sessions.FileSession
    kind: Any = key.storage_class
    if not issubclass(kind, file) or any(
            getattr(kind, name) is not getattr(file, name)
            for name in ('_exists', '_load', '_save', '_delete', 'load',
                         '_get_file_path', 'now')):
        return None
    session = key.make_session()
    return session._get_file_path() if session is not None else None
