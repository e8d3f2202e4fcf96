"""Who hears a topic, and how one joins it without a hole.  Layer 2.

:class:`Topic` is ``broker``'s record of one; all of it is touched on the
loop's thread only.

**Why joining loses and doubles nothing.**  Who joins with a position is
registered first (``Broker.arrive`), then the history is read
(``Broker.recover`, which gives the position ``p`` up to which it has
been read), then he enters (``Broker.enter`).  An event is in the
history before, or at the moment when, it is in the feed; so

* an event up to ``p`` is in what was read, and is dropped from the feed
  for him whether it comes before he enters or, still being in the air,
  after it;
* an event after ``p`` was put into the feed after he had been registered,
  so the feed brings it: before he enters it is held for him, after it
  goes straight out.

The reply, the events held and those that follow are put into his
out-queue in this order, by the one thread that does all of it.
"""
from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from .history import Position
from .messages import Event

if TYPE_CHECKING:
    from .peer import Peer

__all__ = ['Arrival', 'Topic', 'is_seen']

#: Events of the feed that are held for one who is being let in.  The
#: history is read in milliseconds; past this he is told to come again.
MAX_HELD_EVENTS = 1000
MAX_TRIES = 3
#: In no stream.
NOWHERE = Position('', -1)


class Arrival:
    """A peer on its way into a topic; loop's thread only.

    ``held``     what the feed brought while the history is read; None
                 when it has been read, or nothing is to be held
    ``after``    the position up to which it was read
    ``spoiled``  what is read is of no use: more came than may be held,
                 or it may be of a stream that has ended
    """

    __slots__ = ('_tries', 'after', 'held', 'id', 'peer', 'spoiled',
                 'topic')

    def __init__(self, peer: Peer, topic: str, id: str) -> None:
        self.peer = peer
        self.topic = topic
        self.id = id
        self.held: list[Event] | None = None
        self.after: Position | None = None
        self.spoiled = False
        self._tries = 1

    def start_over(self) -> bool:
        """The history is to be read anew; False if that is no use."""
        self._tries += 1
        # What has no offset is not in the history that is read now.
        self.held = [event for event in self.held or ()
                     if event.offset is None]
        self.spoiled = False
        return self._tries <= MAX_TRIES

    def hold(self, event: Event) -> None:
        assert self.held is not None
        if len(self.held) < MAX_HELD_EVENTS:
            self.held.append(event)
        else:
            self.spoiled = True


class Topic:
    """Who subscribed, and how often each; loop's thread only.

    ``arrivals``   those subscribers who do not get all that the feed
                   brings yet
    ``followers``  those who said where they had been, and so know what
                   a position is
    ``delivered``  where the feed is
    ``told``       the lowest position that anybody was told, as long as
                   the feed has brought nothing
    ``missing``    mode "latest": of those who take no bytes just now, the
                   newest event of each key, by offset
    """

    __slots__ = ('_counters', 'arrivals', 'delivered', 'followers', 'id',
                 'is_latest', 'is_volatile', 'missing', 'subscribers', 'told')

    def __init__(self, id: str, mode: str | None,
                 counters: Counter[str]) -> None:
        self.id = id
        self.is_volatile = mode == 'volatile'
        self.is_latest = mode == 'latest'
        self._counters = counters
        self.missing: dict[Peer, dict[Any, Event]] = {}
        self.subscribers: dict[Peer, int] = {}
        self.arrivals: dict[Peer, Arrival] = {}
        self.followers: set[Peer] = set()
        self.delivered: Position | None = None
        self.told: Position | None = None

    def drop(self, peer: Peer) -> None:
        """He has unsubscribed as often as he subscribed, or is gone."""
        del self.subscribers[peer]
        self.arrivals.pop(peer, None)
        self.missing.pop(peer, None)
        self.followers.discard(peer)

    def note_told(self, position: Position) -> None:
        told = self.told
        if told is None:
            self.told = position
        elif told.epoch != position.epoch:
            # Of two streams: whoever asks what is missing is to be told
            # that nobody knows.
            self.told = NOWHERE
        elif told.offset > position.offset:
            self.told = position

    def targets_of(self, event: Event) -> list[Peer]:
        """Who is to get an event; it is held for others, if need be."""
        if event.offset is not None:
            if is_seen(event, self.delivered):
                return []
            assert event.epoch is not None
            self.delivered = Position(event.epoch, event.offset)
        if self.is_volatile:
            # Who takes no bytes just now gets the next one instead.
            taking = [peer for peer in self.subscribers
                      if not peer.out.refusing]
            skipped = len(self.subscribers) - len(taking)
            if skipped:
                self._counters['pushes_skipped'] += skipped
            return [peer for peer in taking if not self.arrivals
                    or self._may_have(peer, event)]
        if self.is_latest:
            return [peer for peer in self.subscribers
                    if self._may_have(peer, event)
                    and not (peer.out.refusing
                             and self._put_off(peer, event))]
        if not self.arrivals:
            return list(self.subscribers)
        return [peer for peer in self.subscribers
                if self._may_have(peer, event)]

    def targets_among(self, peers: list[Peer], event: Event,
                      ) -> list[Peer]:
        """The same, of an event without an offset that is for them alone."""
        return [peer for peer in peers
                if peer in self.subscribers
                and not (self.is_volatile and peer.out.refusing)
                and self._may_have(peer, event)]

    def reset(self, position: Position) -> list[Peer]:
        """Events were lost, it goes on at ``position``: who must know."""
        self.delivered = position
        self.missing.clear()
        self.read_again()
        return [peer for peer in self.followers
                if peer not in self.arrivals
                or self.arrivals[peer].held is None]

    def read_again(self) -> None:
        """What is being read just now may be from before a loss."""
        for arrival in self.arrivals.values():
            if arrival.held is not None:
                arrival.spoiled = True

    def take_missing(self, peer: Peer) -> list[Event]:
        """What he has not got while he took no bytes."""
        return list(self.missing.pop(peer, {}).values())

    def _put_off(self, peer: Peer, event: Event) -> bool:
        """Keep it until he takes bytes, in place of the one before."""
        missing = self.missing.setdefault(peer, {})
        if missing.pop(event.key, None) is not None:
            self._counters['pushes_skipped'] += 1
        elif len(missing) >= MAX_HELD_EVENTS:
            # So many keys count against him, as events of other topics.
            peer.on_caught_up()
            return False
        missing[event.key] = event
        return True

    def _may_have(self, peer: Peer, event: Event) -> bool:
        arrival = self.arrivals.get(peer)
        if arrival is None:
            return True
        if arrival.held is not None:
            arrival.hold(event)
            return False
        if is_seen(event, arrival.after):
            return False
        del self.arrivals[peer]
        return True


def is_seen(event: Event, position: Position | None) -> bool:
    """Whether an event is of the same stream and not after a position.

    Of two streams of one topic nobody can say which is the newer: then
    the event goes out, and the client sees from its epoch that it cannot
    go on from where it was.
    """
    return (position is not None and event.offset is not None
            and event.epoch == position.epoch
            and event.offset <= position.offset)
