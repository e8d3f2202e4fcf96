"""What this process publishes, and what it tells all others.  Layer 4.

::

    publish()   -> broker.publish -> backend -> ioloop.fan_out -> sockets
    broadcast() -> one frame a dialect       -> ioloop.fan_out -> sockets
    with Redis:    broker.tell -> the feed -> hear(), in each process

With a broker that may have to be waited for, the loop's thread (async and
nonblocking methods) hands over to the pool, where things keep their order;
what goes wrong there can only be logged.

``plugin`` has one :class:`Publishing` for each run of the engine; what is
for one user alone is ``audience``'s.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from . import frames
from .audience import Audience
from .conversation import server_ids
from .dialects import JSONRPC, Dialect
from .errors import MessageTooBig, WrongThread
from .fanout import once_each
from .frames import Framer
from .json_text import encode_json
from .history import Position
from .logs import escape, limited
from .messages import NO_ID
from .peer import Peer
from .presence import Presence
from .sending import message_of
from .strands import Strand
from .users import Target
from .websocket import WebSocket
from .workers import WorkerPool

if TYPE_CHECKING:
    from .broker import Broker
    from .idempotency import KeyStore
    from .ioloop import IOLoop

__all__ = ['Publishing', 'path_of']

log = logging.getLogger('cp_wsrpc.publishing')

#: One message of a broadcast.
MAX_BROADCAST_BYTES = 4 << 20


def path_of(endpoint: str) -> str:
    """``'/api'`` for ``'/api/'``: one endpoint."""
    return endpoint.rstrip('/') or '/'


class _Broadcast(msgspec.Struct):
    """What ``broadcast`` tells the other processes."""

    name: str
    args: list[msgspec.Raw] = []
    endpoint: str | None = None
    user: Any = None


_decode_broadcast = msgspec.json.Decoder(_Broadcast).decode


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise MessageTooBig(f'{size} bytes in one broadcast; {limit} are '
                            'allowed')


class Publishing:
    """The pushes of one run of the engine; any thread.

    ``audience``  those for one user alone
    """

    def __init__(self, io: IOLoop, pool: WorkerPool, broker: Broker,
                 kept: KeyStore) -> None:
        self._io = io
        self._broker = broker
        self._kept = kept
        self.audience = Audience(io, broker, self.tell)
        # In their order: without a thread, nothing is published off it.
        self._in_order = Strand(pool)

    def publish(self, topic: str, data: Any, key: str | None,
                ) -> Position | None:
        """As :func:`cp_wsrpc.publish`, without a user."""
        broker = self._broker
        if broker.is_shared and self._io.in_loop():
            encode_json(data)       # to raise here what is the caller's
            self._in_order.post(self._publish_off_loop, topic, data, key)
            return None
        return broker.publish(topic, data, key)

    def _publish_off_loop(self, topic: str, data: Any,
                          key: str | None) -> None:
        try:
            self._broker.publish(topic, data, key)
        except Exception as error:  # nobody waits for it but the log
            limited(log, 'publish', logging.ERROR,
                    'what an async or nonblocking method published on %s '
                    'is lost: %s', escape(topic), escape(error))

    def position(self, topic: str) -> Position | None:
        """As :func:`cp_wsrpc.position`."""
        if self._broker.is_shared and self._io.in_loop():
            raise WrongThread(
                'position() asks Redis, for which the I/O loop would wait: '
                'call it in a plain method or page handler')
        return self._broker.position(topic)

    def who(self, topic: str) -> Presence:
        """As :func:`cp_wsrpc.who`."""
        if self._broker.is_shared and self._io.in_loop():
            raise WrongThread('who() waits for the broker: ask in a method '
                              'that is neither async nor nonblocking')
        return self._broker.who(topic)

    # -- calls of all clients ----------------------------------------------

    def broadcast(self, name: str, args: tuple[Any, ...],
                  endpoint: str | None, user: Any) -> None:
        """As :func:`cp_wsrpc.broadcast`."""
        if not self._broker.is_shared:
            self._broadcast_here(name, args, endpoint, user,
                                 MAX_BROADCAST_BYTES)
            return
        text = encode_json({'name': name, 'args': args,
                            'endpoint': endpoint, 'user': user})
        _check_size(len(text), MAX_BROADCAST_BYTES)
        self.tell('broadcast', text)

    def _broadcast_here(self, name: str, args: tuple[Any, ...],
                        endpoint: str | None, user: Any, limit: int) -> None:
        def build(dialect: Dialect, framer: Framer) -> bytes:
            id = NO_ID if dialect.has_notifications else next(server_ids)
            return framer.text_frame(dialect.encode_call(id, name, args))

        frame_for = once_each(build)
        # Encoded here for most peers, so that what is no JSON is told to
        # the caller, not to the log.
        size = len(frame_for(JSONRPC, frames))
        _check_size(size, limit)
        target = None if user is None else Target(user)
        self._io.fan_out(
            lambda: [(self._peers(endpoint, target), frame_for)], size)

    def _peers(self, endpoint: str | None, target: Target | None,
               ) -> list[WebSocket]:
        """Those of an endpoint and a user; the closing ones, too."""
        path = None if endpoint is None else path_of(endpoint)
        if target is None:
            return self._io.peers_at(path)
        return [peer for peer in self._io.sockets_of(target)
                if isinstance(peer, Peer)
                and path in (None, peer.endpoint.url_path)]

    def broadcast_raw(self, message: Any, binary: bool) -> None:
        """Send a raw message to the sockets of plain handlers."""
        opcode, payload = message_of(message, binary)
        self._io.fan_out(
            lambda: [([websocket for websocket in self._io
                       if not isinstance(websocket, Peer)],
                      once_each(lambda _, framer: framer.frame(
                          opcode, payload)))], len(payload))

    # -- between processes -------------------------------------------------

    def tell(self, what: str, text: bytes,
             failed: Callable[[], None] | None = None) -> None:
        """Have all processes ``hear`` of it, by a broker that is shared.

        ``failed`` is called when that has raised, before it is told.
        """
        def tell() -> None:
            try:
                self._broker.tell(what, text)
            except BaseException:  # whatever it was: nobody has been told
                if failed is not None:
                    failed()
                raise

        if self._io.in_loop():
            self._in_order.post(self._tell_off_loop, what, tell)
        else:
            tell()

    def _tell_off_loop(self, what: str, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # nobody waits for it but the log
            limited(log, 'publish', logging.ERROR, 'a %s of an async or '
                    'nonblocking method is lost: %s', what, escape(error))

    def hear(self, what: str, text: bytes) -> None:
        """Some process has told all; on the broker's thread."""
        if what == 'settled':
            self._kept.hear(text)
        elif what == 'broadcast':
            said = _decode_broadcast(text)
            # The call is a few bytes longer than what was let in as such.
            self._broadcast_here(said.name, tuple(said.args), said.endpoint,
                                 said.user, MAX_BROADCAST_BYTES + 100)
        else:
            self.audience.hear(what, text)
