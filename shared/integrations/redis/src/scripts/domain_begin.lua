-- KEYS: active, taken, begun. ARGV: id, message.
-- Another message of the same task replaces the one before, which is removed.
local had = redis.call('HGET', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
if had and had ~= ARGV[2] then
  redis.call('LREM', KEYS[1], 0, had)
  redis.call('ZREM', KEYS[2], had)
end
return 0
