-- KEYS: queue, fed, assignments. ARGV: id, score and assignment of each offer in turn.
-- A recorded assignment is not enqueued again, because a worker may have taken it.
local t = redis.call('TIME')
for i = 1, #ARGV, 3 do
  if redis.call('HGET', KEYS[3], ARGV[i]) ~= ARGV[i + 2] then
    redis.call('ZADD', KEYS[2], t[1], ARGV[i])
    redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 2])
  end
end
return 0
