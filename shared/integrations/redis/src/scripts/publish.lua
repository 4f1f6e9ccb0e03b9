-- KEYS: cursor. ARGV: whether there is a from, from, to, then channel and text in turn.
-- The cursor moves first, so that nothing is published if memory is full. A refused channel
-- resets it.
local at = redis.call('GET', KEYS[1])
if ARGV[1] == '1' then
  if at ~= ARGV[2] then return 0 end
elseif at then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3])
for i = 4, #ARGV, 2 do
  local said = redis.pcall('PUBLISH', ARGV[i], ARGV[i + 1])
  if type(said) == 'table' and said.err then
    if at then redis.call('SET', KEYS[1], at) else redis.call('DEL', KEYS[1]) end
    return said
  end
end
return 1
