"""Several processes that push as one, through Redis.  Layer 3.

``engine.wsrpc.broker = 'redis://localhost:6379/0'`` makes
:class:`RedisBackend` the backend of ``broker``; a program that is no
server uses :class:`Publisher`.  What stands in Redis: ``redis_store``.

Publishing is one script, in the caller's thread.  The thread
``wsrpc-redis`` reads the feed of all processes with XREAD and gives it to
the broker; nothing is delivered that did not come from there, so the
order is one for all.  (PUB/SUB would lose silently when a buffer runs
over.)

The entries of the feed are numbered, and the feed has an identity:

======================================  ==================================
the reader sees                         and does
======================================  ==================================
the next number                         deliver it
a number further on (it was too slow,   resync: deliver from the history
or away for too long)                   what each topic misses; where that
                                        is not whole, tell the subscribers
another identity (Redis has lost its    the same
data, others have seen it first)
a number that was there already (Redis  give the feed another identity,
came back with older data), or another  which ends all streams; the same
Redis that does not know our place
what is not ours                        count and skip it
no answer                               come back, 50 ms to 1 s later;
                                        publishing fails at once until then
======================================  ==================================

A Redis that crashes may have lost events of the last instant which nobody
has read yet, as its ``appendfsync`` says: then nobody can tell.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import redis

from .backend import Feed, resync
from .broker import encode_event
from .errors import BrokerUnavailable, CloseCode, Overloaded
from .frame_rules import check_close_code
from .frames import close_frame
from .history import (MAX_RECOVERED_EVENTS, Position, Recovery, Retention,
                      find_retention, has_presence, new_epoch, read_rules)
from .logs import escape, limited
from .messages import Event
from .options import TopicRules
from .presence import Change, Presence
from .redis_presence import HEARTBEAT_S, PresenceStore
from .redis_store import Entry, FeedPlace, RedisStore, connect, read_entry
from .users import Target

__all__ = ['Publisher', 'RedisBackend']

log = logging.getLogger('cp_wsrpc.redis')

#: How long one XREAD waits; then it is looked whether the feed is still
#: the same, for an empty Redis says nothing by itself.
BLOCK_S = 1.0
#: More than that without an answer: Redis is away.
READ_TIMEOUT_S = BLOCK_S + 1.5
BATCH = 200
RETRY_S = 0.05
MAX_RETRY_S = 1.0
#: The loop has 10 000 events to spread: it is given this time for some.
OVERLOAD_PAUSE_S = 0.02
START_WAIT_S = 3.0


class RedisBackend:
    """What ``broker`` needs, for any number of processes.

    ``start`` and ``stop`` are the plugin's; ``publish``, ``recover`` and
    ``tell`` any thread's but the loop's.
    """

    is_shared = True
    heartbeat_s: float | None = HEARTBEAT_S

    def __init__(self, url: str, topics: TopicRules,
                 given: Any = None) -> None:
        """``given``: ``topics`` as they were written, for publishers."""
        self._url = url
        self._rules = topics
        self._given = {
            pattern: (rule._asdict() if isinstance(rule, Retention) else rule)
            for pattern, rule in (given or {}).items()}
        # Written by any thread, with one meaning each: no lock.
        self._away_since: float | None = None
        self._store = RedisStore(url, on_failure=self.note_failure)
        self.node = new_epoch()
        self._presence = PresenceStore(self._store, self.node)
        self.has_presence = has_presence(topics)
        self._reader: _Reader | None = None

    @property
    def skipped(self) -> int:
        """What stood in Redis and was not ours."""
        return self._store.skipped

    def start(self, feed: Feed) -> None:
        self._reader = _Reader(self._url, self, feed)
        self._reader.start()

    def stop(self, timeout_s: float) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop(timeout_s)
        self._store.close()

    def mode(self, topic: str) -> str | None:
        retention = find_retention(self._rules, topic)
        return retention.mode if retention is not None else None

    def publish(self, topic: str, text: bytes, key: str | None = None,
                ) -> Position | None:
        self._refuse_if_away()
        return self._store.publish(topic, text, key,
                                   find_retention(self._rules, topic))

    def recover(self, topic: str, since: Position | None,
                max_events: int = MAX_RECOVERED_EVENTS,
                max_bytes: int = 2 << 20) -> Recovery | None:
        if self.mode(topic) in ('stream', 'latest'):
            self._refuse_if_away()
        return self.recover_now(topic, since, max_events, max_bytes)

    def tell(self, what: str, text: bytes) -> None:
        self._refuse_if_away()
        self._store.tell(what, text)

    def presence_grace_s(self, topic: str) -> float | None:
        retention = find_retention(self._rules, topic)
        return (retention.presence_grace_s if retention is not None
                and retention.presence else None)

    def attend(self, changes: Sequence[Change]) -> bool:
        self._refuse_if_away()
        return self._presence.attend(changes)

    def depart(self) -> None:
        self._refuse_if_away()
        self._presence.depart()

    def who(self, topic: str) -> Presence:
        self._refuse_if_away()
        return self._presence.who(topic)

    # -- whether Redis is there: any thread ----------------------------------

    def _refuse_if_away(self) -> None:
        """Not to let every thread of the pool wait for the same."""
        since = self._away_since
        if self._reader is None:
            raise BrokerUnavailable('the engine does not run')
        if since is not None:
            raise BrokerUnavailable(
                f'Redis has not answered for {time.monotonic() - since:.1f} '
                's')

    def note_failure(self) -> None:
        """It has not answered; the reader, which comes back, will say."""
        if self._away_since is None and self._reader is not None \
                and not self._reader.is_stopping:
            self._away_since = time.monotonic()
            log.warning('Redis does not answer')

    def note_answer(self) -> None:
        """It has answered the reader."""
        if self._away_since is not None:
            self._away_since = None
            log.warning('Redis answers again')

    # -- for the reader ------------------------------------------------------

    def attach(self, known: FeedPlace | None, lost: bool) -> FeedPlace:
        """The store's, and our rules for who publishes from outside."""
        place = self._store.attach(known, lost)
        try:
            self._store.leave_rules(self._given)
        except BrokerUnavailable as error:      # no memory, no writes: later
            log.warning('%s', error)
        return place

    def recover_now(self, topic: str, since: Position | None,
                    max_events: int, max_bytes: int) -> Recovery | None:
        """Also when Redis was away a moment ago."""
        retention = find_retention(self._rules, topic)
        if retention is None or retention.mode == 'volatile':
            return None
        return self._store.recover(topic, since, retention, max_events,
                                   max_bytes)

    @property
    def store(self) -> RedisStore:
        return self._store


