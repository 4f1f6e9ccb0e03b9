-- KEYS: task. ARGV: version, data, status, updated_at, created_at, priority.
-- 0: this version or a later one is stored. 1: written. 2: the task was missing and is
-- restored. The same version with another status means that its owner enqueued the task again.
local had = tonumber(redis.call('HGET', KEYS[1], 'watchbill_version') or -1)
local new = tonumber(ARGV[1])
if had > new then return 0 end
if had == new and redis.call('HGET', KEYS[1], 'status') == ARGV[3] then return 0 end
local there = redis.call('EXISTS', KEYS[1])
redis.call('HSET', KEYS[1], 'data', ARGV[2], 'status', ARGV[3], 'updated_at', ARGV[4],
  'watchbill_version', ARGV[1])
if there == 1 then return 1 end
redis.call('HSET', KEYS[1], 'created_at', ARGV[5], 'priority', ARGV[6])
return 2
