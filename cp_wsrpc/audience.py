"""What is for one user alone, in all processes.  Layer 4.

::

    plugin -> Audience.publish    -> broker.deliver_to, or the feed
           -> Audience.close_user -> his sockets here, and the feed
    feed   -> plugin -> Audience.hear

With several processes both go through ``broker.tell``; each process looks
for the sockets of that user among its own.
"""
from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from .broker import encode_event
from .dialects import encode_json
from .framing import close_frame
from .messages import Event
from .users import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from .broker import Broker
    from .ioloop import IOLoop
    from .websocket import WebSocket

__all__ = ['Audience']

#: A handshake takes less from its guards to the loop; see ``admit``.
REMEMBER_S = 60.0


class _Publication(msgspec.Struct):
    topic: str
    data: msgspec.Raw
    user: Any


class _Ending(msgspec.Struct):
    user: Any
    code: int
    reason: str
    by: str             # the process that has closed its own already


_decode_publication = msgspec.json.Decoder(_Publication).decode
_decode_ending = msgspec.json.Decoder(_Ending).decode


class Audience:
    """The users of a process's connections.

    Any thread; ``admit``: the loop's.  ``tell(what, text)`` has all
    processes hear of it, also from the loop's thread.  ``_lock`` guards
    the changes of ``_ended``, which is replaced as a whole.
    """

    def __init__(self, io: IOLoop, broker: Broker,
                 tell: Callable[[str, bytes], None]) -> None:
        self._io = io
        self._broker = broker
        self._tell = tell
        self._id = secrets.token_urlsafe(6)
        self._lock = threading.Lock()
        #: (when, who, code, reason)
        self._ended: tuple[tuple[float, Target, int, str], ...] = ()

    def publish(self, topic: str, data: Any, user: Any) -> None:
        """An event for those subscribers who are this user.

        As :func:`cp_wsrpc.publish`.
        """
        target, text = Target(user), encode_event(data)
        if self._broker.is_shared:
            self._tell('publish', encode_json({
                'topic': topic, 'data': msgspec.Raw(text), 'user': user}))
        else:
            self._broker.deliver_to(target, Event(topic, text))

    def close_user(self, user: Any, code: int, reason: str) -> int:
        """Close all connections of a user; how many of this process.

        As :func:`cp_wsrpc.close_user`.
        """
        target = Target(user)
        text = b''
        if self._broker.is_shared:
            text = encode_json({'user': user, 'code': code,
                                'reason': reason, 'by': self._id})
        count = self._close_here(target, code, reason)
        if text:
            self._tell('close_user', text)
        return count

    def hear(self, what: str, text: bytes) -> None:
        """Another process has said so, or this one; the broker's thread."""
        if what == 'publish':
            said = _decode_publication(text)
            self._broker.deliver_to(Target(said.user),
                                    Event(said.topic, bytes(said.data)))
        elif what == 'close_user':
            ending = _decode_ending(text)
            if ending.by != self._id:
                self._close_here(Target(ending.user), ending.code,
                                 ending.reason)

    def admit(self, websocket: WebSocket) -> None:
        """Close it if its user was closed while it shook hands.

        Its guards may have let him in before that.  The loop adopts it
        next: then it gets the Close.
        """
        for when, target, code, reason in self._ended:
            if when >= websocket.handshake.began \
                    and target.is_met_by(websocket):
                websocket.close(code, reason)

    def _close_here(self, target: Target, code: int, reason: str) -> int:
        close_frame(code, reason)       # to raise here what it does
        now = time.monotonic()
        with self._lock:
            self._ended = (*(ended for ended in self._ended
                             if now - ended[0] < REMEMBER_S),
                           (now, target, code, reason))
        count = 0
        for websocket in self._io:
            if not websocket.is_closed and target.is_met_by(websocket):
                count += 1
                websocket.close(code, reason)
        return count