class _Lost(Exception):
    """What came cannot come after what has been read."""


class _Reader:
    """The thread ``wsrpc-redis``, which reads the feed."""

    def __init__(self, url: str, backend: RedisBackend, feed: Feed) -> None:
        self._client, _ = connect(url, READ_TIMEOUT_S)
        self._backend = backend
        self._store = backend.store
        self._feed = feed
        self._stopping = threading.Event()
        self._tried = threading.Event()
        self._place: FeedPlace | None = None
        self._must_resync = False
        self._lost = False
        self._thread = threading.Thread(target=self._run, daemon=True,
                                        name='wsrpc-redis')

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def start(self) -> None:
        """Returns when it has its place in the feed, or there is none yet.

        So that what is published once the server serves is not missed.
        """
        self._thread.start()
        self._tried.wait(START_WAIT_S)

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        # Shuts the sockets down, on one of which it waits.
        self._client.connection_pool.disconnect()
        self._store.close()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s = RETRY_S
        while not self._stopping.is_set():
            try:
                self._attach()
                self._tried.set()
                pause_s = RETRY_S
                while not self._stopping.is_set():
                    self._read()
            except _Lost:
                self._lost = True
                continue        # at once: Redis is there
            except (redis.ConnectionError, redis.TimeoutError,
                    OSError) as error:
                self._tell(error)
                self._backend.note_failure()
            except (redis.RedisError, BrokerUnavailable,
                    Overloaded) as error:
                self._tell(error)
            except Exception:
                # Whatever a client says whose socket stop() has shut.
                if not self._stopping.is_set():
                    log.exception('the reader of the feed failed')
            self._tried.set()
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, MAX_RETRY_S)
        self._client.close()

    def _tell(self, error: Exception) -> None:
        if not self._stopping.is_set():
            limited(log, 'reader', logging.WARNING,
                    'the feed of Redis cannot be read: %s: %s',
                    type(error).__name__, escape(error))

    def _attach(self) -> None:
        """Find our place in the feed, or begin at its end."""
        before = self._place
        place = self._backend.attach(before, self._lost)
        self._lost = False
        if before is None or place.feed != before.feed:
            if before is not None:
                log.warning('Redis has lost what it held: all topics begin '
                            'anew')
            self._place = place
            self._must_resync = True
        self._maybe_resync()
        self._backend.note_answer()

    def _maybe_resync(self) -> None:
        if self._must_resync:
            resync(self._backend.recover_now, self._feed)
            self._must_resync = False

    def _read(self) -> None:
        """One XREAD, and what it brings."""
        if self._deliver_next(int(BLOCK_S * 1000)):
            return
        assert self._place is not None
        feed, n = self._store.look()
        if feed != self._place.feed or n < self._place.n:
            self._attach()
        elif n > self._place.n and not self._deliver_next(None):
            # There were more, and they have been let go by now.
            self._place = self._place._replace(n=n)
            self._must_resync = True
            self._maybe_resync()

    def _deliver_next(self, block_ms: int | None) -> bool:
        """Whether there was anything.  ``block_ms`` None: now."""
        assert self._place is not None
        answer = self._client.xread({self._store.feed_key: self._place.id},
                                    count=BATCH, block=block_ms)
        self._backend.note_answer()
        entries = answer[0][1] if answer else ()
        for id, fields in entries:
            if self._stopping.is_set():
                break
            self._take(id.decode(), fields)
        return bool(entries)

    def _take(self, id: str, fields: Any) -> None:
        place = self._place
        assert place is not None
        try:
            entry = read_entry(fields)
        except ValueError as error:
            self._skip(error)
            self._place = place._replace(id=id)
            return
        if entry.f == place.feed and entry.n <= place.n:
            self._place = place._replace(id=id)
            raise _Lost
        if entry.f != place.feed or entry.n > place.n + 1:
            self._must_resync = True
        # First what is missing, then what came after it.
        self._maybe_resync()
        self._hand_on(entry)
        self._place = FeedPlace(entry.f, entry.n, id)

    def _hand_on(self, entry: Entry) -> None:
        while not self._stopping.is_set():
            try:
                if entry.t:
                    self._feed.deliver(Event(entry.t, bytes(entry.d),
                                             entry.o, entry.e,
                                             key=entry.k))
                else:
                    self._feed.hear(entry.w, bytes(entry.d))
                return
            except Overloaded:
                if entry.t and self._backend.mode(entry.t) == 'volatile':
                    return
                # Nobody is told here, as the publisher is in one process:
                # the feed waits, in Redis.
                self._stopping.wait(OVERLOAD_PAUSE_S)
            except (msgspec.MsgspecError, ValueError) as error:
                self._skip(error)
                return
            except Exception:   # a fault of ours: else it is read for ever
                limited(log, 'entry', logging.ERROR,
                        'an entry of the feed failed, and is skipped',
                        exc_info=True)
                return

    def _skip(self, error: Exception) -> None:
        self._store.skipped += 1
        limited(log, 'skipped', logging.WARNING,
                'an entry of the feed in Redis is not ours: skipped: %s',
                escape(error))


