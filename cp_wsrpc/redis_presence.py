"""Who is on the topics of several processes, in Redis.  Layer 3.

::

    store = PresenceStore(RedisStore('redis://localhost:6379/0'), 'kX3p')
    store.attend([Change('room', b'"ada"', 1, ('kX3p#7',))])
    store.who('room')
        -> Presence([Present('ada', 1, ['kX3p#7'])], 0, '9sLq_0Zc', 1)

``redis_store`` says what else there is.  Keys, behind its prefix:

====================  ======  ============================================
``nodes``             zset    the processes, and when each was last heard
``n:<node>``          set     the topics on which a process has anybody
``p:<node>:<topic>``  hash    user -> ``2 kX3p#7 kX3p#12``: how many
                              connections, and ids; user ``''``: anonymous
====================  ======  ============================================

Each script first notes that its process lives, and lets those leave who
have not been heard for ``EXPIRY_S``: so a process that was killed is out of
``who`` after 10 s at most, and its users' leaves are told 3 s later at
most.  A user who comes is joined, and one who goes has left, if no other
process has him; the event is published in the same step.  So whoever
reads state and position together can go on by the events.

Who finds that his own time is over cannot judge others: Redis has stood
still, or he has.  All are given new time then, and he enters all anew.
"""
from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .errors import BrokerUnavailable
from .history import (FORGET_AFTER_S, OF_PRESENCE, PRESENCE, Position,
                      new_epoch)
from .logs import limited
from .presence import Change, Presence, presence_of
from .redis_scripts import APPEND
from .redis_store import FEED_BYTES, FEED_SIZE, FEED_TTL_S, RedisStore

__all__ = ['EXPIRY_S', 'HEARTBEAT_S', 'PresenceStore']

log = logging.getLogger('cp_wsrpc.redis')

HEARTBEAT_S = 3.0
#: Three heartbeats and some: one that is late kills nobody.
EXPIRY_S = 10.0
#: Leaves of a process that is gone, in one step: Redis serves nobody else
#: meanwhile.
LEAVES_A_STEP = 500
#: Processes that have all been killed leave their keys behind; they go
#: when the next one starts, or then.
FORGET_NODES_AFTER_S = 7 * 86_400
#: For what one call may need several steps for.
PATIENCE_S = 1.0
_VALUE = re.compile(rb'(\d{1,9})((?: [\w#-]{1,40})*)')

_COMMON = APPEND + '''
local prefix, me, now, expiry, left, new, forget_after, expire, size, ttl,
  max_bytes, feed_size, feed_ttl, feed_bytes, presence = unpack(ARGV, 1, 15)
now, left = now_of(now), tonumber(left)
local nodes, given = prefix .. 'nodes', 15
local BEING_CLEARED = 1     -- no time at which anybody was heard

local function topics_of(node) return prefix .. 'n:' .. node end
local function users_of(node, topic)
  return prefix .. 'p:' .. node .. ':' .. topic
end

local function keys_of(name)
  return {prefix .. 'state', prefix .. 'feed', prefix .. 't:' .. name,
          prefix .. 'h:' .. name, prefix .. 'k:' .. name}
end

local streams = 0
local function tell(topic, user, event)
  local name = presence .. topic
  streams = streams + 1
  append(keys_of(name), {
    ',"t":' .. cjson.encode(name) .. ',"d":',
    '{"event":"' .. event .. '","user":' .. user .. '}', '-', 'stream', size,
    ttl, max_bytes, now, new .. streams, expire, tonumber(ttl) + 1,
    feed_size, feed_ttl, feed_bytes})
end

local function is_elsewhere(me, topic, user)
  for _, node in ipairs(redis.call('ZRANGE', nodes, 0, -1)) do
    if node ~= me
        and redis.call('HEXISTS', users_of(node, topic), user) == 1 then
      return true
    end
  end
  return false
end

local function leave(node, topic, user)
  local users = users_of(node, topic)
  if redis.call('HDEL', users, user) == 0 then return end
  if redis.call('EXISTS', users) == 0 then
    redis.call('SREM', topics_of(node), topic)
  end
  if user ~= '' and not is_elsewhere(node, topic, user) then
    tell(topic, user, 'leave')
  end
end

local function enter(node, topic, user, value)
  local users = users_of(node, topic)
  redis.call('SADD', topics_of(node), topic)
  if redis.call('HSET', users, user, value) == 0 then return end
  redis.call('EXPIRE', users, forget_after)
  if user ~= '' and not is_elsewhere(node, topic, user) then
    tell(topic, user, 'join')
  end
end

-- All of a process leave, as many as may now; whether all have.
local function depart(node)
  for _, topic in ipairs(redis.call('SMEMBERS', topics_of(node))) do
    for _, user in ipairs(redis.call('HKEYS', users_of(node, topic))) do
      if left <= 0 then
        -- If it comes back it is to enter all anew.
        redis.call('ZADD', nodes, BEING_CLEARED, node)
        return false
      end
      left = left - 1
      leave(node, topic, user)
    end
  end
  redis.call('DEL', topics_of(node))
  redis.call('ZREM', nodes, node)
  return true
end

-- Our own time, if it is not over yet.
local function is_known()
  local mine = redis.call('ZSCORE', nodes, me)
  return mine and math.abs(now - tonumber(mine)) < tonumber(expiry)
end

-- Lets those leave who have been silent.
local function look_around()
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', nodes, '-inf',
                                   now - expiry)) do
    depart(node)
  end
end

local function give_new_time()
  local all = redis.call('ZRANGE', nodes, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    if tonumber(all[i + 1]) ~= BEING_CLEARED then
      redis.call('ZADD', nodes, now, all[i])
    end
  end
end

-- Once in a while, so that what lasts is not forgotten.
local function keep_for_long()
  redis.call('EXPIRE', nodes, forget_after)
  if redis.call('TTL', topics_of(me)) < tonumber(forget_after) / 2 then
    for _, topic in ipairs(redis.call('SMEMBERS', topics_of(me))) do
      redis.call('EXPIRE', users_of(me, topic), forget_after)
    end
    redis.call('EXPIRE', topics_of(me), forget_after)
  end
end
'''

