-- KEYS: info. ARGV: time. Does nothing for an agent that is not registered.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'last_heartbeat', ARGV[1])
return 1
