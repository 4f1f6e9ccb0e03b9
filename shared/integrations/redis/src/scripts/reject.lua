-- KEYS: queue, taken, takers, rejected, processing, and the task, if its key can be named.
-- ARGV: member, entry, the data that was read (or empty), updated_at, data, then channel and
-- text in turn.
-- Idempotent: acts only while the member is still queued or taken and the task is unchanged.
-- What may fail comes first: the entry and the channels. Nothing after them fails.
local queued = redis.call('ZSCORE', KEYS[1], ARGV[1])
local taken = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not queued and not taken then return 0 end
redis.call('SCARD', KEYS[5])
redis.call('HLEN', KEYS[3])
local task = KEYS[6] and redis.call('TYPE', KEYS[6]).ok == 'hash'
local had = task and redis.call('HMGET', KEYS[6], 'data', 'status')
if had and ARGV[3] ~= '' and had[1] ~= ARGV[3] then return 0 end
redis.call('LPUSH', KEYS[4], ARGV[2])
for i = 6, #ARGV, 2 do
  local said = redis.pcall('PUBLISH', ARGV[i], ARGV[i + 1])
  if type(said) == 'table' and said.err then
    redis.call('LPOP', KEYS[4])
    return said
  end
end
if had and (had[1] or had[2]) then
  redis.call('HSET', KEYS[6], 'data', ARGV[5], 'status', 'failed', 'updated_at', ARGV[4])
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('SREM', KEYS[5], ARGV[1])
return 1
