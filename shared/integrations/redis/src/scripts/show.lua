-- KEYS: an approval's key, our mark. ARGV: the approval, expiry in seconds.
-- The mark is a hash of what we wrote. 0: the key holds another program's value, which is kept.
local there = redis.call('GET', KEYS[1])
if there and redis.call('GET', KEYS[2]) ~= redis.sha1hex(there) then return 0 end
redis.call('SET', KEYS[2], redis.sha1hex(ARGV[1]), 'EX', ARGV[2])
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
