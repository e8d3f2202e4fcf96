"""The recent past of topics, and what a client has missed.  Layer 1, pure.

::

    history = History(read_rules({'news': {'history_size': 100}}))
    history.position('news')            -> Position('kX3p', 0)
    history.append('news', b'{"n":1}')  -> Position('kX3p', 1)
    history.recover('news', Position('kX3p', 0))
        -> Recovery(Position('kX3p', 1), True, [(1, b'{"n":1}')])

A topic with history is a stream: ``offset`` counts its events from 1,
``epoch`` is the random identity of this incarnation of it (protocol.md,
3).  Events are let go from the oldest on, past ``history_size`` of them,
past ``history_bytes``, and ``history_ttl_s`` after they came; ``lost`` is
the offset of the last one let go, so that a gap is held as a whole exactly
when it begins at ``lost`` or after it.

==========  =====================================  ======================
mode        what is kept                           a gap is whole when
==========  =====================================  ======================
stream      every event, within the limits         all of it is held
latest      the newest event of each key           nothing of it was let
                                                   go but for a newer one
volatile    nothing; the topic has no offsets      -
==========  =====================================  ======================

``redis_store`` does the same in Redis; ``tests/test_history.py`` holds one
model against both.
"""
from __future__ import annotations

import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from .errors import ConfigError
from .options import TopicRules

__all__ = ['History', 'MAX_RECOVERED_EVENTS', 'PRESENCE', 'Position',
           'Recovery', 'Retention', 'Stream', 'find_retention',
           'has_presence', 'new_epoch', 'read_rules']

#: A longer gap is answered ``recovered: false``: to load the state anew is
#: less work for both sides then.
MAX_RECOVERED_EVENTS = 300
#: A stream's epoch and offset outlive its events, so that clients of a
#: silent topic do not load their state anew for nothing; but not for ever,
#: nor for any number of names that clients may choose (patterns with *).
FORGET_AFTER_S = 86_400.0
MAX_STREAMS = 100_000
#: Of JSON text, of all streams together: who may publish on a pattern of
#: names fills as many as he likes, 8 MiB each.
MAX_BYTES = 256 << 20
MODES = ('stream', 'latest', 'volatile')


class Position(NamedTuple):
    """Where in a topic's history an event stands."""

    epoch: str
    offset: int


class Recovery(NamedTuple):
    """What a client that comes back with a position is told.

    ``position``    where the stream is now
    ``recovered``   True: ``events`` are all that it has missed; False:
                    something may be missing, and ``events`` is empty;
                    None: it did not say where it had been
    ``events``      ``[(offset, JSON text), ...]``, in order
    """

    position: Position
    recovered: bool | None
    events: Sequence[tuple[int, bytes]] = ()


class Retention(NamedTuple):
    """How much of a topic is kept: one entry of ``engine.wsrpc.topics``."""

    history_size: int = 1000            # events
    history_ttl_s: float = 300.0        # seconds
    history_bytes: int = 8 << 20        # of JSON text
    mode: str = 'stream'
    presence: bool = False              # whether who() may be asked
    presence_grace_s: float = 2.0       # seconds until one has left


#: What begins the name of the topic on which those of another come and go:
#: joins and leaves on ``rpc.presence.room`` are those of ``room``.
PRESENCE = 'rpc.presence.'
#: How much of these is kept.
OF_PRESENCE = Retention(1000, 300.0, 1 << 20)


def read_rules(topics: Any) -> TopicRules:
    """``engine.wsrpc.topics``, checked.

    ``{'news': {'history_size': 100}, 'chat.*': {}, 'mouse': {'mode':
    'volatile'}}``; patterns are those of ``tools.wsrpc.subscribe``, and
    False (or None) in place of the dict keeps a name out of the patterns
    after it.  Raises ConfigError, which names topic and option.
    """
    if topics is None:
        topics = {}
    if not isinstance(topics, Mapping):
        raise ConfigError(
            f'engine.wsrpc.topics = {topics!r}: must be a dict like '
            "{'news': {'history_size': 1000}}")
    rules: dict[str, Any] = {}
    for pattern, given in topics.items():
        if not isinstance(pattern, str) or not pattern:
            raise ConfigError(f'engine.wsrpc.topics: {pattern!r} is no '
                              'topic, nor a pattern of topics')
        rules[pattern] = (False if given is None or given is False
                          else _read_retention(pattern, given))
    return TopicRules({**_rules_of_presence(rules), **rules})


def _rules_of_presence(rules: Mapping[str, Any]) -> dict[str, Any]:
    """The same for the topics on which they come and go.

    They are the first of the patterns, and none if nobody wants any: so no
    other topic's rule is found later for it.
    """
    if not any(rule and rule.presence for rule in rules.values()):
        return {}
    return {**{PRESENCE + pattern: OF_PRESENCE if rule and rule.presence
               else False for pattern, rule in rules.items()},
            PRESENCE + '*': False}


def find_retention(rules: TopicRules, topic: str) -> Retention | None:
    """The rule for a topic; None: it has no history, and no rule."""
    return cast('Retention | None', rules.find(topic))


