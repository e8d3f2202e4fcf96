"""Who somebody is, compared by value.  Layer 1, pure.

::

    key_of('ada')                   -> b'"ada"'
    key_of({'id': 1, 'at': 'x'})    -> b'{"at":"x","id":1}'
    Target({'at': 'x', 'id': 1}).is_met_by(websocket)   -> True

``connection.user`` may be any value; a user that is JSON is the same in
every process and whatever the order of its keys, and ``1`` is neither
``'1'`` nor ``True``.  None is nobody: an anonymous connection.
"""
from __future__ import annotations

from typing import Any, Protocol

import msgspec

__all__ = ['Target', 'key_of']

_encode = msgspec.json.Encoder(order='deterministic').encode


class _Connection(Protocol):
    @property
    def user(self) -> Any: ...

    @property
    def user_key(self) -> bytes: ...


def key_of(user: Any) -> bytes:
    """JSON text, the same for the same user.

    ``b''`` for None, and for what is not JSON.
    """
    if user is None:
        return b''
    try:
        return _encode(user)
    except Exception:  # of whatever class of the application's he is
        return b''


class Target:
    """The one user whom something is for.

    ``key``: as :func:`key_of`; empty if he is not JSON, and can only be
    compared in this process, with ``==``.

    Raises ValueError for None.  Nobody in particular would be everybody
    who has not signed in: ``publish(..., user=connection.user)`` must not
    tell strangers what was meant for one.
    """

    __slots__ = ('key', 'user')

    def __init__(self, user: Any) -> None:
        if user is None:
            raise ValueError('user=None is nobody: connections that are not '
                             'signed in cannot be told apart')
        self.user = user
        self.key = key_of(user)

    def is_met_by(self, connection: _Connection) -> bool:
        """Whether it is a connection of that user."""
        if self.key:
            return connection.user_key == self.key
        return bool(connection.user == self.user)
