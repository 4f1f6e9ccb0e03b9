-- KEYS: the sum, what we have added to it. ARGV: our part, tokens, usd, requests (or empty),
-- expiry in seconds for a sum that we create and for our own note; then how to see that an
-- older build has counted: the field of its note in the sum (or empty), or a TTL above any of
-- this sum. Others count in the sum and decide by it, so only new cost is added and the sum
-- never falls.
local had = {0, 0, 0}
local note = redis.call('HGET', KEYS[2], ARGV[1])
if not note and redis.call('TYPE', KEYS[1]).ok == 'hash' then
  if ARGV[7] ~= '' then
    note = redis.call('HGET', KEYS[1], ARGV[7])
  elseif redis.call('TTL', KEYS[1]) > tonumber(ARGV[8]) then
    -- That build set these sums to the cost here, so they include it.
    local all = string.format('%s %s %s', ARGV[2], ARGV[3], tonumber(ARGV[4]) or 0)
    redis.call('HSET', KEYS[2], ARGV[1], all)
    redis.call('EXPIRE', KEYS[2], ARGV[6])
    return 0
  end
end
if note then
  local i = 0
  for figure in string.gmatch(note, '%S+') do
    i = i + 1
    had[i] = tonumber(figure) or 0
  end
end
local more, any = {}, false
for i = 1, 3 do
  more[i] = math.max(0, (tonumber(ARGV[i + 1]) or 0) - had[i])
  any = any or more[i] > 0
end
if not any then return 0 end
local begun = redis.call('EXISTS', KEYS[1]) == 0
-- First adds zero, so that a wrong type is refused before anything is added.
redis.call('HINCRBY', KEYS[1], 'tokens', 0)
redis.call('HINCRBYFLOAT', KEYS[1], 'usd', 0)
redis.call('HINCRBY', KEYS[1], 'requests', 0)
redis.call('HINCRBY', KEYS[1], 'tokens', string.format('%.0f', more[1]))
redis.call('HINCRBYFLOAT', KEYS[1], 'usd', string.format('%.12f', more[2]))
redis.call('HINCRBY', KEYS[1], 'requests', string.format('%.0f', more[3]))
local now = {had[1] + more[1], had[2] + more[2], had[3] + more[3]}
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f %.12f %.0f', now[1], now[2], now[3]))
redis.call('EXPIRE', KEYS[2], ARGV[6])
if begun then redis.call('EXPIRE', KEYS[1], ARGV[5]) end
return 1
