-- KEYS: cost of the trace. ARGV: field of the task, tokens, usd, requests, seconds to live.
-- The sums move by what is new since the last time: others may count in them too.
local had = redis.call('HGET', KEYS[1], ARGV[1])
local tokens, usd, requests = 0, 0, 0
if had then
  local a, b, c = string.match(had, '^(%S+) (%S+) (%S+)$')
  tokens, usd, requests = tonumber(a) or 0, tonumber(b) or 0, tonumber(c) or 0
end
redis.call('HINCRBY', KEYS[1], 'tokens', string.format('%.0f', tonumber(ARGV[2]) - tokens))
redis.call('HINCRBYFLOAT', KEYS[1], 'usd', string.format('%.12f', tonumber(ARGV[3]) - usd))
redis.call('HINCRBY', KEYS[1], 'requests', string.format('%.0f', tonumber(ARGV[4]) - requests))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 0
