#!lua flags=allow-oom
-- Give the members that still stand under this lease their deadline back.
-- KEYS[1]  executing pool (ZSET)
-- ARGV[1]  the lease (a score, as claim.lua returned it)
-- ARGV[2…] score, member, score, member, …
-- Returns  how many were released
local lease = tonumber(ARGV[1])
local released = 0
for i = 2, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i + 1])
  if score and tonumber(score) == lease then
    redis.call('ZADD', KEYS[1], 'XX', ARGV[i], ARGV[i + 1])
    released = released + 1
  end
end
return released
