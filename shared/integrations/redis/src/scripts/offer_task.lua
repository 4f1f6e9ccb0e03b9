-- KEYS: task. ARGV: assignment, data, status, created_at, priority.
-- 0: already handed over under this assignment; it belongs to its worker. 2: another program's
-- task has the same id.
local had = redis.call('HMGET', KEYS[1], 'watchbill_fed', 'watchbill_version')
if had[1] == ARGV[1] then return 0 end
if not had[1] and not had[2] and redis.call('EXISTS', KEYS[1]) == 1 then return 2 end
redis.call('HSET', KEYS[1], 'data', ARGV[2], 'status', ARGV[3], 'created_at', ARGV[4],
  'priority', ARGV[5], 'watchbill_fed', ARGV[1])
return 1
