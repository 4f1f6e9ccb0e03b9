-- KEYS: an approval's key, our mark. Deletes only what we wrote.
local there = redis.call('GET', KEYS[1])
if not there or redis.call('GET', KEYS[2]) ~= redis.sha1hex(there) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[2])
return 1
