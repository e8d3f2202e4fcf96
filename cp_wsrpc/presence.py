"""Who is on a topic, in all processes.  Layer 2.

::

    loop's thread   broker -> Keeper.enter, leave -> Roster
    wsrpc-presence  Roster.take -> backend.attend -> the joins and leaves
    any thread      who() -> Keeper.who -> backend.who

A process enters in the backend who is on its own topics; the backend knows
those of all.  Whoever is the first (or was the last) connection of a user
on a topic has it publish a join (or a leave) on the topic's
``rpc.presence.``, in the same step: so what ``who`` says at a position, and
the events after that position, are one consistent tale.

The loop only notes what has changed.  The thread takes all that has been
noted since it last looked, so a storm of joins costs few steps of the
backend, and who comes back within ``presence_grace_s`` has never left.
"""
from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .errors import BrokerUnavailable, Overloaded
from .history import Position
from .logs import limited

if TYPE_CHECKING:
    from .backend import Backend

__all__ = ['Change', 'Keeper', 'Presence', 'Present', 'Roster',
           'event_of', 'presence_of']

log = logging.getLogger('cp_wsrpc.presence')

#: Of one user's connections so many are told by their ids, per process.
MAX_LISTED = 100
#: Changes that the backend is given in one step.
BATCH = 100
#: Times in the queue at which there is nothing to be told any more.
_MAX_STALE = 1000
RETRY_S = 0.5
#: Together with a step of the backend below the 2 s of ``who``.
TELLING_WAIT_S = 0.5


class Present(msgspec.Struct, frozen=True):
    """A user who is there.

    ``Present('ada', 2, ['kX3p#7', 'Zq1_#12'])``; ``count``: his
    connections, ``connections``: their ids, 100 of each process at most.
    With one process these are ``connection.id``, with several the id of
    the process stands before it.
    """

    user: Any
    count: int
    connections: list[str]


class Presence(msgspec.Struct, frozen=True):
    """Who is on a topic, each user once; what ``who`` returns.

    ``anonymous``  how many connections without a user
    ``epoch``, ``offset``  the position up to which the topic's
                   ``rpc.presence.`` has been counted in: from there on its
                   joins and leaves tell what changes
    """

    users: list[Present]
    anonymous: int
    epoch: str
    offset: int


class Change(NamedTuple):
    """What a process has of one user on one topic, now.

    ``user`` is a :func:`cp_wsrpc.users.key_of`; ``b''``: all anonymous.
    ``number``: how many connections; ``ids`` of some of them.
    """

    topic: str
    user: bytes
    number: int
    ids: tuple[str, ...]


def event_of(user: bytes, is_join: bool) -> bytes:
    """The text of a join or a leave, ``{"event":"join","user":"ada"}``."""
    return b'{"event":"%s","user":%s}' % (
        b'join' if is_join else b'leave', user)


def presence_of(entries: Iterable[tuple[bytes, int, Iterable[str]]],
                position: Position) -> Presence:
    """Put (user, number, ids) of all processes together."""
    anonymous = 0
    found: dict[bytes, tuple[int, list[str]]] = {}
    for user, number, ids in entries:
        if not user:
            anonymous += number
            continue
        before, listed = found.get(user, (0, []))
        found[user] = before + number, [*listed, *ids]
    return Presence([
        Present(msgspec.json.decode(user), *found[user])
        for user in sorted(found)], anonymous, *position)


class _Seat:
    """A user of this process on one topic."""

    __slots__ = ('due', 'ids', 'told')

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}
        #: what the backend knows: (number, ids)
        self.told: tuple[int, tuple[str, ...]] = (0, ())
        #: when it is to be told anew; None: it knows all
        self.due: float | None = None

    def now(self) -> tuple[int, tuple[str, ...]]:
        return (len(self.ids),
                tuple(itertools.islice(self.ids, MAX_LISTED)))


