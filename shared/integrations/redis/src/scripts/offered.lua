-- KEYS: fed. Returns ids with their ages in seconds, by the server's clock.
local now = tonumber(redis.call('TIME')[1])
local all = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 2, #all, 2 do
  all[i] = math.max(0, now - tonumber(all[i]))
end
return all
