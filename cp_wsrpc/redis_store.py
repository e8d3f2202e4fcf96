"""Streams of topics, and the feed of all processes, in Redis.  Layer 3.

::

    store = RedisStore('redis://localhost:6379/0')
    store.publish('news', b'{"n":1}', None, Retention())
        -> Position('kX3p', 1)
    store.recover('news', Position('kX3p', 0), Retention(), 300, 2 << 20)
        -> Recovery(Position('kX3p', 1), True, [(1, b'{"n":1}')])

One script numbers an event, keeps it and puts it into the feed: there is
no instant at which one of these is done and another is not.  Keys, behind
a prefix (``?prefix=shop:`` in the URL; ``wsrpc:``):

=============  ========  =================================================
``state``      hash      feed: its identity; n: entries so far; run: the
                         Redis that gave them; held, bytes; topics: the
                         servers' ``engine.wsrpc.topics``, as JSON
``feed``       stream    what every process reads: events and broadcasts
``t:<topic>``  hash      epoch, feed, offset, lost, held, bytes
``h:<topic>``  stream    the history; the ids are the offsets
``k:<topic>``  hash      mode "latest": key -> offset of its newest
=============  ========  =================================================

A stream belongs to the feed in which it was begun: when that gets a new
identity, since Redis has lost data, all streams begin anew, each under an
epoch of its own.

Nothing but JSON is read back, and what does not parse is told as such.
Keys that have been overwritten with something else are put away once.
"""
from __future__ import annotations

import logging
import re
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .errors import BrokerUnavailable, ConfigError
from .history import FORGET_AFTER_S, Position, Recovery, Retention, new_epoch
from .logs import escape, limited
from .redis_scripts import ATTACH, PUBLISH, RECOVER, REPAIR

__all__ = ['Entry', 'FeedPlace', 'RedisStore', 'connect', 'read_entry']

log = logging.getLogger('cp_wsrpc.redis')

#: Together below the 2 s after which a publisher is told.
CONNECT_TIMEOUT_S = 0.4
ANSWER_TIMEOUT_S = 1.4
#: What a process may miss of the feed and still go on without a hole.
FEED_SIZE = 10_000
FEED_TTL_S = 60
FEED_BYTES = 64 << 20

#: ``MISCONF Redis is configured to``: about the server, as are errors of
#: a class of their own; those without such a word are about what it holds.
_OF_THE_SERVER = re.compile(r'(?!WRONGTYPE)[A-Z]{2,} ')


class FeedPlace(NamedTuple):
    """Up to where the feed has been read."""

    feed: str
    n: int
    id: str             # Redis' own, '1700000000000-0'


class Entry(msgspec.Struct):
    """One of the feed: an event (``t``) or what all are told (``w``)."""

    f: str              # the feed's identity
    n: int              # counts from 1
    d: msgspec.Raw      # JSON text
    t: str = ''
    w: str = ''
    e: str | None = None
    o: int | None = None
    k: str | None = None


_decode_entry = msgspec.json.Decoder(Entry).decode


def check_json(text: bytes) -> None:
    """Raise ValueError for what is not JSON in UTF-8."""
    if not text.isascii():
        text.decode()       # inside of Raw, msgspec does not look
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None


