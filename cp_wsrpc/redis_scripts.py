"""What runs inside of Redis.  Layer 3.

Lua, as ``redis_store`` and ``redis_keys`` send it; the keys are described
there.  Each script is one step for all who look: there is no instant at
which an event has its number and is not in the feed.  Where memory is
short, or writes are refused, a script fails at its first write, and
nothing is done.
"""
from __future__ import annotations

__all__ = ['APPEND', 'ATTACH', 'CLAIM_KEY', 'LOOK_AT_KEY', 'PUBLISH',
           'RECOVER', 'REPAIR', 'SETTLE_KEY']

_COMMON = '''
local function now_of(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function text_of(number) return string.format('%.0f', number) end

-- The feed's identity; made, if there is none.
local function feed_of(state, new)
  local feed = redis.call('HGET', state, 'feed')
  if not feed then
    feed = new
    redis.call('HSET', state, 'feed', feed, 'n', 0, 'held', 0, 'bytes', 0)
  end
  return feed
end

-- {epoch, offset, lost, held} of a topic's stream; made, if there is none.
local function stream_of(feed, topic, history, keys, new, expire)
  local about = redis.call('HMGET', topic, 'epoch', 'feed', 'offset',
                           'lost', 'held')
  if not about[1] or about[2] ~= feed then
    redis.call('HSET', topic, 'epoch', new, 'feed', feed, 'offset', 0,
               'lost', 0, 'held', 0, 'bytes', 0)
    redis.call('DEL', history, keys)
    redis.call('EXPIRE', topic, expire)
    return {new, 0, 0, 0}
  end
  return {about[1], tonumber(about[3]), tonumber(about[4]),
          tonumber(about[5])}
end
'''

#: ``append(keys, args)``: number an event, keep it, put it into the feed.
APPEND = _COMMON + '''
local function append(its_keys, args)
local state, feed, topic, history, keys = unpack(its_keys)
local body, data, key, mode, size, ttl, max_bytes, now, new, expire,
  expire_history, feed_size, feed_ttl, feed_bytes = unpack(args)
now = now_of(now)

-- Lets the oldest go, past a limit.  Of each entry: at, len, key, data.
local function trim(stream, about, by_key, size, ttl, max_bytes)
  local held = tonumber(redis.call('HGET', about, 'held'))
  local bytes = tonumber(redis.call('HGET', about, 'bytes'))
  local before = held
  while held > 0 do
    local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    if not first then
      held, bytes = 0, 0
      if by_key then
        redis.call('HSET', about, 'lost',
                   redis.call('HGET', about, 'offset'))
      end
      break
    end
    local at, length = tonumber(first[2][2]), tonumber(first[2][4])
    if at and length then
      if now - at < ttl and held <= size and bytes <= max_bytes then
        break
      end
      held, bytes = held - 1, bytes - length
      if by_key then
        redis.call('HDEL', by_key, first[2][6])
        redis.call('HSET', about, 'lost', string.match(first[1], '^%d+'))
      end
    end     -- else it is none of ours, and was not counted
    redis.call('XDEL', stream, first[1])
  end
  if held ~= before then
    redis.call('HSET', about, 'held', held, 'bytes', bytes)
  end
end

local function put(stream, about, id, key, data)
  redis.call('XADD', stream, id, 'at', string.format('%.6f', now),
             'len', #data, 'key', key, 'data', data)
  redis.call('HINCRBY', about, 'held', 1)
  redis.call('HINCRBY', about, 'bytes', #data)
end

local id = feed_of(state, new)
local n = redis.call('HINCRBY', state, 'n', 1)
local place, result = '', {}
if mode ~= '' then
  size, ttl, max_bytes = tonumber(size), tonumber(ttl), tonumber(max_bytes)
  local stream = stream_of(id, topic, history, keys, new, expire)
  local epoch, offset = stream[1], stream[2] + 1
  if mode == 'latest' then
    -- First, so that what has expired is lost, whether or not somebody has
    -- asked meanwhile.
    trim(history, topic, keys, size, ttl, max_bytes)
    local old = redis.call('HGET', keys, key)
    local entry = old and redis.call('XRANGE', history, old, old)[1]
    if entry then
      redis.call('XDEL', history, entry[1])
      redis.call('HINCRBY', topic, 'held', -1)
      redis.call('HINCRBY', topic, 'bytes', -tonumber(entry[2][4]))
    end
    redis.call('HSET', keys, key, text_of(offset))
    redis.call('EXPIRE', keys, expire_history)
  end
  redis.call('HSET', topic, 'offset', text_of(offset))
  put(history, topic, text_of(offset), key, data)
  trim(history, topic, keys, size, ttl, max_bytes)
  redis.call('EXPIRE', topic, expire)
  redis.call('EXPIRE', history, expire_history)
  place = ',"e":"' .. epoch .. '","o":' .. text_of(offset)
  result = {epoch, offset}
end
put(feed, state, '*', '', '{"f":"' .. id .. '","n":' .. text_of(n)
    .. place .. body .. data .. '}')
trim(feed, state, nil, tonumber(feed_size), tonumber(feed_ttl),
     tonumber(feed_bytes))
return result
end
'''

