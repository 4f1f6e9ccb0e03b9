-- KEYS: active, taken, rejected. ARGV: message, entry.
-- Once: the entry goes again where the message was not there any more.
redis.call('LPUSH', KEYS[3], ARGV[2])
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then
  redis.call('LPOP', KEYS[3])
end
redis.call('ZREM', KEYS[2], ARGV[1])
return 0
