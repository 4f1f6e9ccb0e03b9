-- KEYS: queue, taken, takers. ARGV: taker, lease in ms, ids.
-- The lease is written before the id leaves the queue: a failed script is not rolled back, so
-- no id is lost.
local t = redis.call('TIME')
local till = t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[2])
local got = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if redis.call('ZSCORE', KEYS[1], id) then
    redis.call('ZADD', KEYS[2], till, id)
    redis.call('HSET', KEYS[3], id, ARGV[1])
    redis.call('ZREM', KEYS[1], id)
    got[#got + 1] = id
  end
end
return got
