"""What orders and keeps the events of topics.  Layer 2.

::

    broker.publish -> backend.publish -> feed.deliver (the broker again)

:class:`Backend` is the contract, :class:`Feed` what it feeds;
:class:`MemoryBackend` is the one of a single process, ``redis_broker`` has
that of several.
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from .errors import Overloaded
from .history import (MAX_RECOVERED_EVENTS, PRESENCE, History, Position,
                      Recovery, has_presence)
from .messages import Event
from .options import TopicRules
from .presence import Change, Presence, event_of, presence_of

__all__ = ['Backend', 'Feed', 'MAX_EVENT_BYTES', 'MemoryBackend', 'resync']

MAX_EVENT_BYTES = 4 << 20


class Feed(Protocol):
    """What a backend tells a process of; :class:`Broker` implements it.

    From one thread at a time, in the order of the feed.
    """

    def deliver(self, event: Event) -> None:
        """Give an event to those who subscribed.  Raises Overloaded."""

    def hear(self, what: str, text: bytes) -> None:
        """What :meth:`Backend.tell` was given in some process."""

    def known_positions(self) -> list[tuple[str, Position]]:
        """(topic, up to where it was delivered), for each with hearers.

        Waits until all has been delivered that was given before.  Raises
        Overloaded if that takes too long.
        """

    def reset(self, topic: str, position: Position) -> None:
        """A topic's events between are lost: tell its subscribers."""


class Backend(Protocol):
    """Orders what is published, keeps it, and gives it to every process."""

    #: ``publish``, ``recover`` and ``tell`` may wait for a service, so
    #: they are not called on the loop's thread; there are more processes.
    is_shared: bool

    def start(self, feed: Feed) -> None:
        """From now on call ``feed.deliver(event)`` for every event."""

    def stop(self, timeout_s: float) -> None:
        """Call nothing any more; threads have so long to end."""

    def mode(self, topic: str) -> str | None:
        """``'stream'``, ``'latest'``, ``'volatile'``; None: no rule."""

    def publish(self, topic: str, text: bytes, key: str | None,
                ) -> Position | None:
        """Take JSON text; its position on a topic with history, or None.

        Raises BrokerUnavailable, Overloaded.
        """

    def recover(self, topic: str, since: Position | None, max_events: int,
                max_bytes: int) -> Recovery | None:
        """As :meth:`cp_wsrpc.history.History.recover`.

        Raises BrokerUnavailable.
        """

    def tell(self, what: str, text: bytes) -> None:
        """Have every process ``hear(what, text)``, this one too."""

    # -- who is on which topic (``presence``) ------------------------------

    #: whether any topic has presence
    has_presence: bool
    #: this process, as it begins the ids of its connections
    node: str
    #: ``attend`` is to be called at least this often; None: never
    heartbeat_s: float | None

    def presence_grace_s(self, topic: str) -> float | None:
        """Seconds until one has left it; None: it has no presence."""

    def attend(self, changes: Sequence[Change]) -> bool:
        """Enter what has changed in this process; publish who came, left.

        To tell the same again does nothing.  False: nothing was known of
        this process, it is to tell all.  Raises BrokerUnavailable,
        Overloaded.
        """

    def depart(self) -> None:
        """All of this process have left.  Raises BrokerUnavailable."""

    def who(self, topic: str) -> Presence:
        """Those of all processes.  Raises BrokerUnavailable."""


class MemoryBackend:
    """One process: what is published is delivered, in order.

    ``_lock`` guards the history and makes one order of it for all
    subscribers, whichever threads publish; ``deliver`` under it only
    appends to the loop's deque.
    """

    is_shared = False
    node = ''
    heartbeat_s: float | None = None

    def __init__(self, topics: TopicRules | None = None) -> None:
        self._lock = threading.Lock()
        rules = topics or TopicRules()
        self._history = History(rules)
        self.has_presence = has_presence(rules)
        # Guards _present, and that it says what the events say; is taken
        # before _lock.
        self._present_lock = threading.Lock()
        self._present: dict[str, dict[bytes, Change]] = {}
        self._feed: Feed | None = None
        #: events of volatile topics that the loop was too late for
        self.dropped = 0

    def start(self, feed: Feed) -> None:
        self._feed = feed

    def stop(self, timeout_s: float) -> None:
        self._feed = None

    def mode(self, topic: str) -> str | None:
        retention = self._history.retention(topic)
        return retention.mode if retention is not None else None

    def publish(self, topic: str, text: bytes, key: str | None = None,
                ) -> Position | None:
        with self._lock:
            feed = self._feed
            if feed is None:
                return None
            stream = self._history.open(topic)
            if stream is None:
                self._deliver_unkept(feed, Event(topic, text))
                return None
            # First, since it may raise Overloaded: then nothing is kept,
            # and no offset given away that nobody would ever see.
            feed.deliver(Event(topic, text, stream.offset + 1, stream.epoch,
                               key=key))
            return self._history.keep(topic, stream, text, key)

    def _deliver_unkept(self, feed: Feed, event: Event) -> None:
        try:
            feed.deliver(event)
        except Overloaded:
            if self.mode(event.topic) != 'volatile':
                raise
            self.dropped += 1

    def recover(self, topic: str, since: Position | None,
                max_events: int = MAX_RECOVERED_EVENTS,
                max_bytes: int = 2 << 20) -> Recovery | None:
        with self._lock:
            return self._history.recover(topic, since, max_events,
                                         max_bytes)

    def tell(self, what: str, text: bytes) -> None:
        if self._feed is not None:
            self._feed.hear(what, text)

    def presence_grace_s(self, topic: str) -> float | None:
        retention = self._history.retention(topic)
        return (retention.presence_grace_s if retention is not None
                and retention.presence else None)

    def attend(self, changes: Sequence[Change]) -> bool:
        with self._present_lock:
            for change in changes:
                topic, user, number, _ = change
                present = self._present.get(topic, {})
                is_there = number > 0
                if user and is_there != (user in present):
                    # First, as it may raise Overloaded.
                    self.publish(PRESENCE + topic, event_of(user, is_there))
                if is_there:
                    present[user] = change
                    self._present[topic] = present
                elif present.pop(user, None) and not present:
                    del self._present[topic]
        return True

    def depart(self) -> None:
        with self._present_lock:
            self._present.clear()

    def who(self, topic: str) -> Presence:
        with self._present_lock:
            present = list(self._present.get(topic, {}).values())
            found = self.recover(PRESENCE + topic, None)
        assert found is not None
        return presence_of((change[1:] for change in present),
                           found.position)


def resync(recover: Callable[[str, Position | None, int, int],
                             Recovery | None], feed: Feed) -> None:
    """Something of the feed was lost: bring all topics up to date.

    What is missing is delivered from the history where that has it all,
    else the subscribers are told.  For backends, in the order of the feed;
    what of it comes again is dropped as seen.  ``recover`` is as
    :meth:`Backend.recover`.  Raises as it and :meth:`Feed.deliver` do; then
    it is to be done again.
    """
    for topic, since in feed.known_positions():
        found = recover(topic, since, MAX_RECOVERED_EVENTS,
                        MAX_EVENT_BYTES)
        if found is None:
            continue
        if not found.recovered:
            feed.reset(topic, found.position)
        for offset, text in found.events:
            feed.deliver(Event(topic, text, offset, found.position.epoch,
                               key=offset))
