-- KEYS: active, taken, begun, rejected, and the result of its task, if it names one.
-- ARGV: message, entry, the result's publication, then its fields and values in turn.
-- Idempotent: the entry is removed again if the message was no longer there. An existing result
-- belongs to another message.
local begun = redis.call('HGETALL', KEYS[3])
local kind = KEYS[5] and redis.call('TYPE', KEYS[5]).ok
local status = kind == 'hash' and redis.call('HGET', KEYS[5], 'status')
local free = kind == 'none' or (kind == 'hash' and (not status or status == 'pending'))
redis.call('LPUSH', KEYS[4], ARGV[2])
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then
  redis.call('LPOP', KEYS[4])
elseif free then
  for i = 4, #ARGV, 2 do
    redis.call('HSET', KEYS[5], ARGV[i], ARGV[i + 1])
  end
  redis.call('PUBLISH', KEYS[5], ARGV[3])
end
redis.call('ZREM', KEYS[2], ARGV[1])
for i = 2, #begun, 2 do
  if begun[i] == ARGV[1] then redis.call('HDEL', KEYS[3], begun[i - 1]) end
end
return 0