class Publisher:
    """Pushes from a program that is no server: a worker, a cron job.

    ::

        with cp_wsrpc.Publisher('redis://localhost:6379/0') as publisher:
            publisher.publish('news', {'msg': 'hi'})

    ``url``     as ``engine.wsrpc.broker`` of the servers
    ``topics``  as their ``engine.wsrpc.topics``; None: what they have
                left in Redis, looked for again every 30 s

    Any thread.  What it does not reach raises BrokerUnavailable, within
    2 s: perhaps it was published, perhaps not.
    """

    RULES_TTL_S = 30.0

    def __init__(self, url: str, topics: Any = None) -> None:
        self._store = RedisStore(url)
        self._given = topics is not None
        self._rules = read_rules(topics)
        self._rules_until = 0.0

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections; may be repeated."""
        self._store.close()

    def publish(self, topic: str, data: Any, key: str | None = None,
                user: Any = ...) -> Position | None:
        """As :func:`cp_wsrpc.publish`."""
        if user is not ...:
            self._tell_of_user('publish', user, topic=topic, data=data)
            return None
        return self._store.publish(topic, encode_event(data, key), key,
                                   self._retention(topic))

    def broadcast(self, name: str, *args: Any, endpoint: str | None = None,
                  user: Any = None) -> None:
        """As :func:`cp_wsrpc.broadcast`."""
        self._store.tell('broadcast', encode_event({
            'name': name, 'args': args, 'endpoint': endpoint, 'user': user}))

    def close_user(self, user: Any, code: int = CloseCode.FORBIDDEN,
                   reason: str = '') -> None:
        """As :func:`cp_wsrpc.close_user`; has no connections itself."""
        check_close_code(code)
        close_frame(code, reason)       # to raise here what it does
        self._tell_of_user('close_user', user, code=code, reason=reason,
                           by='')

    def who(self, topic: str) -> Presence:
        """As :func:`cp_wsrpc.who`."""
        retention = self._retention(topic)
        if retention is None or not retention.presence:
            raise ValueError(f'the topic {topic!r} has no presence')
        return PresenceStore(self._store, '').who(topic)

    def _tell_of_user(self, what: str, user: Any, **said: Any) -> None:
        self._store.tell(what, encode_event(
            {**said, 'user': Target(user).user}))

    def _retention(self, topic: str) -> Retention | None:
        now = time.monotonic()
        if not self._given and now >= self._rules_until:
            self._rules = self._read_rules()
            self._rules_until = now + self.RULES_TTL_S
        return find_retention(self._rules, topic)

    def _read_rules(self) -> TopicRules:
        try:
            return read_rules(self._store.read_rules())
        except ValueError as error:
            log.warning('the rules of topics in Redis: %s', escape(error))
            return TopicRules()
