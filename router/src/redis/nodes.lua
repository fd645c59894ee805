-- The table of nodes: one hash, a field per node and the time of its creation.
--
-- KEYS[1]  the table
-- ARGV     what to do ("beat", "look" or "leave"), id, incarnation, time to live in ms,
--          how long the dead are remembered in ms, state, weight, info, and the channel's
--          beginning and middle, if who listens on the nodes' channels is to be told
--
-- Answers  { age of the table in ms, superseded, now in ms, time of this process's heartbeat before
--            in ms or -1, { id, incarnation, state, weight, age in ms, listeners or -1, info } ... }
--
-- An incarnation is 16 hexadecimal digits: as text in order, and never rounded.

local action, id, incarnation = ARGV[1], ARGV[2], ARGV[3]
local ttl, memory = tonumber(ARGV[4]), tonumber(ARGV[5])
local begin, middle = ARGV[9], ARGV[10]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Nothing for what another version may have written.
local function parse(value)
  local _, last, inc, state, weight, beat = string.find(value, '^(%x+) (%S+) (%d+) (%d+) ')
  if not last then return nil end
  return {
    incarnation = inc,
    state = state,
    weight = tonumber(weight),
    beat = tonumber(beat),
    age = math.max(0, now - tonumber(beat)),
    info = string.sub(value, last + 1),
  }
end

local mine = 'node ' .. id
local stored = redis.call('HGET', KEYS[1], mine)
local known = stored and parse(stored)

if action == 'leave' then
  if known and known.incarnation == incarnation then redis.call('HDEL', KEYS[1], mine) end
  return { 0, 0, now, -1 }
end

local superseded, before = 0, -1
if action == 'beat' then
  if known and known.incarnation > incarnation and known.age < ttl then
    superseded = 1
  else
    if known and known.incarnation == incarnation then before = known.beat end
    local head = string.format('%s %s %s %.0f ', incarnation, ARGV[6], ARGV[7], now)
    redis.call('HSET', KEYS[1], mine, head .. ARGV[8])
  end
  redis.call('HSETNX', KEYS[1], 'since', string.format('%.0f', now))
end

local since = tonumber(redis.call('HGET', KEYS[1], 'since') or now)
local answer = { math.max(0, now - since), superseded, now, before }
local channels = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local name = string.match(all[i], '^node (.*)$')
  local node = name and parse(all[i + 1])
  if node and node.age > memory then
    if action == 'beat' then redis.call('HDEL', KEYS[1], all[i]) end
  elseif node then
    answer[#answer + 1] =
      { name, node.incarnation, node.state, node.weight, node.age, -1, node.info }
    if begin then channels[#channels + 1] = begin .. name .. middle .. node.incarnation end
  end
end

-- Lua cannot pass much more than this many arguments at once; a cluster has far fewer nodes.
if #channels > 0 and #channels < 5000 then
  local listeners = redis.call('PUBSUB', 'NUMSUB', unpack(channels))
  for i = 1, #channels do answer[i + 4][6] = listeners[2 * i] end
end
return answer
