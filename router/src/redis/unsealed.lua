-- How many nodes live of a version that sealed nothing.
--
-- KEYS[1]  their table
-- ARGV     time to live in ms

if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return { 0 } end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local living = 0
if redis.call('HLEN', KEYS[1]) > 2048 then return { living } end
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
  local beat = #value < 16384 and string.match(value, '^%x+ %S+ %d+ (%d+) ')
  if beat and now - tonumber(beat) <= tonumber(ARGV[1]) then living = living + 1 end
end
return { living }