def has_presence(rules: TopicRules) -> bool:
    """Whether any topic of these has presence."""
    return any(rule is OF_PRESENCE for rule in rules.values())


def _read_retention(pattern: str, given: Any) -> Retention:
    where = f'engine.wsrpc.topics[{pattern!r}]'
    if isinstance(given, Retention):
        given = given._asdict()
    if not isinstance(given, Mapping):
        raise ConfigError(f'{where} = {given!r}: must be a dict of '
                          f'{", ".join(Retention._fields)}')
    for name, value in given.items():
        if name not in Retention._fields:
            raise ConfigError(f'{where}: no option {name!r}; there are '
                              f'{", ".join(Retention._fields)}')
        if name == 'mode':
            if value not in MODES:
                raise ConfigError(f'{where}: mode is one of '
                                  f'{", ".join(MODES)}, not {value!r}')
        elif name == 'presence':
            if not isinstance(value, bool):
                raise ConfigError(f'{where}: presence must be True or '
                                  f'False, not {value!r}')
        elif isinstance(value, bool) or not isinstance(
                value, (int, float) if name.endswith('_s') else int) \
                or not (0 < value < math.inf
                        or (name == 'presence_grace_s' and value == 0)):
            kind = 'number' if name.endswith('_s') else 'whole number'
            least = ('of at least' if name == 'presence_grace_s'
                     else 'above')
            raise ConfigError(f'{where}: {name} must be a {kind} {least} 0, '
                              f'not {value!r}')
    return Retention(**given)


def new_epoch() -> str:
    """A random identity of a stream, ``'kX3pQ9_a'``."""
    return secrets.token_urlsafe(6)


class Stream:
    """One topic's; for :class:`History`, others read ``epoch``, ``offset``.

    ``fresh``   the streams of its rule that hold events
    ``silent``  it stands in ``History._silent`` instead
    ``used``    when it was last written or asked; ``came`` written
    ``size``    bytes of JSON text that it holds
    """

    __slots__ = ('_kept', 'came', 'epoch', 'fresh', 'lost', 'offset',
                 'retention', 'silent', 'size', 'used')

    def __init__(self, retention: Retention,
                 fresh: OrderedDict[str, Stream]) -> None:
        self.retention = retention
        self.fresh = fresh
        self.silent = True
        self.epoch = new_epoch()
        self.offset = self.lost = 0
        self.used = self.came = 0.0
        # By offset, or by key in mode "latest"; oldest first in both.
        self._kept: OrderedDict[Any, tuple[int, float, bytes]] = \
            OrderedDict()
        self.size = 0

    def append(self, text: bytes, key: str | None, now: float) -> int:
        kept = self._kept
        self.offset = offset = self.offset + 1
        self.came = now
        if self.retention.mode == 'latest':
            # First, so that what has expired is lost, whether or not
            # somebody has asked meanwhile.
            self.trim(now)
            before = kept.pop(key, None)
            if before is not None:
                self.size -= len(before[2])
            kept[key] = offset, now, text
        else:
            kept[offset] = offset, now, text
        self.size += len(text)
        self.trim(now)
        return offset

    def trim(self, now: float) -> None:
        """Let go of what is past a limit."""
        most, ttl_s, max_bytes, _, _, _ = self.retention
        kept = self._kept
        while kept:
            offset, came, text = next(iter(kept.values()))
            if (now - came < ttl_s and len(kept) <= most
                    and self.size <= max_bytes):
                break
            kept.popitem(last=False)
            self.size -= len(text)
            self.lost = offset

    def let_go(self) -> None:
        """Keep nothing of what has come so far."""
        self._kept.clear()
        self.size = 0
        self.lost = self.offset

    def recover(self, since: Position | None, max_events: int,
                max_bytes: int) -> Recovery:
        """See :meth:`History.recover`; has been trimmed just now."""
        here = Position(self.epoch, self.offset)
        if since is None:
            return Recovery(here, None)
        if since.epoch != self.epoch \
                or not self.lost <= since.offset <= self.offset:
            return Recovery(here, False)
        missed: list[tuple[int, bytes]] = []
        size = 0
        for offset, _, text in reversed(self._kept.values()):
            if offset <= since.offset:
                break
            size += len(text)
            if len(missed) >= max_events or size > max_bytes:
                return Recovery(here, False)
            missed.append((offset, text))
        missed.reverse()
        return Recovery(here, True, missed)


