"""Several processes that push as one, through Redis.  Layer 3.

``engine.wsrpc.broker = 'redis://localhost:6379/0'`` makes
:class:`RedisBackend` the backend of ``broker``; a program that is no
server uses ``redis_publisher``.  What stands in Redis: ``redis_store``.

Publishing is one script, in the caller's thread.  What all processes have
published comes back by ``redis_feed``; nothing is delivered that did not
come from there, so the order is one for all.
"""
from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from .backend import Feed
from .errors import BrokerUnavailable
from .history import (MAX_RECOVERED_EVENTS, Position, Recovery, Retention,
                      find_retention, has_presence, new_epoch)
from .options import TopicRules
from .presence import Change, Presence
from .redis_feed import FeedReader
from .redis_presence import HEARTBEAT_S, PresenceStore
from .redis_store import FeedPlace, RedisStore

__all__ = ['RedisBackend']

log = logging.getLogger('cp_wsrpc.redis')


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
        self._reader: FeedReader | None = None

    @property
    def skipped(self) -> int:
        """What stood in Redis and was not ours."""
        return self._store.skipped

    def start(self, feed: Feed) -> None:
        self._reader = FeedReader(self._url, self, feed)
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
            raise BrokerUnavailable('the engine does not run',
                                    maybe_executed=False)
        if since is not None:
            raise BrokerUnavailable(
                f'Redis has not answered for {time.monotonic() - since:.1f} '
                's', maybe_executed=False)

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
