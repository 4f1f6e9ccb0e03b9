-- KEYS: pending, active, taken. ARGV: lease in ms, limit.
-- Returns messages, each followed by 1 if it was taken before, else 0.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local till, most = now + tonumber(ARGV[1]), tonumber(ARGV[2])
-- Refuses a list of the wrong type before anything is written.
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
