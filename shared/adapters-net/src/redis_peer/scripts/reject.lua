-- KEYS: queue, taken, takers, rejected. ARGV: member, entry.
-- Once: only while the member still stands somewhere. The entry comes first: what fails
-- half-way loses nothing.
local queued = redis.call('ZSCORE', KEYS[1], ARGV[1])
local taken = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not queued and not taken then return 0 end
redis.call('LPUSH', KEYS[4], ARGV[2])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
return 1
