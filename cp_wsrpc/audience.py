"""What is for one user alone, in all processes.  Layer 4.

::

    plugin -> Audience.publish    -> broker.deliver_to, or the feed
           -> Audience.close_user -> his sockets, or the feed
    feed   -> publishing -> Audience.hear

With several processes both go through ``broker.tell``; each process looks
for the sockets of that user among its own.  Who is to be closed does not
wait for a feed that stands still: see ``close_user``.
"""
from __future__ import annotations

import itertools
import secrets
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from .broker import encode_event
from .current import cell
from .errors import Overloaded
from .frame_rules import check_close_code
from .frames import close_frame
from .json_text import encode_json
from .messages import Event
from .users import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .broker import Broker
    from .ioloop import IOLoop
    from .websocket import WebSocket

__all__ = ['Audience']

#: A handshake takes less from its guards to the loop; see ``admit``.
REMEMBER_S = 60.0
#: So long the connections of this process wait for the feed to bring what
#: Redis has taken: in turn with the pushes before, while it does.
FEED_WAIT_S = 2.0


class _Publication(msgspec.Struct):
    topic: str
    data: msgspec.Raw
    user: Any


class _Ending(msgspec.Struct):
    user: Any
    code: int
    reason: str
    by: str             # the process, and the connection of it, where a
    but: str = ''       # method said so: that one closes itself
    number: int = 0     # of the process's


_decode_publication = msgspec.json.Decoder(_Publication).decode
_decode_ending = msgspec.json.Decoder(_Ending).decode


class Audience:
    """The users of a process's connections.

    Any thread; ``admit``: the loop's.  ``tell(what, text, failed)`` has
    all processes hear of it, also from the loop's thread; ``failed`` is
    called first if that raises.  ``_lock`` guards the changes of
    ``_ended``, which is replaced as a whole.  ``_unheard`` has the numbers
    of what the feed has not brought back: who takes one out closes them.
    """

    def __init__(self, io: IOLoop, broker: Broker,
                 tell: Callable[..., None]) -> None:
        self._io = io
        self._broker = broker
        self._tell = tell
        self._id = secrets.token_urlsafe(6)
        self._lock = threading.Lock()
        #: (when, who, code, reason)
        self._ended: tuple[tuple[float, Target, int, str], ...] = ()
        self._numbers = itertools.count(1)
        self._unheard: dict[int, bool] = {}

    def publish(self, topic: str, data: Any, user: Any) -> None:
        """An event for those subscribers who are this user.

        As :func:`cp_wsrpc.publish`.
        """
        target, text = Target(user), encode_event(data)
        if self._broker.is_shared:
            self._tell('publish', encode_json({
                'topic': topic, 'data': msgspec.Raw(text), 'user': user}))
        else:
            self._deliver(target, Event(topic, text))

    def close_user(self, user: Any, code: int, reason: str) -> int:
        """Close all connections of a user; how many of this process.

        As :func:`cp_wsrpc.close_user`.  Each process closes its own in
        turn with the pushes, those of this one too: so what was published
        before goes out.  Should the feed not bring it within
        ``FEED_WAIT_S``, those of this process are closed without it, but
        for those that began to shake hands since.
        """
        target = Target(user)
        check_close_code(code)
        close_frame(code, reason)       # to raise here what it does
        found = self._connections_of(target)
        asking = _asking()
        but = asking.id if asking in found else ''

        number = next(self._numbers)
        if self._broker.is_shared:
            text = encode_json({'user': user, 'code': code, 'reason': reason,
                                'by': self._id, 'but': but,
                                'number': number})
        if but:
            asking.close(code, reason)      # when its call is answered
        if self._broker.is_shared:
            asked_at = time.monotonic()

            def close_unheard() -> None:
                if self._unheard.pop(number, False):
                    self._close_here(target, code, reason, but, asked_at)

            self._unheard[number] = True
            self._io.post(self._call_later, close_unheard)
            self._tell('close_user', text, close_unheard)
        else:
            self._close_here(target, code, reason, but)
        return len(found)

    def _call_later(self, close_unheard: Callable[[], None]) -> None:
        assert self._io.loop is not None
        self._io.loop.call_later(FEED_WAIT_S, close_unheard)

    def hear(self, what: str, text: bytes) -> None:
        """Another process has said so, or this one; the broker's thread."""
        if what == 'publish':
            said = _decode_publication(text)
            self._deliver(Target(said.user),
                          Event(said.topic, bytes(said.data)))
        elif what == 'close_user':
            ending = _decode_ending(text)
            target, but = Target(ending.user), ''
            if ending.by == self._id:
                but = ending.but
                if not self._unheard.pop(ending.number, False):
                    return      # too late: they were closed without it
            self._close_here(target, ending.code, ending.reason, but)

    def admit(self, websocket: WebSocket) -> None:
        """Close it if its user was closed while it shook hands.

        Its guards may have let him in before that.  The loop adopts it
        next: then it gets the Close.
        """
        for when, target, code, reason in self._ended:
            if when >= websocket.handshake.began \
                    and target.is_met_by(websocket):
                websocket.close(code, reason)

    def _close_here(self, target: Target, code: int, reason: str,
                    but: str, asked_at: float | None = None) -> None:
        """Close them when the pushes before have gone out.

        Those that have begun to shake hands by ``asked_at``; None: by now.
        ``but``: the id of the one that closes itself.
        """
        check_close_code(code)
        close_frame(code, reason)       # to raise here what it does
        now = time.monotonic() if asked_at is None else asked_at
        with self._lock:
            self._ended = (*(ended for ended in self._ended
                             if now - ended[0] < REMEMBER_S),
                           (now, target, code, reason))

        def close() -> Iterator[Any]:
            for websocket in self._connections_of(target):
                if websocket.id != but and websocket.handshake.began <= now:
                    websocket.close(code, reason)
            return iter(())

        try:
            self._io.fan_out(close, 0)
        except Overloaded:
            self._io.post(close)

    def _connections_of(self, target: Target) -> list[WebSocket]:
        return [websocket for websocket in self._io.sockets_of(target)
                if not websocket.is_closed]

    def _deliver(self, target: Target, event: Event) -> None:
        self._broker.deliver_to(partial(self._io.sockets_of, target), event)


def _asking() -> Any:
    """The connection whose call this is, or None."""
    mine = cell.get()
    call = mine.call if mine is not None else None
    return call.connection if call is not None else None
