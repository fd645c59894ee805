-- The table of nodes: one hash, a field per node and the time of its creation.
--
-- KEYS[1]  the table
-- ARGV     what to do ("beat", "insist", "look" or "leave"), id, incarnation, time to live in ms,
--          how long the dead are remembered in ms, what the node says of itself (sealed), and the
--          channels' beginning and middle, if who listens on the nodes' channels is to be told
--
-- Answers  { age of the table in ms, now in ms, time of this process's heartbeat before in ms or -1,
--            the row of a later process of this name, which stood in the way of "beat", or {},
--            { id, incarnation, age in ms, listeners or -1, sealed } ... }
--
-- Whoever can write to Redis can write rows: what is not sealed is worth a look and no more. A row
-- that is too large, and a table with too many, are nobody's of us. "insist" is a heartbeat that
-- takes the place of whatever is there.
--
-- An incarnation is 16 hexadecimal digits: as text in order, and never rounded.

local MOST_FIELDS, MOST_BYTES = 2048, 16384

local action, id, incarnation = ARGV[1], ARGV[2], ARGV[3]
local ttl, memory = tonumber(ARGV[4]), tonumber(ARGV[5])
local begin, middle = ARGV[7], ARGV[8]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Nothing for what another version, or nobody of us, may have written.
local function parse(value)
  if #value > MOST_BYTES then return nil end
  local _, last, inc, beat = string.find(value, '^(%x+) (%d+) ')
  if not last or #inc ~= 16 or #beat > 15 then return nil end
  return {
    incarnation = inc,
    beat = tonumber(beat),
    age = math.max(0, now - tonumber(beat)),
    sealed = string.sub(value, last + 1),
  }
end

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then
  if action == 'look' then return { 0, now, -1, {} } end
  redis.call('DEL', KEYS[1])
end
if action ~= 'look' and redis.call('HLEN', KEYS[1]) > MOST_FIELDS then
  redis.call('DEL', KEYS[1])
end

local mine = 'node ' .. id
local stored = redis.call('HGET', KEYS[1], mine)
local known = stored and parse(stored)

if action == 'leave' then
  if known and known.incarnation == incarnation then redis.call('HDEL', KEYS[1], mine) end
  return { 0, now, -1, {} }
end

local rival, before = {}, -1
if action == 'beat' or action == 'insist' then
  local later = known and known.incarnation > incarnation and known.age < ttl
  if later and action == 'beat' then
    rival = { known.incarnation, known.sealed }
  else
    if known and known.incarnation == incarnation then before = known.beat end
    redis.call('HSET', KEYS[1], mine, string.format('%s %.0f ', incarnation, now) .. ARGV[6])
  end
  redis.call('HSETNX', KEYS[1], 'since', string.format('%.0f', now))
end

local since = tonumber(redis.call('HGET', KEYS[1], 'since') or now) or now
local answer = { math.max(0, now - since), now, before, rival }
local channels = {}
if redis.call('HLEN', KEYS[1]) > MOST_FIELDS then return answer end
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local name = string.match(all[i], '^node (.*)$')
  local node = name and parse(all[i + 1])
  if node and node.age > memory then
    if action ~= 'look' then redis.call('HDEL', KEYS[1], all[i]) end
  elseif node then
    answer[#answer + 1] = { name, node.incarnation, node.age, -1, node.sealed }
    if begin then channels[#channels + 1] = begin .. name .. middle .. node.incarnation end
  end
end

-- Lua cannot pass much more than this many arguments at once; a cluster has far fewer nodes.
if #channels > 0 and #channels < 5000 then
  local listeners = redis.call('PUBSUB', 'NUMSUB', unpack(channels))
  for i = 1, #channels do answer[i + 4][4] = listeners[2 * i] end
end
return answer
