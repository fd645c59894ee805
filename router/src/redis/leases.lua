-- Saves changes of a mesh's leases: one hash, a field per presence and a marker.
--
-- KEYS[1]  the hash
-- ARGV     epoch, number of this save, number of the one before, "whole" or "part", how long the
--          hash is kept in ms; then for each change "+", presence, bytes or "-", presence
--
-- Answers  { "ok" }, { "stale", higher epoch }, or { "gone" } if the marker is not that of the
--          save before in this epoch
--
-- Numbers are 16 hexadecimal digits: as text in order, and never rounded.

local key, epoch, number, before = KEYS[1], ARGV[1], ARGV[2], ARGV[3]

local marker = redis.call('HGET', key, 'marker')
local holder, last, _
if marker then _, _, holder, last = string.find(marker, '^(%x+) (%x+)$') end
if holder and holder > epoch then return { 'stale', holder } end

if ARGV[4] == 'whole' then
  -- An earlier save of this epoch that was held up on its way must not undo a later one.
  if holder == epoch and last >= number then return { 'gone' } end
  redis.call('DEL', key)
elseif holder ~= epoch or last ~= before then
  return { 'gone' }
end

local i = 6
while ARGV[i] do
  local field = 'presence ' .. ARGV[i + 1]
  if ARGV[i] == '+' then
    redis.call('HSET', key, field, ARGV[i + 2])
    i = i + 3
  else
    redis.call('HDEL', key, field)
    i = i + 2
  end
end
redis.call('HSET', key, 'marker', epoch .. ' ' .. number)
redis.call('PEXPIRE', key, ARGV[5])
return { 'ok' }
