#!lua flags=allow-oom
-- Lease members that are due, or will be soon: their score becomes the lease's expiry, none leaves
-- the pool.
-- The oldest, oldest first; if more are due than are asked for, a quarter are the newest.
-- KEYS[1]  executing pool (ZSET)
-- ARGV[1]  how many at most (0 to 1,000)
-- ARGV[2]  length of the lease, seconds
-- ARGV[3]  how soon, seconds
-- Returns  {now, lease, next score or '', member, score before, member, score before, …};
--          numbers as text with 17 digits, which is exact for a double
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local lease = string.format('%.17g', now + tonumber(ARGV[2]))
local instant = string.format('%.17g', now + tonumber(ARGV[3]))
local limit = tonumber(ARGV[1])
local newest = math.floor(limit / 4)
if redis.call('ZCOUNT', KEYS[1], '-inf', instant) <= limit then
  newest = 0
end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', instant,
  'WITHSCORES', 'LIMIT', 0, limit - newest)
if newest > 0 then
  local fresh = redis.call('ZREVRANGEBYSCORE', KEYS[1], instant, '-inf',
    'WITHSCORES', 'LIMIT', 0, newest)
  for i = 1, #fresh do
    due[#due + 1] = fresh[i]
  end
end
if #due > 0 then
  local leased = {}
  for i = 1, #due, 2 do
    leased[i] = lease
    leased[i + 1] = due[i]
  end
  redis.call('ZADD', KEYS[1], 'XX', unpack(leased))
end
local next_score = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or ''
return {string.format('%.17g', now), lease, next_score, unpack(due)}