def read_entry(fields: Any) -> Entry:
    """What stands in an entry of the feed.

    ``{b'at': b'1.5', b'len': b'40', b'key': b'', b'data': b'{...}'}``.
    Raises ValueError for what nobody of us has written.
    """
    text = fields.get(b'data') if isinstance(fields, dict) else None
    if not isinstance(text, bytes):
        raise ValueError('an entry without data')
    check_json(text)
    try:
        entry = _decode_entry(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not (entry.t or entry.w) or (entry.e is None) != (entry.o is None):
        raise ValueError('an entry that says nothing')
    return entry


def connect(url: str, answer_timeout_s: float = ANSWER_TIMEOUT_S,
            ) -> tuple[Any, str]:
    """(redis.Redis, the prefix of the keys).  ConfigError for a bad URL."""
    parts = urllib.parse.urlsplit(url)
    query = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
    prefix = dict(query).get('prefix', 'wsrpc:')
    url = parts._replace(query=urllib.parse.urlencode(
        [item for item in query if item[0] != 'prefix'])).geturl()
    try:
        # No retries: who knows whether the first has not been executed?
        client = redis.Redis.from_url(
            url, protocol=2, socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=answer_timeout_s, retry=Retry(NoBackoff(), 0),
            health_check_interval=0)
        # Does not connect yet, but looks at what the URL asks for.
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError) as error:
        raise ConfigError(f'engine.wsrpc.broker = {url!r}: {error}') from None
    return client, prefix


