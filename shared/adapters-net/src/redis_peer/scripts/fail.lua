-- KEYS: task. ARGV: updated_at, error. Only where there is a task.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'status', 'failed', 'updated_at', ARGV[1], 'error', ARGV[2])
return 1
