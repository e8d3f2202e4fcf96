"""Pushes from a program that is no server, through Redis.  Layer 3.

::

    publisher.publish('news', {'msg': 'hi'})  -> an entry in the feed of all

The servers that read it have ``redis_broker``.
"""
from __future__ import annotations

import logging
import time
from typing import Any

from .broker import encode_event
from .errors import CloseCode
from .frame_rules import check_close_code
from .frames import close_frame
from .history import Position, Retention, find_retention, read_rules
from .logs import escape
from .options import TopicRules
from .presence import Presence
from .redis_presence import PresenceStore
from .redis_store import RedisStore
from .users import Target

__all__ = ['Publisher']

log = logging.getLogger('cp_wsrpc.redis')


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