PUBLISH = APPEND + '''
return append(KEYS, ARGV)
'''

RECOVER = _COMMON + '''
local state, topic, history, keys = unpack(KEYS)
local asks, since_epoch, since, max_events, max_bytes, mode, ttl, now, new,
  expire = unpack(ARGV)
since, now = tonumber(since), now_of(now)
local stream = stream_of(feed_of(state, new), topic, history, keys, new,
                         expire)
local epoch, offset, lost, held = unpack(stream)
-- Written seldom, so that a replica which takes no writes can answer.
if redis.call('TTL', topic) < tonumber(expire) / 2 then
  redis.call('EXPIRE', topic, expire)
end
if asks == '' then return {epoch, offset, ''} end
local no = {epoch, offset, 'no'}
if since_epoch ~= epoch or since < lost or since > offset then return no end
if since == offset then return {epoch, offset, 'yes'} end
if redis.call('XLEN', history) ~= held then return no end
local gap = redis.call('XRANGE', history, text_of(since + 1), '+',
                       'COUNT', tonumber(max_events) + 1)
if #gap > tonumber(max_events) then return no end
if mode == 'stream' and #gap ~= offset - since then return no end
local result, bytes = {epoch, offset, 'yes'}, 0
for _, entry in ipairs(gap) do
  local fields = entry[2]
  bytes = bytes + #fields[8]
  if now - tonumber(fields[2]) >= tonumber(ttl)
      or bytes > tonumber(max_bytes) then return no end
  table.insert(result, tonumber(string.match(entry[1], '^%d+')))
  table.insert(result, fields[8])
end
return result
'''

# A Redis that is not the one that gave the feed's numbers (a restart, a
# failover) may have lost the last of them.  Who has read the feed can tell:
# his place is there, or it is not; who has just started cannot, and begins
# a new feed.
ATTACH = _COMMON + '''
local state, feed = unpack(KEYS)
local run, known, known_n, new, lost = unpack(ARGV)
local id = feed_of(state, new)
local about = redis.call('HMGET', state, 'n', 'run')
local n = tonumber(about[1])
local was_there = known == id and tonumber(known_n) <= n
if id == new then
  redis.call('HSET', state, 'run', run)
elseif (known == id and (lost ~= '' or not was_there))
    or (about[2] and about[2] ~= run and not was_there) then
  id, n = new, 0
  redis.call('HSET', state, 'feed', id, 'n', 0, 'run', run)
elseif about[2] ~= run then
  redis.call('HSET', state, 'run', run)
end
local last = redis.call('XREVRANGE', feed, '+', '-', 'COUNT', 1)[1]
return {id, n, last and last[1] or '0-0'}
'''

# Puts away what is not of the type it should be.
REPAIR = '''
local types = {'hash', 'stream', 'hash', 'stream', 'hash'}
local away = 0
for i, key in ipairs(KEYS) do
  local is = redis.call('TYPE', key).ok
  if is ~= 'none' and (is ~= types[i] or i > 2) then
    away = away + redis.call('DEL', key)
  end
end
for _, name in ipairs({'n', 'held', 'bytes'}) do
  if redis.call('TYPE', KEYS[1]).ok == 'hash'
      and not tonumber(redis.call('HGET', KEYS[1], name) or 'x') then
    away = away + redis.call('DEL', KEYS[1])
  end
end
return away
'''

# -- idempotency keys --------------------------------------------------------

