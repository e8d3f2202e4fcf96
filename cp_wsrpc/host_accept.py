"""cheroot's accept loop, kept from spinning.  Layer 0.

When a process has no file descriptor left, ``accept`` fails and what waits
to be accepted goes on waiting: cheroot logs a traceback and tries again,
at once and for ever (pitfalls 32: 46 MB of log in 15 s, and a CPU)::

    rest_when_full()        # now a line a second, and ten tries

A connection that finds no room waits in the listen backlog, and is served
as soon as there is some.
"""
from __future__ import annotations

import errno
import logging
import threading
from typing import Any

from cheroot.connections import ConnectionManager

from .logs import limited

__all__ = ['rest_when_full']

log = logging.getLogger('cp_wsrpc.accept')

#: Short for who waits to be let in, and rare for a CPU: 0.1 % of one.
PAUSE_S = 0.1
#: What passes by itself: this process's files, the system's, its memory.
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_accept: Any = getattr(ConnectionManager, '_from_server_socket', None)


def rest_when_full() -> None:
    """Have cheroot's servers of this process pause; may be called again."""
    if _accept is not None:     # else another cheroot, for better or worse
        manager: Any = ConnectionManager
        manager._from_server_socket = _accept_or_rest


def _accept_or_rest(manager: Any, listener: Any) -> Any:
    try:
        return _accept(manager, listener)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        limited(log, 'accept', logging.ERROR,
                'no new connection can be accepted: %s; raise the limit '
                '(ulimit -n), or lower engine.wsrpc.max_connections', error)
    # Pages on connections that are kept alive wait as long: this thread
    # looks for their requests, too.
    threading.Event().wait(PAUSE_S)
    return None
