-- KEYS: active, taken, begun, rejected. ARGV: message, entry.
-- Once: the entry goes again where the message was not there any more.
local begun = redis.call('HGETALL', KEYS[3])
redis.call('LPUSH', KEYS[4], ARGV[2])
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then
  redis.call('LPOP', KEYS[4])
end
redis.call('ZREM', KEYS[2], ARGV[1])
for i = 2, #begun, 2 do
  if begun[i] == ARGV[1] then redis.call('HDEL', KEYS[3], begun[i - 1]) end
end
return 0
