"""The client's topics on the wire: joining, events, leaving.  Layer 4.

``client_topics`` says what a reply or an event means for a topic; this
sends what joins it, at each connection anew, and has the listeners'
functions run, one after the other.  All but ``run`` is on the loop's
thread (or, while there is none, under the client's lock).
"""
from __future__ import annotations

import functools
import logging
import random
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from .client_routes import Routes
from .client_socket import ClientSocket
from .client_topics import Listener, Publication, Topic
from .conversation import PendingReply
from .errors import CallTimeout, RemoteError
from .logs import escape, limited

__all__ = ['Subscriptions']

log = logging.getLogger('cp_wsrpc.client')

REJOIN_DELAY_S = 10.0
#: Events that wait for a listener's function.  Past it the connection is
#: given up, and ``onjoin(False)`` tells of the gap: better than memory
#: without end, or a gap that nobody hears of.
MAX_WAITING_EVENTS = 10_000
MAX_WAITING_BYTES = 64 << 20


class _Event(msgspec.Struct):
    """The params of ``rpc.subscription``."""

    subscription: str
    result: Any = None
    offset: Any = None
    epoch: Any = None
    recovered: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode


class Subscriptions:
    """All topics of one client, over all its connections.

    ``request(ws, name, args, kwargs)``: sends a call of the client's own;
    ``call_later(delay_s, function, *args)``: the loop's.  ``_lock`` guards
    ``_bytes``, the size of what waits for the listeners.
    """

    def __init__(self, routes: Routes,
                 request: Callable[..., PendingReply],
                 call_later: Callable[..., object]) -> None:
        self._routes = routes
        self._request = request
        self._call_later = call_later
        self._topics: dict[str, Topic] = {}
        self._by_id: dict[str, Topic] = {}      # those we are in
        self._ws: ClientSocket | None = None    # ready for joining
        self._lock = threading.Lock()
        self._bytes = 0

    def add(self, name: str, listener: Listener) -> None:
        """Follow a topic; joins it, if there is a connection."""
        topic = self._topics.setdefault(name, Topic(name))
        topic.listeners.append(listener)
        if topic.state == 'in':
            topic.admit(listener)
            self._tell_joined(listener)
        else:
            self._join(topic)

    def remove(self, name: str, listener: Listener) -> None:
        """Follow it no more."""
        topic = self._topics.get(name)
        if topic is not None and listener in topic.listeners:
            topic.listeners.remove(listener)
            self._maybe_leave(topic)

    def open(self, ws: ClientSocket) -> None:
        """The queue has gone out: join all."""
        self._ws = ws
        for topic in list(self._topics.values()):
            self._join(topic)

    def lost(self) -> None:
        """The connection has gone."""
        self._ws = None
        self._by_id.clear()
        for topic in list(self._topics.values()):
            topic.leave()
            self._maybe_leave(topic)

    def take_event(self, params: Any, size: int) -> bool:
        """Deliver an event; False when the listeners are too slow."""
        try:
            event = _decode_event(params or b'null')
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            limited(log, 'no event', logging.WARNING,
                    'an event that cannot be read: %s', escape(error))
            return True
        topic = self._by_id.get(event.subscription)
        if topic is not None:           # else we have just left it
            self._take(topic, event, size)
        return (self._bytes <= MAX_WAITING_BYTES
                and self._routes.waiting <= MAX_WAITING_EVENTS)

    def _take(self, topic: Topic, event: _Event, size: int) -> None:
        if event.recovered is False:
            if topic.reset(event.offset, event.epoch):
                self._tell_gap(topic)
            return
        is_gap = topic.is_gap_before(event.offset, event.epoch)
        publication = topic.take(event.result, event.offset, event.epoch)
        if publication is not None:
            if is_gap:
                self._tell_gap(topic)
            self._deliver(topic, publication, size)

    # -- joining and leaving -----------------------------------------------

    def _join(self, topic: Topic) -> None:
        ws = self._ws
        if ws is None or topic.state != 'out' or not topic.listeners:
            return
        topic.state = 'joining'
        args, kwargs = topic.join_params()
        self._request(ws, 'rpc.subscribe', args, kwargs).watch(
            functools.partial(self._joined, ws, topic))

    def _joined(self, ws: ClientSocket, topic: Topic,
                reply: PendingReply) -> None:
        if ws is not self._ws or topic.state != 'joining':
            return              # it will be joined on the next connection
        error = reply.exception()
        missed = topic.adopt(reply.result()) if error is None else None
        if missed is None:
            self._join_failed(topic, error or RemoteError(
                'rpc.subscribe was answered without a subscription'))
            return
        assert topic.id is not None
        self._by_id[topic.id] = topic
        for listener in topic.listeners:
            self._tell_joined(listener)
        for publication in missed:
            self._deliver(topic, publication, 0)
        self._maybe_leave(topic)        # the last listener has gone since

    def _join_failed(self, topic: Topic, error: BaseException) -> None:
        """One attempt a connection, but for faults that pass."""
        topic.state = 'out'
        for listener in topic.listeners:
            if listener.on_error is not None:
                self._routes.post('onerror', listener.on_error, error)
            else:
                log.warning('no subscription to %s: %s', escape(topic.name),
                            escape(error))
        if isinstance(error, CallTimeout) or (
                isinstance(error, RemoteError) and error.retryable):
            self._call_later(REJOIN_DELAY_S * random.uniform(0.5, 1.5),
                             self._join, topic)
        self._maybe_leave(topic)

    def _maybe_leave(self, topic: Topic) -> None:
        """Let go of a topic that nobody listens to."""
        if topic.listeners or topic.state == 'joining':
            return
        if self._topics.get(topic.name) is topic:
            del self._topics[topic.name]
        id = topic.id
        topic.leave()
        if id is not None and self._ws is not None:
            self._by_id.pop(id, None)
            self._request(self._ws, 'rpc.unsubscribe', (id,), {})

    # -- telling the listeners ---------------------------------------------

    def _tell_joined(self, listener: Listener) -> None:
        listener.known = True
        if listener.on_join is not None:
            self._routes.post('onjoin', listener.on_join, listener.recovered)

    def _tell_gap(self, topic: Topic) -> None:
        """Something was lost while we were in: as after a join."""
        for listener in topic.listeners:
            listener.recovered, listener.since = False, None
            self._tell_joined(listener)

    def _deliver(self, topic: Topic, publication: Publication,
                 size: int) -> None:
        for listener in topic.listeners:
            if listener.has(publication):
                continue
            with self._lock:
                self._bytes += size
            self._routes.post(f'a listener of {topic.name}', self._run,
                              listener, publication, size)

    def _run(self, listener: Listener, publication: Publication,
             size: int) -> None:
        with self._lock:
            self._bytes -= size
        listener.deliver(publication)
