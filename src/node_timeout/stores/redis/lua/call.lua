-- Call one command, to see whether a script may.
-- KEYS[1]  the key that the command is about
-- ARGV[1]  the command
-- ARGV[2…] its arguments
-- Returns  what the command returns
return redis.call(unpack(ARGV))
