#!lua flags=allow-oom
-- Remove the members that still stand under this lease.
-- KEYS[1]  executing pool (ZSET)
-- ARGV[1]  the lease (a score, as claim.lua returned it)
-- ARGV[2…] members
-- Returns  how many were removed
local lease = tonumber(ARGV[1])
local mine = {}
for i = 2, #ARGV do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score and tonumber(score) == lease then
    mine[#mine + 1] = ARGV[i]
  end
end
if #mine == 0 then
  return 0
end
return redis.call('ZREM', KEYS[1], unpack(mine))