class History:
    """The streams of one process.

    Not locked: ``backend.MemoryBackend`` calls it under its own lock.

    ``clock``           seconds that never go back
    ``forget_after_s``  a stream that nobody has written or asked for so
                        long is forgotten; the next has another epoch
    ``max_streams``     past it, those longest unused are forgotten
    ``max_bytes``       past it, those longest unwritten lose their events
    """

    def __init__(self, rules: TopicRules, *,
                 clock: Callable[[], float] = time.monotonic,
                 forget_after_s: float = FORGET_AFTER_S,
                 max_streams: int = MAX_STREAMS,
                 max_bytes: int = MAX_BYTES) -> None:
        self._rules = rules
        self._clock = clock
        self._forget_after_s = forget_after_s
        self._max_streams = max_streams
        self._max_bytes = max_bytes
        self._bytes = 0     # of all of _streams
        self._streams: dict[str, Stream] = {}
        # Each stream stands in one of these: in _fresh, by rule, if it
        # may hold events, and these expire in their order since one rule
        # has one TTL; else in _silent, by its last use.  So _sweep looks
        # at the first ones, and no publish pays for the number of topics.
        self._fresh: dict[Retention, OrderedDict[str, Stream]] = {}
        self._silent: OrderedDict[str, Stream] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    def retention(self, topic: str) -> Retention | None:
        """The rule that a topic falls under, or None."""
        return find_retention(self._rules, topic)

    def position(self, topic: str) -> Position | None:
        """Where the topic's stream is; None: the topic has none.

        Makes the stream, if it is not there: who is told a position
        before the first event can ask for what came since.
        """
        stream = self.open(topic)
        if stream is None:
            return None
        return Position(stream.epoch, stream.offset)

    def append(self, topic: str, text: bytes, key: str | None = None,
               ) -> Position | None:
        """Keep an event; its position, None on a topic without history.

        ``key``: whose newest event it is, in mode "latest".
        """
        stream = self.open(topic)
        if stream is None:
            return None
        return self.keep(topic, stream, text, key)

    def open(self, topic: str) -> Stream | None:
        """The topic's stream, for a :meth:`keep` that may follow."""
        return self._find(topic, self._clock())

    def keep(self, topic: str, stream: Stream, text: bytes,
             key: str | None) -> Position:
        """The rest of ``append``, at the time of ``open``."""
        now = stream.used
        self._bytes -= stream.size
        offset = stream.append(text, key, now)
        self._bytes += stream.size
        fresh = stream.fresh
        if stream.silent:
            stream.silent = False
            del self._silent[topic]
            fresh[topic] = stream
        else:
            fresh.move_to_end(topic)
        self._sweep(fresh, now)
        while self._bytes > self._max_bytes:
            if not self._let_go_of_one(stream):
                break
        return Position(stream.epoch, offset)

    def recover(self, topic: str, since: Position | None,
                max_events: int = MAX_RECOVERED_EVENTS,
                max_bytes: int = 2 << 20) -> Recovery | None:
        """What has come after ``since``; None: a topic without history.

        ``recovered`` is True exactly when the epoch is the same, the
        offset not ahead, and every event after it still held and within
        ``max_events`` and ``max_bytes`` (of JSON text).
        """
        now = self._clock()
        stream = self._find(topic, now)
        if stream is None:
            return None
        self._trim(stream, now)
        return stream.recover(since, max_events, max_bytes)

    def _find(self, topic: str, now: float) -> Stream | None:
        stream = self._streams.get(topic)
        if stream is None:
            retention = self.retention(topic)
            if retention is None or retention.mode == 'volatile':
                return None
            self._forget(now, room=1)
            stream = Stream(retention, self._fresh.setdefault(
                retention, OrderedDict()))
            self._streams[topic] = self._silent[topic] = stream
        elif stream.silent:
            self._silent.move_to_end(topic)
        stream.used = now
        return stream

    def _sweep(self, fresh: OrderedDict[str, Stream], now: float) -> None:
        """Let events go of streams that nobody writes any more.

        At most two at a time: an append brings at most one new.
        """
        for _ in range(2):
            topic, stream = next(iter(fresh.items()))
            if now - stream.came < stream.retention.history_ttl_s:
                break
            self._trim(stream, now)
            self._silence(topic, stream)
        if self._silent:
            self._forget(now)

    def _trim(self, stream: Stream, now: float) -> None:
        self._bytes -= stream.size
        stream.trim(now)
        self._bytes += stream.size

    def _silence(self, topic: str, stream: Stream) -> None:
        """It holds no events."""
        stream.silent = True
        del stream.fresh[topic]
        self._silent[topic] = stream

    def _let_go_of_one(self, but: Stream) -> bool:
        """Empty the stream longest unwritten; False: there is no other."""
        firsts = [next(iter(fresh.items())) for fresh in
                  self._fresh.values() if fresh]
        topic, stream = min(firsts, key=lambda first: first[1].came)
        if stream is but:
            return False
        self._bytes -= stream.size
        stream.let_go()
        self._silence(topic, stream)
        return True

    def _forget(self, now: float, room: int = 0) -> None:
        """Forget unused streams, so that ``room`` more may be made."""
        too_many = self._max_streams - room
        while self._silent:
            topic, stream = next(iter(self._silent.items()))
            if (len(self._streams) <= too_many
                    and now - stream.used < self._forget_after_s):
                break
            del self._silent[topic], self._streams[topic]
        while len(self._streams) > too_many:
            longest = max(self._fresh.values(), key=len)
            topic, stream = longest.popitem(last=False)
            self._bytes -= stream.size
            del self._streams[topic]
