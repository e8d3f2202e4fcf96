"""Topics and who hears them.  Layer 2.

A push goes one way: :meth:`Broker.publish` (any thread) encodes the data,
hands it to the backend, which orders it and gives it back through
``deliver``, which has the loop queue it for the subscribers.

A backend is two methods; :class:`MemoryBackend` is the one of a single
process::

    class Backend(Protocol):
        def start(self, deliver: Callable[[Event], None]) -> None: ...
        def publish(self, topic: str, text: bytes) -> Position | None: ...

Subscribers are touched on the loop's thread only, so the fan-out reads
them without a lock; ``publish`` does not look at them.
"""
from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from . import framing
from .conversation import server_ids
from .dialects import Dialect, encode_json
from .errors import MessageTooBig, TooManySubscriptions
from .messages import Event

if TYPE_CHECKING:
    from .peer import Peer

__all__ = ['Backend', 'Broker', 'MemoryBackend', 'Position']

log = logging.getLogger('cp_wsrpc.broker')

MAX_EVENT_BYTES = 4 << 20


class Position(NamedTuple):
    """Where in a topic's history an event stands."""

    epoch: str
    offset: int


class Backend(Protocol):
    """Orders what is published, and gives it to every process."""

    def start(self, deliver: Callable[[Event], None]) -> None:
        """From now on call ``deliver(event)`` for every event, in order."""

    def publish(self, topic: str, text: bytes) -> Position | None:
        """Take JSON text; its position on a topic with history, or None.

        Raises BrokerUnavailable.
        """


class MemoryBackend:
    """One process: what is published is delivered, in order.

    ``_lock`` makes one order of it for all subscribers, whichever threads
    publish; ``deliver`` under it only appends to the loop's deque.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deliver: Callable[[Event], None] = lambda event: None

    def start(self, deliver: Callable[[Event], None]) -> None:
        self._deliver = deliver

    def publish(self, topic: str, text: bytes) -> Position | None:
        with self._lock:
            self._deliver(Event(topic, text))
        return None


class _Topic:
    """Who subscribed, and how often each; loop's thread only."""

    __slots__ = ('id', 'subscribers')

    def __init__(self, id: str) -> None:
        self.id = id
        self.subscribers: dict[Peer, int] = {}


class Broker:
    """The process's topics.

    ``publish``: any thread.  ``subscribe``, ``unsubscribe``, ``leave`` and
    what ``fan_out`` calls back: the loop's thread.

    ``fan_out(targets, size)`` is :meth:`cp_wsrpc.ioloop.IOLoop.fan_out`.
    """

    def __init__(self, backend: Backend, fan_out: Callable[
            [Callable[[], Iterator[tuple[Any, bytes]]], int], None]) -> None:
        self._backend = backend
        self._fan_out = fan_out
        self._topics: dict[str, _Topic] = {}
        self._by_id: dict[str, str] = {}
        # npm rpc-websockets' events: {name: peers that used rpc.on}
        self._listeners: dict[str, dict[Peer, None]] = {}
        self._ids = itertools.count(1)
        backend.start(self._deliver)

    # -- any thread --------------------------------------------------------

    def publish(self, topic: str, data: Any) -> Position | None:
        """Send ``data`` to all who subscribed to ``topic``.

        Its position on a topic with history, else None.  Raises TypeError
        or ValueError for data that is not JSON, MessageTooBig above 4 MiB,
        Overloaded when the loop is far behind, BrokerUnavailable: the
        publisher's to handle; a peer's fault never reaches him.
        """
        text = encode_json(data)
        if len(text) > MAX_EVENT_BYTES:
            raise MessageTooBig(f'{len(text)} bytes in one event; '
                                f'{MAX_EVENT_BYTES} are allowed')
        return self._backend.publish(topic, text)

    def _deliver(self, event: Event) -> None:
        self._fan_out(lambda: self._targets(event), len(event.data))

    # -- the loop's thread -------------------------------------------------

    def _targets(self, event: Event) -> Iterator[tuple[Peer, bytes]]:
        """(peer, frame) for each subscriber; encoded once a dialect."""
        topic = self._topics.get(event.topic)
        if topic is not None:
            event.subscription = topic.id
            frames: dict[Dialect, bytes] = {}
            for peer in topic.subscribers:
                frame = frames.get(peer.dialect)
                if frame is None:
                    frame = frames[peer.dialect] = framing.text_frame(
                        peer.dialect.encode_event(event, next(server_ids)))
                yield peer, frame
        listeners = self._listeners.get(event.topic)
        if listeners:
            frame = framing.text_frame(b'{"notification":%s,"params":[%s]}'
                                       % (encode_json(event.topic),
                                          event.data))
            for peer in listeners:
                yield peer, frame

    def subscribe(self, peer: Peer, topic: str, limit: int) -> str:
        """Add a subscriber; the subscription's id, the same for all.

        A second subscribe of a peer counts up, so that two parts of a page
        may share a connection.  Raises TooManySubscriptions past ``limit``
        topics of one peer.
        """
        found = self._topics.get(topic)
        if found is None or peer not in found.subscribers:
            self._admit(peer, limit)
        if found is None:
            found = _Topic(f's{next(self._ids)}')
            self._topics[topic] = found
            self._by_id[found.id] = topic
        found.subscribers[peer] = found.subscribers.get(peer, 0) + 1
        peer.topics.add(topic)
        return found.id

    def unsubscribe(self, peer: Peer, id: str) -> bool:
        """Take one subscription back; False for an unknown id."""
        name = self._by_id.get(id)
        topic = self._topics.get(name) if name is not None else None
        if name is None or topic is None or peer not in topic.subscribers:
            return False
        topic.subscribers[peer] -= 1
        if not topic.subscribers[peer]:
            self._drop(peer, name, topic)
            peer.topics.discard(name)
        return True

    def listen(self, peer: Peer, name: str, limit: int) -> None:
        """``rpc.on``: pushes as npm rpc-websockets understands them."""
        if name not in peer.heard:
            self._admit(peer, limit)
            self._listeners.setdefault(name, {})[peer] = None
            peer.heard.add(name)

    def unlisten(self, peer: Peer, name: str) -> bool:
        """``rpc.off``; False if it did not listen."""
        listeners = self._listeners.get(name)
        if listeners is None or peer not in listeners:
            return False
        del listeners[peer]
        if not listeners:
            del self._listeners[name]
        peer.heard.discard(name)
        return True

    def leave(self, peer: Peer) -> None:
        """The peer is gone: out of all topics."""
        for name in peer.topics:
            self._drop(peer, name, self._topics[name])
        peer.topics.clear()
        for name in tuple(peer.heard):
            self.unlisten(peer, name)

    def _drop(self, peer: Peer, name: str, topic: _Topic) -> None:
        del topic.subscribers[peer]
        if not topic.subscribers:
            # A name that nobody hears is forgotten: peers that may choose
            # names (patterns with *) must not fill our memory with them.
            del self._topics[name]
            del self._by_id[topic.id]

    @staticmethod
    def _admit(peer: Peer, limit: int) -> None:
        if len(peer.topics) + len(peer.heard) >= limit:
            raise TooManySubscriptions(
                f'{limit} topics a connection are allowed')
