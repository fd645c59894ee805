-- Saves changes of a mesh's leases: one hash, a field per presence and a marker.
--
-- KEYS[1]  the hash
-- ARGV     epoch, number of this save, number of the one before, "whole", "part" or "forced", the
--          sealed marker, how long the hash is kept in ms; then for each change "+", presence, bytes
--          or "-", presence
--
-- Answers  { "ok" }; { "stale", marker, sealed } if a higher epoch has saved; { "gone", marker,
--          sealed } if the marker is not that of the save before in this epoch. The marker is what
--          is there: two numbers, which anybody may have written, and what its node has sealed.
--          "forced" does not look at it: it is for a marker that does not open.
--
-- Numbers are 16 hexadecimal digits: as text in order, and never rounded.

local key, epoch, number, before, how = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- Whoever can write to Redis can put something else here.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end

local marker = redis.call('HGET', key, 'marker')
local holder, last, sealed, _
if marker then _, _, holder, last, sealed = string.find(marker, '^(%x+) (%x+) (.*)$') end
local there = holder and (holder .. ' ' .. last) or ''
sealed = string.sub(sealed or '', 1, 1024)

if how == 'forced' then
  redis.call('DEL', key)
elseif holder and holder > epoch then
  return { 'stale', there, sealed }
elseif how == 'whole' then
  -- An earlier save of this epoch that was held up on its way must not undo a later one.
  if holder == epoch and last >= number then return { 'gone', there, sealed } end
  redis.call('DEL', key)
elseif holder ~= epoch or last ~= before then
  return { 'gone', there, sealed }
end

local i = 7
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
redis.call('HSET', key, 'marker', epoch .. ' ' .. number .. ' ' .. ARGV[5])
redis.call('PEXPIRE', key, ARGV[6])
return { 'ok' }
