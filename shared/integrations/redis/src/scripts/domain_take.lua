-- KEYS: pending, active, taken. ARGV: lease in ms, most.
-- Answers messages, each followed by 1 where it had been taken before.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local till, most = now + tonumber(ARGV[1]), tonumber(ARGV[2])
-- Asked for their kinds: a list of another kind is refused before anything is noted.
redis.call('LLEN', KEYS[2])
local out = {}
for _, message in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, most)) do
  redis.call('ZADD', KEYS[3], till, message)
  out[#out + 1] = message
  out[#out + 1] = 1
end
for _ = #out / 2 + 1, most do
  local message = redis.call('LINDEX', KEYS[1], -1)
  if not message then break end
  redis.call('ZADD', KEYS[3], till, message)
  redis.call('RPOPLPUSH', KEYS[1], KEYS[2])
  out[#out + 1] = message
  out[#out + 1] = 0
end
return out
