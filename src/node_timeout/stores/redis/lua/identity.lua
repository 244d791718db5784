-- Tell which server this is, and which one a key names.
-- KEYS[1]  key (STRING: a run_id)
-- Returns  {run_id of this server, value of the key or ''}
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
return {run_id or 'unknown', redis.call('GET', KEYS[1]) or ''}