_KEPT = '''
local order, results, about = unpack(KEYS)
local prefix, keep_s, max_bytes, abandoned, dropped = unpack(ARGV)
local DAY = 86400
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

-- What is not ours is put away, and what it held with it.
for i, wanted in ipairs({'zset', 'zset', 'hash'}) do
  local is = redis.call('TYPE', KEYS[i]).ok
  if is ~= 'none' and is ~= wanted then redis.call('DEL', KEYS[i]) end
end

local function entry_of(member) return prefix .. 'k:' .. member end

local function is_alive(owner)
  return owner and redis.call('EXISTS', prefix .. 'o:' .. owner) == 1
end

local function drop_result(member)
  redis.call('ZREM', results, member)
  local size = tonumber(redis.call('HGET', about, 's:' .. member) or 0)
  if size and size > 0 then
    redis.call('HDEL', about, 's:' .. member)
    redis.call('HINCRBY', about, 'bytes', -size)
  end
end

local function count_of(member)
  return 'n:' .. string.match(member, '^[^:]*')
end

local function forget(member)
  redis.call('DEL', entry_of(member))
  drop_result(member)
  if redis.call('ZREM', order, member) == 1
      and redis.call('HINCRBY', about, count_of(member), -1) <= 0 then
    redis.call('HDEL', about, count_of(member))
  end
end

-- A new one; the score is when to look at it again.
local function add(member, owner, token, print)
  redis.call('HSET', entry_of(member), 'owner', owner, 'token', token,
             'print', print)
  redis.call('EXPIRE', entry_of(member), DAY)
  redis.call('HINCRBY', about, count_of(member), 1)
  redis.call('ZADD', order, now + keep_s, member)
  for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, DAY) end
end

local function keep(member, outcome)
  drop_result(member)
  redis.call('HSET', entry_of(member), 'outcome', outcome)
  redis.call('EXPIRE', entry_of(member), keep_s)
  redis.call('ZADD', order, now + keep_s, member)
  redis.call('ZADD', results, now, member)
  redis.call('EXPIRE', results, DAY)
  redis.call('HSET', about, 's:' .. member, #outcome)
  local bytes = redis.call('HINCRBY', about, 'bytes', #outcome)
  while bytes > tonumber(max_bytes) do
    local oldest = redis.call('ZRANGE', results, 0, 0)[1]
    if not oldest then break end
    drop_result(oldest)
    if redis.call('EXISTS', entry_of(oldest)) == 1 then
      redis.call('HSET', entry_of(oldest), 'outcome', dropped)
    end
    bytes = tonumber(redis.call('HGET', about, 'bytes'))
  end
end

-- {fingerprint, outcome or ''}, or nil.  A call whose process is gone has
-- come to nobody knows what.
local function look(member)
  local entry = entry_of(member)
  local is = redis.call('TYPE', entry).ok
  if is == 'none' then return nil end
  if is ~= 'hash' then
    redis.call('DEL', entry)
    keep(member, abandoned)
  end
  local found = redis.call('HMGET', entry, 'print', 'outcome', 'owner')
  if not found[2] and not is_alive(found[3]) then
    keep(member, abandoned)
    found[2] = abandoned
  end
  return {found[1] or '', found[2] or ''}
end
'''

#: ARGV after the first five: member, owner, token, fingerprint, limit of
#: the scope, limit of all.  {1}: it is yours; {0, fingerprint, outcome or
#: ''}; {2}: full.
CLAIM_KEY = _KEPT + '''
local member, owner, token, print, limit, limit_all = unpack(ARGV, 6)
for _, due in ipairs(redis.call('ZRANGEBYSCORE', order, '-inf', now,
                                'LIMIT', 0, 10)) do
  local found = look(due)
  if found and found[2] == '' then
    redis.call('ZADD', order, now + keep_s, due)
  elseif not found or tonumber(redis.call('ZSCORE', order, due)) <= now then
    forget(due)
  end
end
local found = look(member)
if found then
  if found[2] == '' then
    redis.call('HSET', entry_of(member), 'waited', 1)
  end
  return {0, found[1], found[2]}
end
-- After a first write memory may run over: so none that does nothing.
if redis.call('ZSCORE', order, member) then forget(member) end
if redis.call('ZCARD', order) >= tonumber(limit_all)
    or tonumber(redis.call('HGET', about, count_of(member)) or 0)
       >= tonumber(limit) then
  return {2}
end
add(member, owner, token, print)
return {1}
'''

#: ... member, owner, token, fingerprint, outcome or ''.  1: others wait.
#: A Redis that has lost its data meanwhile is told what it has lost.
SETTLE_KEY = _KEPT + '''
local member, owner, token, print, outcome = unpack(ARGV, 6)
local entry, waited = entry_of(member), 0
local is = redis.call('TYPE', entry).ok
if is == 'hash' then
  local found = redis.call('HMGET', entry, 'token', 'waited')
  if found[1] and found[1] ~= token then return 0 end
  waited = found[2] and 1 or 0
elseif outcome ~= '' then
  forget(member)
  add(member, owner, token, print)
end
if outcome ~= '' then keep(member, outcome) else forget(member) end
return waited
'''

#: ... member.  {}: nobody has it; {fingerprint, outcome or ''}.
LOOK_AT_KEY = _KEPT + '''
return look(ARGV[6]) or {}
'''