class Roster:
    """Who is on the topics of this process, and who knows.

    Any thread; ``_lock`` guards all.  ``node`` begins the ids.
    """

    def __init__(self, node: str = '', clock: Callable[[], float]
                 = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self._lock = threading.Lock()
        self._seats: dict[tuple[str, bytes], _Seat] = {}
        # (due, number, whose); what has been put off stands there twice.
        self._queue: list[tuple[float, int, tuple[str, bytes]]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._seats)

    def enter(self, topic: str, user: bytes, id: str) -> None:
        """A connection has come."""
        whose = topic, user
        with self._lock:
            seat = self._seats.get(whose)
            if seat is None:
                seat = self._seats[whose] = _Seat()
            seat.ids[self._node + id] = None
            self._note(whose, seat, self._clock())

    def leave(self, topic: str, user: bytes, id: str,
              grace_s: float) -> None:
        """It has gone; its user, if it was the last, in ``grace_s``."""
        whose = topic, user
        with self._lock:
            seat = self._seats.get(whose)
            if seat is not None:
                seat.ids.pop(self._node + id, None)
                self._note(whose, seat, self._clock() + (
                    grace_s if user and not seat.ids else 0))

    def take(self, limit: int = BATCH) -> list[Change]:
        """What is to be told now; then ``confirm`` or ``give_back``."""
        now = self._clock()
        changes: list[Change] = []
        with self._lock:
            queue = self._queue
            while queue and queue[0][0] <= now and len(changes) < limit:
                due, _, whose = heapq.heappop(queue)
                seat = self._seats.get(whose)
                if seat is None or seat.due != due:
                    continue
                seat.due = None
                if seat.now() != seat.told:
                    changes.append(Change(*whose, *seat.now()))
                elif not seat.ids:
                    del self._seats[whose]
        return changes

    def confirm(self, changes: Iterable[Change]) -> None:
        """The backend knows."""
        with self._lock:
            for topic, user, number, ids in changes:
                whose = topic, user
                seat = self._seats[whose]
                seat.told = number, ids
                if not number and not seat.ids and seat.due is None:
                    del self._seats[whose]

    def give_back(self, changes: Iterable[Change]) -> None:
        """It could not be told, perhaps: to be told again."""
        with self._lock:
            now = self._clock()
            for topic, user, _, _ in changes:
                whose = topic, user
                seat = self._seats[whose]
                # Not what it was before: nobody knows that now.
                seat.told = -1, ()
                if seat.due is None:
                    self._note(whose, seat, now)

    def tell_anew(self) -> None:
        """The backend knows nothing of us any more."""
        with self._lock:
            now = self._clock()
            for whose, seat in self._seats.items():
                seat.told = 0, ()
                if seat.due is None:
                    self._note(whose, seat, now)

    def wait_s(self) -> float | None:
        """Seconds until there is something to take; None: nothing."""
        with self._lock:
            if not self._queue:
                return None
            return max(0.0, self._queue[0][0] - self._clock())

    def _note(self, whose: tuple[str, bytes], seat: _Seat,
              due: float) -> None:
        assert self._lock.locked()
        if seat.due != due:
            seat.due = due
            if len(self._queue) > 2 * len(self._seats) + _MAX_STALE:
                # One who comes and goes all the time; 200 000 entries of
                # him stood here within 3 s.
                self._queue = [entry for entry in self._queue
                               if self._is_next(entry)]
                heapq.heapify(self._queue)
            heapq.heappush(self._queue, (due, next(self._numbers), whose))

    def _is_next(self, entry: tuple[float, int, tuple[str, bytes]]) -> bool:
        """Whether a seat waits for this time, and not for another."""
        seat = self._seats.get(entry[2])
        return seat is not None and seat.due == entry[0]


class Keeper:
    """Has the backend know who is on the topics of this process.

    ``enter``, ``leave``: the loop's thread, never waiting.  ``who``: any
    thread; the loop's only where the backend is not shared.  ``_telling``
    makes one order of what the backend is told; telling may mean to wait
    for a service, so nobody waits for it without a limit.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._roster = Roster(backend.node)
        self._telling = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._is_unknown = False
        self._told_at = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True,
                                        name='wsrpc-presence')

    def start(self) -> None:
        self._thread.start()

    def depart(self) -> None:
        """Have all of this process leave, at once; does not wait."""
        self._stopping.set()
        self._wake.set()

    def stop(self, timeout_s: float) -> None:
        """All have left, and the thread has ended; or the time is over."""
        self.depart()
        self._thread.join(timeout_s)

    def enter(self, topic: str, user: bytes, id: str) -> None:
        """A connection has come."""
        self._roster.enter(topic, user, id)
        if not self._wake.is_set():
            self._wake.set()

    def leave(self, topic: str, user: bytes, id: str,
              grace_s: float) -> None:
        """It has gone; its user, if it was the last, in ``grace_s``."""
        self._roster.leave(topic, user, id, grace_s)
        if not self._wake.is_set():
            self._wake.set()

    def who(self, topic: str) -> Presence:
        """Who is there, after all that this process has noted so far.

        Raises BrokerUnavailable.
        """
        self._tell_all()
        return self._backend.who(topic)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            was_unknown, self._is_unknown = self._is_unknown, False
            if was_unknown:
                self._roster.tell_anew()
            try:
                if self._wait_for_beat_s() == 0:
                    self._tell_some(is_beat=True)
                self._tell_all()
            except (BrokerUnavailable, Overloaded) as error:
                limited(log, 'presence', logging.WARNING, 'who is on which '
                        'topic cannot be told: %s', error)
                self._stopping.wait(RETRY_S)
                continue
            except Exception:
                # Whatever it is, others are not to be lost for ever by it.
                log.exception('presence failed')
                self._stopping.wait(RETRY_S)
                continue
            if was_unknown and self._is_unknown:
                self._stopping.wait(RETRY_S)
            else:
                waits = self._wait_for_beat_s(), self._roster.wait_s()
                self._wake.wait(min(
                    (s for s in waits if s is not None), default=None))
        # Not before who() of a method that still runs has told its last.
        is_ours = self._telling.acquire(timeout=TELLING_WAIT_S)
        try:
            self._backend.depart()
        except BrokerUnavailable as error:
            log.warning('the others will find out by themselves that this '
                        'process has gone: %s', error)
        finally:
            if is_ours:
                self._telling.release()

    def _wait_for_beat_s(self) -> float | None:
        """Seconds until the backend has to hear of us; None: never."""
        beat_s = self._backend.heartbeat_s
        return None if beat_s is None else max(
            0.0, self._told_at + beat_s - time.monotonic())

    def _tell_all(self) -> None:
        while self._tell_some():
            pass

    def _tell_some(self, is_beat: bool = False) -> bool:
        """Tell what is due; False: there was nothing.

        ``is_beat``: also when there is nothing.
        """
        if not self._telling.acquire(timeout=TELLING_WAIT_S):
            raise BrokerUnavailable('the broker has not answered for '
                                    f'{TELLING_WAIT_S} s')
        try:
            if self._stopping.is_set():
                return False        # else who has left would be there again
            changes = self._roster.take()
            if not changes and not is_beat:
                return False
            try:
                is_known = self._backend.attend(changes)
            except BaseException:   # nobody knows what was told
                self._roster.give_back(changes)
                raise
            self._roster.confirm(changes)
            self._told_at = time.monotonic()
            if not is_known:
                self._is_unknown = True
                self._wake.set()
            return True
        finally:
            self._telling.release()
