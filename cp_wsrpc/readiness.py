"""Which of many sockets can be read or written.  Layer 1.

One selector for all sockets, which the asyncio loop watches as if it were
one of them::

    readiness = Readiness(loop, on_readable, on_writable)
    readiness.watch(sock, READ, owner)      -> on_readable(owner), whenever
    readiness.unwatch(sock, READ)

``loop.add_reader`` for each socket would do but for uvloop, which forgets a
socket whose bytes and RST it finds together: libuv stops watching at
POLLERR, the reader is called once, reads the bytes, and never hears of the
end (uvloop 0.23; a connection seemed alive until the next ping).  A
selector in between costs 0.8 us a message with one socket, nothing that can
be measured with 32 or 1 000.
"""
from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

__all__ = ['READ', 'Readiness', 'WRITE']

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Readiness:
    """All of it belongs to the loop's thread.

    ``on_readable(owner)`` and ``on_writable(owner)`` must not raise.  They
    run in a context of the socket's own, made when it is first watched.
    One that another in the same turn has unwatched may be called still.
    ``on_turn_end()`` is called when all of a turn have been told;
    ``in_turn`` is True until then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop,
                 on_readable: Callable[[Any], object],
                 on_writable: Callable[[Any], object],
                 on_turn_end: Callable[[], object] = lambda: None) -> None:
        self.in_turn = False
        self._on_turn_end = on_turn_end
        self._loop = loop
        self._on_readable = on_readable
        self._on_writable = on_writable
        self._selector = selectors.DefaultSelector()
        self._fd = self._selector.fileno()
        loop.add_reader(self._fd, self._on_ready)

    def watch(self, sock: Any, event: int, owner: Any) -> None:
        """From now on tell ``owner`` of it; once more does nothing."""
        fd = sock.fileno()
        key = self._selector.get_map().get(fd)
        if key is None:
            self._selector.register(fd, event, (copy_context(), owner))
        else:
            self._selector.modify(fd, key.events | event, key.data)

    def unwatch(self, sock: Any, event: int) -> None:
        """No longer; before the socket is closed, as its number is used."""
        fd = sock.fileno()
        watched = self._selector.get_map()
        key = watched.get(fd) if watched is not None else None
        if key is None:     # or close() has been
            return
        events = key.events & ~event
        if events:
            self._selector.modify(fd, events, key.data)
        else:
            # With nothing to wait for it would still tell of errors.
            self._selector.unregister(fd)

    def close(self) -> None:
        """Forget all; before the loop is closed."""
        self._loop.remove_reader(self._fd)
        self._selector.close()

    def _on_ready(self) -> None:
        self.in_turn = True
        for key, events in self._selector.select(0):
            context, owner = key.data
            if events & READ:
                context.run(self._on_readable, owner)
            if events & WRITE:
                context.run(self._on_writable, owner)
        self.in_turn = False
        self._on_turn_end()
