-- Put node runs back into the pool, and wake the scanners if the earliest deadline moved forward.
-- One that is absent, or stands under the lease of its own message, gets its score. Any other gets
-- the earlier of its two scores: a change may have moved it forward meanwhile.
-- KEYS[1]  executing pool (ZSET)
-- ARGV[1]  wake-up channel
-- ARGV[2…] lease or '', score, member, lease or '', score, member, … (at most 1,000 members)
-- Returns  now as text
local before = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local moved = {}
for i = 2, #ARGV, 3 do
  local lease, score, member = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2]
  local present = redis.call('ZSCORE', KEYS[1], member)
  if not present or tonumber(present) == lease or tonumber(score) < tonumber(present) then
    moved[#moved + 1] = score
    moved[#moved + 1] = member
  end
end
if #moved > 0 then
  redis.call('ZADD', KEYS[1], unpack(moved))
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if first and (not before or tonumber(first) < tonumber(before)) then
  redis.call('PUBLISH', ARGV[1], first)
end
local time = redis.call('TIME')
return string.format('%.17g', tonumber(time[1]) + tonumber(time[2]) / 1e6)