class RedisStore:
    """What several processes share.  Any thread.

    ``clock``      seconds, for tests; None: that of Redis
    ``on_failure`` called when Redis did not answer
    """

    def __init__(self, url: str, *,
                 clock: Callable[[], float] | None = None,
                 on_failure: Callable[[], object] | None = None) -> None:
        self.client, self.prefix = connect(url)
        self.feed_key = f'{self.prefix}feed'.encode()
        self._state_key = f'{self.prefix}state'
        self._clock = clock
        self._on_failure = on_failure
        self._publish = self.client.register_script(PUBLISH)
        self._recover = self.client.register_script(RECOVER)
        self._attach = self.client.register_script(ATTACH)
        self._repair = self.client.register_script(REPAIR)
        #: entries and values that were not ours, and were skipped
        self.skipped = 0

    def close(self) -> None:
        """Close all connections; who waits on one gets an error."""
        self.client.connection_pool.disconnect()

    def publish(self, topic: str, text: bytes, key: str | None,
                retention: Retention | None) -> Position | None:
        """Number, keep and hand on one event; BrokerUnavailable."""
        keeps = retention is not None and retention.mode != 'volatile'
        body = b',"t":' + msgspec.json.encode(topic)
        if key is not None:
            body += b',"k":' + msgspec.json.encode(key)
        return self._append(topic, body + b',"d":', text, key,
                            retention if keeps else None)

    def tell(self, what: str, text: bytes) -> None:
        """Put something else than an event into the feed."""
        self._append('', b',"w":%s,"d":' % msgspec.json.encode(what), text,
                     None, None)

    def _append(self, topic: str, body: bytes, text: bytes, key: str | None,
                retention: Retention | None) -> Position | None:
        size, ttl_s, max_bytes, mode = retention[:4] if retention else (
            0, 0, 0, '')
        answer = self.run(self._publish, self.keys_of(topic), [
            body, text, '-' if key is None else f'={key}', mode, size, ttl_s,
            max_bytes, self.now(), new_epoch(), int(FORGET_AFTER_S),
            int(ttl_s) + 1 if self._clock is None else int(FORGET_AFTER_S),
            FEED_SIZE, FEED_TTL_S, FEED_BYTES], lambda: self.repair(topic))
        if not answer:
            return None
        return Position(answer[0].decode('utf-8', 'replace'), int(answer[1]))

    def recover(self, topic: str, since: Position | None,
                retention: Retention, max_events: int, max_bytes: int,
                ) -> Recovery:
        """As ``history.History.recover``; BrokerUnavailable."""
        state, _, *keys = self.keys_of(topic)
        epoch, offset = since or ('', 0)
        answer = self.run(self._recover, [state, *keys], [
            '' if since is None else '1', epoch.encode('utf-8', 'replace'),
            offset, max_events, max_bytes, retention.mode,
            retention.history_ttl_s, self.now(), new_epoch(),
            int(FORGET_AFTER_S)], lambda: self.repair(topic))
        here = Position(answer[0].decode('utf-8', 'replace'), int(answer[1]))
        events = list(zip(answer[3::2], answer[4::2], strict=True))
        if not all(map(self.is_json, (text for _, text in events))):
            return Recovery(here, False)
        return Recovery(here, {b'': None, b'yes': True, b'no': False}[
            answer[2]], events)

    def attach(self, known: FeedPlace | None, lost: bool = False,
               ) -> FeedPlace:
        """Where the feed is, for one who has read it up to ``known``.

        Another identity than ``known``'s: it does not go on from there.
        ``lost``: what is in the feed cannot come after ``known``.
        """
        run_id = self.ask(lambda: self.client.info('server'))['run_id']
        feed, n, id = self.run(
            self._attach, [self._state_key, self.feed_key],
            [run_id, known.feed if known else '', known.n if known else 0,
             new_epoch(), '1' if lost else ''], lambda: self.repair(''))
        return FeedPlace(feed.decode('utf-8', 'replace'), int(n),
                         id.decode())

    def look(self) -> tuple[str, int]:
        """(the feed's identity, its entries so far); ('', 0): no feed."""
        feed, n = self.ask(lambda: self.client.hmget(
            self._state_key, 'feed', 'n'))
        return ((feed or b'').decode('utf-8', 'replace'),
                int(n) if n and n.isdigit() else 0)

    def leave_rules(self, topics: dict[str, Any]) -> None:
        """For publishers that are no servers: what is kept of a topic."""
        text = msgspec.json.encode(topics)
        if self.ask(lambda: self.client.hget(
                self._state_key, 'topics')) != text:
            self.ask(lambda: self.client.hset(
                self._state_key, 'topics', text))

    def read_rules(self) -> Any:
        """What the servers have left, or {}."""
        text = self.ask(lambda: self.client.hget(self._state_key, 'topics'))
        try:
            return msgspec.json.decode(text) if text else {}
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.skipped += 1
            return {}

    def keys_of(self, topic: str) -> list[Any]:
        """Of its stream, as the scripts take them."""
        return [self._state_key, self.feed_key, *(
            f'{self.prefix}{kind}:{topic}' for kind in 'thk')]

    def now(self) -> str:
        """The time for a script; empty: Redis' own."""
        return '' if self._clock is None else f'{self._clock():.6f}'

    def is_json(self, text: Any) -> bool:
        """Whether it may be read; else it is counted as skipped."""
        try:
            check_json(text)
        except ValueError:
            self.skipped += 1
            limited(log, 'skipped', logging.WARNING,
                    'a history in Redis holds what is not JSON: skipped')
            return False
        return True

    def run(self, script: Any, keys: Sequence[Any], args: Sequence[Any],
            repair: Callable[[], object]) -> Any:
        """Run a script; once more, if its keys had to be put right.

        BrokerUnavailable.
        """
        def run() -> Any:
            return script(keys=keys, args=args)

        try:
            return run()
        except redis.ResponseError as error:
            if type(error) is not redis.ResponseError \
                    or _OF_THE_SERVER.match(str(error)):
                raise self._unavailable(error) from error
            self.skipped += 1
            limited(log, 'repair', logging.WARNING,
                    'keys of %s in Redis hold what is not ours, and are put '
                    'away: %s', self.prefix, escape(error))
        except redis.RedisError as error:
            raise self._unavailable(error) from error
        repair()
        return self.ask(run)

    def repair(self, topic: str) -> None:
        """Put away what is not ours on the keys of a topic."""
        self.ask(lambda: self._repair(keys=self.keys_of(topic), args=[]))

    def ask(self, run: Callable[[], Any]) -> Any:
        """``run()``; BrokerUnavailable for what Redis says against it."""
        try:
            return run()
        except redis.RedisError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> BrokerUnavailable:
        if isinstance(error, (redis.ConnectionError, redis.TimeoutError)) \
                and self._on_failure is not None:
            self._on_failure()
        return BrokerUnavailable(
            f'{type(error).__name__} of Redis: {escape(error)}')
