-- Put node runs into the pool and wake the scanners if the earliest deadline moved forward.
-- KEYS[1]  executing pool (ZSET)
-- ARGV[1]  'NX' leaves members alone that are present, 'LT' moves them to an earlier score as well
-- ARGV[2]  wake-up channel
-- ARGV[3…] score, member, score, member, … (at most 1,000 pairs)
-- Returns  {how many members were added or moved, now as text}
local before = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local moved = redis.call('ZADD', KEYS[1], ARGV[1], 'CH', unpack(ARGV, 3))
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if first and (not before or tonumber(first) < tonumber(before)) then
  redis.call('PUBLISH', ARGV[2], first)
end
local time = redis.call('TIME')
return {moved, string.format('%.17g', tonumber(time[1]) + tonumber(time[2]) / 1e6)}
