-- KEYS: task. ARGV: the data that was read (or empty), updated_at, data, then channel and text
-- in turn.
-- 0: its owner has stored other data since, so it must be read again. A key that is no task is
-- not changed, and a missing task is not created.
local task = redis.call('TYPE', KEYS[1]).ok == 'hash'
local had = task and redis.call('HMGET', KEYS[1], 'data', 'status')
if had and ARGV[1] ~= '' and had[1] ~= ARGV[1] then return 0 end
if had and (had[1] or had[2]) then
  redis.call('HSET', KEYS[1], 'data', ARGV[3], 'status', 'failed', 'updated_at', ARGV[2])
end
for i = 4, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return 1
