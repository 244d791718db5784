#!lua flags=allow-oom
-- Take or renew the reconciler's lead.
-- KEYS[1]  the lead (STRING: its holder's name, with a time to live)
-- ARGV[1]  name of the caller
-- ARGV[2]  length of the lead, milliseconds; 0 gives it up
-- Returns  1 if the caller leads, else 0
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
