"""Which of many sockets can be read or written.  Layer 1.

One poller for all sockets, which the asyncio loop watches as if it were
one of them::

    readiness = Readiness(loop, on_readable, on_writable)
    readiness.watch(sock, READ, owner)      -> on_readable(owner), whenever
    readiness.unwatch(sock, READ)

``loop.add_reader`` for each socket would do but for uvloop, which forgets a
socket whose bytes and RST it finds together: libuv stops watching at
POLLERR, the reader is called once, reads the bytes, and never hears of the
end (uvloop 0.23; a connection seemed alive until the next ping).  A
poller in between costs 0.8 us a message with one socket, nothing that can
be measured with 32 or 1 000.

It is ``select.epoll`` itself where there is one: ``selectors`` costs 1 us
for each event, and makes room for as many events as there are sockets,
each time.
"""
from __future__ import annotations

import asyncio
import select
import selectors
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

__all__ = ['READ', 'Readiness', 'WRITE']

#: The bits of epoll, which are those of ``selectors.EVENT_READ`` and 4.
READ, WRITE = 1, 4
_READ_OR_END, _WRITE_OR_END = ~WRITE, ~READ

#: Events of one look; who is left out is among the next.
_MAX_EVENTS = 256
#: How many are told before a turn ends.  Of 32 peers with one call each a
#: look finds some 24, 8, or 1; a turn for each look woke a worker each time.
_TURN_EVENTS = 32
#: Looks before the asyncio loop has its turn: its own look and the call of
#: ``_on_ready`` cost 2 us.
_MAX_LOOKS = 8
#: Beyond it a turn takes no further look: reads of 13 ms each, of 3 peers,
#: kept what 8 looks had posted and submitted for 105 ms (median).
_LOOKS_S = 0.01


class _Selector:
    """What is used of ``select.epoll``, where there is none."""

    def __init__(self) -> None:
        self._selector: Any = selectors.DefaultSelector()
        self.fileno = self._selector.fileno
        self.unregister = self._selector.unregister
        self.close = self._selector.close

    def register(self, fd: int, events: int) -> None:
        self._selector.register(fd, _for_selectors(events))

    def modify(self, fd: int, events: int) -> None:
        self._selector.modify(fd, _for_selectors(events))

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        return [(key.fd, events & selectors.EVENT_READ
                 | bool(events & selectors.EVENT_WRITE) * WRITE)
                for key, events in self._selector.select(timeout)]


def _for_selectors(events: int) -> int:
    return (events & READ
            | bool(events & WRITE) * selectors.EVENT_WRITE)


_new_poller: Callable[[], Any] = (
    select.epoll if hasattr(select, 'epoll') else _Selector)


class Readiness:
    """All of it belongs to the loop's thread.

    ``on_readable(owner)`` and ``on_writable(owner)`` must not raise.  They
    run in a context of the socket's own, made when it is first watched.
    One that another in the same turn has unwatched is not called any more.
    ``on_look()`` is called before what one look has found is told, and
    returns the time, in seconds.
    ``on_turn_end()`` is called when all of a turn have been told, which are
    those of one look or, where it finds few, of several that begin within
    10 ms; ``in_turn`` is True until then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop,
                 on_readable: Callable[[Any], object],
                 on_writable: Callable[[Any], object],
                 on_look: Callable[[], float] = time.monotonic,
                 on_turn_end: Callable[[], object] = lambda: None) -> None:
        self.in_turn = False
        self._on_look = on_look
        self._on_turn_end = on_turn_end
        self._loop = loop
        self._on_readable = on_readable
        self._on_writable = on_writable
        self._poller = _new_poller()
        self._fd = self._poller.fileno()
        #: fd -> what is watched for, the context, the owner
        self._watched: dict[int, tuple[int, Context, Any]] = {}
        loop.add_reader(self._fd, self._on_ready)

    def watch(self, sock: Any, event: int, owner: Any) -> None:
        """From now on tell ``owner`` of it; once more does nothing."""
        fd = sock.fileno()
        watched = self._watched.get(fd)
        if watched is None:
            self._poller.register(fd, event)
            self._watched[fd] = event, copy_context(), owner
        else:
            events, context, owner = watched
            self._poller.modify(fd, events | event)
            self._watched[fd] = events | event, context, owner

    def unwatch(self, sock: Any, event: int) -> None:
        """No longer; before the socket is closed, as its number is used."""
        fd = sock.fileno()
        watched = self._watched.get(fd)
        if watched is None:     # or close() has been
            return
        events, context, owner = watched
        events &= ~event
        if events:
            self._poller.modify(fd, events)
            self._watched[fd] = events, context, owner
        else:
            # With nothing to wait for it would still tell of errors.
            self._poller.unregister(fd)
            del self._watched[fd]

    def close(self) -> None:
        """Forget all; before the loop is closed."""
        self._loop.remove_reader(self._fd)
        self._watched.clear()
        self._poller.close()

    def _on_ready(self) -> None:
        watched = self._watched
        told = 0
        until = 0.0
        for look in range(_MAX_LOOKS):
            ready = self._poller.poll(0, _MAX_EVENTS)
            if not ready:
                break
            now = self._on_look()
            if not look:
                until = now + _LOOKS_S
            elif now >= until:      # who is ready stays so for the next turn
                break
            self.in_turn = True
            for fd, happened in ready:
                what = watched.get(fd)
                if what is None:
                    continue
                events, context, owner = what
                if events & READ and happened & _READ_OR_END:
                    context.run(self._on_readable, owner)
                    if events & WRITE and happened & _WRITE_OR_END \
                            and fd in watched:
                        context.run(self._on_writable, owner)
                elif events & WRITE and happened & _WRITE_OR_END:
                    context.run(self._on_writable, owner)
            told += len(ready)
            if told >= _TURN_EVENTS:
                told = self._end_turn()
            if len(ready) == 1:     # little to do: another look costs 1 us
                break
        if told:
            self._end_turn()

    def _end_turn(self) -> int:
        self.in_turn = False
        self._on_turn_end()
        return 0
