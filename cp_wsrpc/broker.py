"""Topics and who hears them.  Layer 2.

A push goes one way: :meth:`Broker.publish` (any thread) encodes the data,
hands it to the backend (``backend``), which orders it, keeps it and gives
it back through :meth:`Broker.deliver`, which has the loop queue it for the
subscribers.

Subscribers are touched on the loop's thread only (``topics``), so the
fan-out reads them without a lock.
"""
from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .backend import MAX_EVENT_BYTES, Backend
from .conversation import server_ids
from .dialects import JSONRPC
from .errors import Busy, MessageTooBig, Overloaded, TooManySubscriptions
from .fanout import FrameFor, Targets, once_each
from .history import MAX_RECOVERED_EVENTS, Position, Recovery
from .json_text import encode_json
from .messages import NO_ID, Event
from .presence import Keeper, Presence
from .topics import Arrival, Topic, is_seen

if TYPE_CHECKING:
    from .peer import Peer

__all__ = ['Broker', 'encode_event']

#: Longer than it takes the loop to spread all that may wait for it.
LOOP_WAIT_S = 5.0


def encode_event(data: Any, key: str | None = None) -> bytes:
    """The text of an event; raises as :meth:`Broker.publish` does."""
    if key is not None and not isinstance(key, str):
        raise TypeError(f'key = {key!r}: must be a str')
    text = encode_json(data)
    if len(text) > MAX_EVENT_BYTES:
        raise MessageTooBig(f'{len(text)} bytes in one event; '
                            f'{MAX_EVENT_BYTES} are allowed')
    return text


