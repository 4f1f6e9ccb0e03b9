-- KEYS: results, logs, active, taken, begun. ARGV: id, version, done, whether to publish, the
-- publication, the number of fields, the fields and their values in turn, the logs.
-- What may be refused comes before what must not happen twice: the version, which stops a
-- repeat, is written last.
redis.call('LLEN', KEYS[3])
local had = redis.call('HGET', KEYS[1], 'watchbill_version')
local fresh = not (had and tonumber(had) >= tonumber(ARGV[2]))
if fresh then
  redis.call('LLEN', KEYS[2])
  local last = 6 + 2 * tonumber(ARGV[6])
  for i = 7, last, 2 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
  if ARGV[4] == '1' then redis.call('PUBLISH', KEYS[1], ARGV[5]) end
  for i = last + 1, #ARGV do
    redis.call('RPUSH', KEYS[2], ARGV[i])
  end
  redis.call('HSET', KEYS[1], 'watchbill_version', ARGV[2])
end
if ARGV[3] == '1' then
  local message = redis.call('HGET', KEYS[5], ARGV[1])
  if message then
    redis.call('LREM', KEYS[3], 0, message)
    redis.call('ZREM', KEYS[4], message)
    redis.call('HDEL', KEYS[5], ARGV[1])
  end
end
return fresh and 1 or 0
