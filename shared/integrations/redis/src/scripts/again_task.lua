-- KEYS: task. ARGV: assignment, data, status, created_at, priority.
-- 0: a worker has begun or ended the task since it was checked, so it is not changed.
local status = redis.call('HGET', KEYS[1], 'status')
if status and status ~= 'pending' and status ~= 'assigned' then return 0 end
redis.call('HSET', KEYS[1], 'data', ARGV[2], 'status', ARGV[3], 'created_at', ARGV[4],
  'priority', ARGV[5], 'watchbill_fed', ARGV[1])
return 1