class Broker:
    """The process's topics; the :class:`cp_wsrpc.backend.Feed` of it.

    ``publish``, ``recover``, ``tell`` and what a ``Feed`` has: any thread.
    The rest, and what ``fan_out`` calls back: the loop's thread.

    ``fan_out(targets, size)`` is :meth:`cp_wsrpc.ioloop.IOLoop.fan_out`;
    ``heard(what, text)`` is called with what some process has told all.
    """

    def __init__(self, backend: Backend,
                 fan_out: Callable[[Targets, int], None],
                 heard: Callable[[str, bytes], None] | None = None,
                 counters: Counter[str] | None = None) -> None:
        self._backend = backend
        self._counters = Counter() if counters is None else counters
        self._fan_out = fan_out
        self._heard = heard
        self._topics: dict[str, Topic] = {}
        self._by_id: dict[str, str] = {}
        # npm rpc-websockets' events: {name: peers that used rpc.on}
        self._listeners: dict[str, dict[Peer, None]] = {}
        self._ids = itertools.count(1)
        self._keeper = Keeper(backend) if backend.has_presence else None

    def start(self) -> None:
        """Have the backend feed us; when the loop takes events."""
        self._backend.start(self)
        if self._keeper is not None:
            self._keeper.start()

    def depart(self) -> None:
        """All connections are told to go: nobody is on any topic."""
        if self._keeper is not None:
            self._keeper.depart()

    def stop(self, timeout_s: float) -> None:
        """Let go of the backend, in so many seconds at most."""
        ends = time.monotonic() + timeout_s
        if self._keeper is not None:
            self._keeper.stop(timeout_s)
        self._backend.stop(max(0.0, ends - time.monotonic()))

    # -- any thread --------------------------------------------------------

    @property
    def is_shared(self) -> bool:
        """Whether others hear of it too, and it may have to be waited for.

        ``publish``, ``recover`` and ``tell`` are not for the loop's thread
        then.
        """
        return self._backend.is_shared

    def publish(self, topic: str, data: Any, key: str | None = None,
                ) -> Position | None:
        """Send ``data`` to all who subscribed to ``topic``.

        Its position on a topic with history, else None.  ``key``: in mode
        "latest", whose newest event it is.  Raises TypeError or ValueError
        for data that is not JSON, MessageTooBig above 4 MiB, Overloaded
        when the loop is far behind, BrokerUnavailable: the publisher's to
        handle; a peer's fault never reaches him.
        """
        return self._backend.publish(topic, encode_event(data, key), key)

    def recover(self, topic: str, since: Position | None,
                max_bytes: int) -> Recovery | None:
        """What a joining client is told; None: a topic without history.

        ``max_bytes``: half its out-queue; 0: only whether it has missed
        anything.  Raises BrokerUnavailable.
        """
        return self._backend.recover(
            topic, since, MAX_RECOVERED_EVENTS if max_bytes else 0,
            max_bytes)

    def position(self, topic: str) -> Position | None:
        """Where a topic is; None: it has no history.

        Raises BrokerUnavailable.
        """
        found = self._backend.recover(topic, None, 0, 0)
        return found.position if found is not None else None

    def must_wait(self, topic: str) -> bool:
        """Whether ``recover`` of this topic may have to wait."""
        return (self._backend.is_shared and self._backend.mode(topic)
                in ('stream', 'latest'))

    def tell(self, what: str, text: bytes) -> None:
        """Have ``heard(what, text)`` called in all processes; JSON text.

        Raises BrokerUnavailable.
        """
        self._backend.tell(what, text)

    def has_presence(self, topic: str) -> bool:
        """Whether ``who`` may be asked of it."""
        return self._backend.presence_grace_s(topic) is not None

    def who(self, topic: str) -> Presence:
        """Who is on a topic, in all processes.

        Raises ValueError for a topic without presence, BrokerUnavailable.
        """
        if self._keeper is None or not self.has_presence(topic):
            raise ValueError(
                f"the topic {topic!r} has no presence: set "
                f"engine.wsrpc.topics = {{{topic!r}: {{'presence': True}}}}")
        return self._keeper.who(topic)

    # -- for the backend: any thread ---------------------------------------

    def deliver(self, event: Event) -> None:
        # A look without a lock, which spares the loop what nobody hears.
        # Who joins is registered before the history is read for him: if
        # he is not seen here, the event is in what he reads.
        if event.topic in self._topics or event.topic in self._listeners:
            self._fan_out(lambda: self._targets(event), len(event.data))

    def deliver_to(self, find: Callable[[], list[Any]], event: Event,
                   ) -> None:
        """Give an event to those of ``find()`` who have subscribed.

        ``find`` is called on the loop's thread.  The event has no offset,
        so it is in nobody's way who is not meant.
        """
        if event.topic in self._topics or event.topic in self._listeners:
            self._fan_out(lambda: self._targets(event, find()),
                          len(event.data))

    def hear(self, what: str, text: bytes) -> None:
        if self._heard is not None:
            self._heard(what, text)

    def known_positions(self) -> list[tuple[str, Position]]:
        found: list[tuple[str, Position]] = []
        done = threading.Event()

        def look() -> Iterator[tuple[list[Peer], FrameFor]]:
            # In turn with the events that were delivered before.
            for name, topic in self._topics.items():
                topic.read_again()
                known = topic.delivered or topic.told
                if known is not None:
                    found.append((name, known))
            done.set()
            return iter(())

        self._fan_out(look, 0)
        if not done.wait(LOOP_WAIT_S):
            raise Overloaded('the loop has not come to it in time')
        return found

    def reset(self, topic: str, position: Position) -> None:
        self._fan_out(lambda: self._told_of_reset(topic, position), 0)

    # -- the loop's thread -------------------------------------------------

    def _targets(self, event: Event, among: list[Peer] | None = None,
                 ) -> Iterator[tuple[list[Peer], FrameFor]]:
        """Who is to get an event; ``among``: nobody but those."""
        topic = self._topics.get(event.topic)
        if topic is not None:
            event.subscription = topic.id
            yield (topic.targets_of(event) if among is None
                   else topic.targets_among(among, event),
                   once_each(lambda dialect, framer: framer.text_frame(
                       dialect.encode_event(event, next(server_ids)))))
        listeners = self._listeners.get(event.topic)
        if listeners:
            # One text, whatever they speak.
            frame_for = once_each(lambda _, framer: framer.text_frame(
                _notification(event)))
            yield ([peer for peer in (listeners if among is None else among)
                    if peer in listeners],
                   lambda _, framer: frame_for(JSONRPC, framer))

    def _told_of_reset(self, name: str, position: Position,
                       ) -> Iterator[tuple[list[Peer], FrameFor]]:
        """Those whose events between are lost, and how they are told."""
        topic = self._topics.get(name)
        if topic is None:
            return
        said = {'subscription': topic.id, 'topic': name,
                'recovered': False, **position._asdict()}
        yield topic.reset(position), once_each(
            lambda dialect, framer: framer.text_frame(dialect.encode_call(
                NO_ID if dialect.has_notifications else next(server_ids),
                'rpc.subscription', kwargs=said)))

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
            found = Topic(f's{next(self._ids)}',
                          self._backend.mode(topic), self._counters)
            self._topics[topic] = found
            self._by_id[found.id] = topic
        found.subscribers[peer] = found.subscribers.get(peer, 0) + 1
        if topic not in peer.topics:
            peer.topics.add(topic)
            if self._keeper is not None:
                self._note_entered(peer, topic)
        return found.id

    def arrive(self, peer: Peer, topic: str, limit: int,
               follows: bool = True) -> Arrival:
        """Register a subscriber who is not to get anything yet.

        ``follows``: he says where he has been, and knows positions.

        To be followed by :meth:`recover` (on any thread) and then
        :meth:`enter`, or :meth:`turn_away`.  Raises as ``subscribe``.
        """
        was_there = topic in peer.topics
        arrival = Arrival(peer, topic, self.subscribe(peer, topic, limit))
        found = self._topics[topic]
        if follows:
            found.followers.add(peer)
        if not was_there:
            # A second subscribe holds nothing: the events are the first
            # one's too.
            arrival.held = []
            found.arrivals[peer] = arrival
        return arrival

    def enter(self, arrival: Arrival, found: Recovery | None,
              ) -> list[bytes] | None:
        """The history has been read; from now on he gets all that comes.

        The frames that are to go out at once, after the reply, which the
        caller sends; None if the history is to be read once more.  Raises
        Busy when that has been of no use.
        """
        peer, held = arrival.peer, arrival.held
        topic = self._topics.get(arrival.topic)
        if topic is None or peer not in topic.subscribers:
            return []               # he has gone
        if found is not None:
            topic.note_told(found.position)
        if held is None or topic.arrivals.get(peer) is not arrival:
            return []
        if arrival.spoiled and found is None:
            held = []               # nothing to read: it begins here
        elif arrival.spoiled:
            if not arrival.start_over():
                raise Busy('too much has come while this one joined')
            return None
        arrival.held = None
        if found is None:
            del topic.arrivals[peer]
        else:
            arrival.after = found.position
        return [peer.framer.text_frame(
                    peer.dialect.encode_event(event, next(server_ids)))
                for event in held if not is_seen(event, arrival.after)]

    def catch_up(self, peer: Peer) -> None:
        """He takes bytes again: what was put off for him."""
        for name in peer.topics:
            topic = self._topics[name]
            for event in topic.take_missing(peer) if topic.missing else ():
                event.subscription = topic.id
                peer.enqueue(peer.framer.text_frame(
                    peer.dialect.encode_event(event, next(server_ids))))

    def turn_away(self, arrival: Arrival) -> None:
        """It came to nothing."""
        self.unsubscribe(arrival.peer, arrival.id)

    def unsubscribe(self, peer: Peer, id: str) -> bool:
        """Take one subscription back; False for an unknown id."""
        name = self._by_id.get(id)
        topic = self._topics.get(name) if name is not None else None
        if name is None or topic is None or peer not in topic.subscribers:
            return False
        topic.subscribers[peer] -= 1
        if not topic.subscribers[peer]:
            peer.topics.discard(name)
            self._drop(peer, name, topic)
        return True

    def listen(self, peer: Peer, name: str, limit: int) -> None:
        """``rpc.on``: pushes as npm rpc-websockets understands them."""
        if name not in peer.heard:
            self._admit(peer, limit)
            self._listeners.setdefault(name, {})[peer] = None
            peer.heard.add(name)
            if self._keeper is not None:
                self._note_entered(peer, name)

    def unlisten(self, peer: Peer, name: str) -> bool:
        """``rpc.off``; False if it did not listen."""
        listeners = self._listeners.get(name)
        if listeners is None or peer not in listeners:
            return False
        del listeners[peer]
        if not listeners:
            del self._listeners[name]
        peer.heard.discard(name)
        if self._keeper is not None:
            self._maybe_note_left(peer, name)
        return True

    def leave(self, peer: Peer) -> None:
        """The peer is gone: out of all topics."""
        while peer.topics:
            name = peer.topics.pop()
            self._drop(peer, name, self._topics[name])
        for name in tuple(peer.heard):
            self.unlisten(peer, name)

    def _drop(self, peer: Peer, name: str, topic: Topic) -> None:
        topic.drop(peer)
        if not topic.subscribers:
            # A name that nobody hears is forgotten: peers that may choose
            # names (patterns with *) must not fill our memory with them.
            del self._topics[name]
            del self._by_id[topic.id]
        if self._keeper is not None:
            self._maybe_note_left(peer, name)

    def _note_entered(self, peer: Peer, name: str) -> None:
        assert self._keeper is not None
        if self.has_presence(name):
            self._keeper.enter(name, peer.user_key, peer.id)

    def _maybe_note_left(self, peer: Peer, name: str) -> None:
        """Unless it hears the topic in the other way, too."""
        assert self._keeper is not None
        grace_s = self._backend.presence_grace_s(name)
        if grace_s is not None and name not in peer.topics \
                and name not in peer.heard:
            self._keeper.leave(name, peer.user_key, peer.id, grace_s)

    @staticmethod
    def _admit(peer: Peer, limit: int) -> None:
        if len(peer.topics) + len(peer.heard) >= limit:
            raise TooManySubscriptions(
                f'{limit} topics a connection are allowed')


def _notification(event: Event) -> bytes:
    """As those get it who used ``rpc.on``."""
    return b'{"notification":%s,"params":[%s]}' % (
        encode_json(event.topic), event.data)
