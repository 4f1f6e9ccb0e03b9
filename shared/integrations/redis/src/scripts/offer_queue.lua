-- KEYS: queue, fed, assignments. ARGV: id, score, assignment, each offer in turn.
-- An assignment that was noted is not put into the queue again: a worker may have taken it.
local t = redis.call('TIME')
for i = 1, #ARGV, 3 do
  if redis.call('HGET', KEYS[3], ARGV[i]) ~= ARGV[i + 2] then
    redis.call('ZADD', KEYS[2], t[1], ARGV[i])
    redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 2])
  end
end
return 0