#: ARGV, from the 16th on: topic, user, value ('' for none), ...
ATTEND = _COMMON + '''
local was_known = is_known()
if was_known then
  look_around()
elseif redis.call('ZSCORE', nodes, me) then
  give_new_time()
end
redis.call('ZADD', nodes, now, me)
keep_for_long()
for i = given + 1, #ARGV, 3 do
  local topic, user, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if value == '' then
    leave(me, topic, user)
  else
    enter(me, topic, user, value)
  end
end
return {was_known and 1 or 0, left}
'''

DEPART = _COMMON + '''
return depart(me) and 1 or 0
'''

#: ARGV: topic as the 16th.  {epoch, offset, user, value, ...}
WHO = _COMMON + '''
if is_known() then look_around() end
local topic = ARGV[given + 1]
local state, feed, its, history, keys = unpack(keys_of(presence .. topic))
local stream = stream_of(feed_of(state, new), its, history, keys,
                         new .. '0', expire)
local result = {stream[1], stream[2]}
for _, node in ipairs(redis.call('ZRANGE', nodes, 0, -1)) do
  for _, part in ipairs(redis.call('HGETALL', users_of(node, topic))) do
    table.insert(result, part)
  end
end
return result
'''


class PresenceStore:
    """What the processes know of each other's users.  Any thread.

    ``node``: this process, a random name without ``:``; ``''``: one that
    only asks.  All methods raise BrokerUnavailable.
    """

    def __init__(self, store: RedisStore, node: str) -> None:
        self._store = store
        self._node = node
        self._attend = store.client.register_script(ATTEND)
        self._depart = store.client.register_script(DEPART)
        self._who = store.client.register_script(WHO)

    def attend(self, changes: Sequence[Change]) -> bool:
        """As :meth:`cp_wsrpc.backend.Backend.attend`."""
        args: list[Any] = []
        for topic, user, number, ids in changes:
            args += topic, user, ' '.join((str(number), *ids)
                                          ) if number else ''
        topics = {change.topic for change in changes}
        is_known, left = self._run(self._attend, topics, args)
        until = time.monotonic() + PATIENCE_S
        while not left and time.monotonic() < until:
            _, left = self._run(self._attend, (), ())
        return bool(is_known)

    def depart(self) -> None:
        """All of this process leave, now."""
        until = time.monotonic() + PATIENCE_S
        while not self._run(self._depart, (), ()):
            if time.monotonic() >= until:
                raise BrokerUnavailable('too many to take leave of')

    def who(self, topic: str) -> Presence:
        """Those of all processes."""
        epoch, offset, *entries = self._run(self._who, (topic,), (topic,))
        return presence_of(self._read(entries[::2], entries[1::2]), Position(
            epoch.decode('utf-8', 'replace'), int(offset)))

    def _read(self, users: Iterable[bytes], values: Iterable[bytes],
              ) -> Iterator[tuple[bytes, int, list[str]]]:
        """(user, number, ids) of what is ours."""
        for user, value in zip(users, values, strict=True):
            found = _VALUE.fullmatch(value)
            if found is None:
                self._store.skipped += 1
                limited(log, 'skipped', logging.WARNING,
                        'a user of presence in Redis is not ours: skipped')
            elif not user or self._store.is_json(user):
                yield user, int(found[1]), found[2].decode().split()

    def _run(self, script: Any, topics: Iterable[str],
             args: Iterable[Any]) -> Any:
        size, ttl_s, max_bytes, *_ = OF_PRESENCE
        return self._store.run(script, [], [
            self._store.prefix, self._node, self._store.now(), EXPIRY_S,
            LEAVES_A_STEP, new_epoch(), FORGET_NODES_AFTER_S,
            int(FORGET_AFTER_S), size, int(ttl_s), max_bytes, FEED_SIZE,
            FEED_TTL_S, FEED_BYTES, PRESENCE, *args],
            lambda: self._repair(topics))

    def _repair(self, topics: Iterable[str]) -> None:
        """Put away what is not ours on all keys of presence."""
        client, prefix = self._store.client, self._store.prefix
        pattern = re.sub(r'([*?\[\]\\])', r'\\\1', prefix)

        def put_away() -> set[bytes]:
            concerned: set[bytes] = set()
            # So all processes tell anew what they have.
            client.delete(f'{prefix}nodes')
            for key in client.scan_iter(f'{pattern}[np]:*', 1000):
                is_set = key.startswith(f'{prefix}n:'.encode())
                if client.type(key) != (b'set' if is_set else b'hash'):
                    client.delete(key)
                elif is_set:
                    concerned |= client.smembers(key)
            return concerned

        for topic in {*(name.decode('utf-8', 'replace') for name
                        in self._store.ask(put_away)), *topics}:
            self._store.repair(PRESENCE + topic)
