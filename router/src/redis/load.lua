-- All of a mesh's leases, unless that is more than anybody of us has saved.
--
-- KEYS[1]  the hash
-- ARGV     most fields, most bytes
--
-- Answers  what HGETALL does, or { "too much" }

if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return {} end
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then return { 'too much' } end
local all, bytes = redis.call('HGETALL', KEYS[1]), 0
for i = 1, #all do bytes = bytes + #all[i] end
if bytes > tonumber(ARGV[2]) then return { 'too much' } end
return all
