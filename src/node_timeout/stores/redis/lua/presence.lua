#!lua flags=allow-oom
-- Say that a process is alive, and forget those that have been silent for too long.
-- KEYS[1]  processes (ZSET: what a process says, by the instant at which it counts as gone)
-- ARGV[1]  how long it lasts, seconds; 0 says nothing
-- ARGV[2]  what this process said before, or ''
-- ARGV[3]  what it says
-- Returns  {member, score, member, score, …} of all that are alive; scores with 17 digits
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.17g', now))
gone[#gone + 1] = ARGV[2]
redis.call('ZREM', KEYS[1], unpack(gone, math.max(1, #gone - 1000)))
if ARGV[1] ~= '0' then
  redis.call('ZADD', KEYS[1], string.format('%.17g', now + tonumber(ARGV[1])), ARGV[3])
end
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
