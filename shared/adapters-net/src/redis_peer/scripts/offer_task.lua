-- KEYS: task. ARGV: assignment, data, status, created_at, priority.
-- What was handed over under this assignment is its worker's now.
if redis.call('HGET', KEYS[1], 'watchbill_fed') == ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'data', ARGV[2], 'status', ARGV[3], 'created_at', ARGV[4],
  'priority', ARGV[5], 'watchbill_fed', ARGV[1])
return 1
