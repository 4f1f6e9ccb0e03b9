-- KEYS: an approval's key, our mark. ARGV: the approval, seconds to live.
-- The mark says what we wrote there. 0: something else is there, which is another program's
-- and stays.
local there = redis.call('GET', KEYS[1])
if there and redis.call('GET', KEYS[2]) ~= redis.sha1hex(there) then return 0 end
redis.call('SET', KEYS[2], redis.sha1hex(ARGV[1]), 'EX', ARGV[2])
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
