"""The thread ``wsrpc-redis``: what all processes have published.  Layer 3.

::

    XREAD of the feed  -> feed.deliver(Event(topic='news', data=b'{...}'))
                       -> feed.hear('broadcast', b'{...}')

A stream and no PUB/SUB, which would lose silently when a buffer runs over.
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
from typing import TYPE_CHECKING, Any

import msgspec
import redis

from .backend import Feed, resync
from .errors import BrokerUnavailable, Overloaded
from .logs import escape, limited
from .messages import Event
from .redis_store import Entry, FeedPlace, connect, read_entry

if TYPE_CHECKING:
    from .redis_broker import RedisBackend

__all__ = ['FeedReader']

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


class _Lost(Exception):
    """What came cannot come after what has been read."""


class FeedReader:
    """Reads on and on, from its ``start`` to its ``stop``.

    Those two, and ``is_stopping``, are any thread's; all else is its own.
    """

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
