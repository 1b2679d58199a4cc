-- now, epoch
-- KEYS[5]: nonces of orphans whose hooks have run, by time
-- -> OK count digest, the number of records, the number of owners, owners..., then the books: word, count ... | FENCED
-- A survivor has claimed what it heard of before the store went back. The fleet may name this epoch as living.
if redis.call('ZSCORE', f, ARGV[2]) then
  return {'FENCED'}
end
-- Every process audits now and then. So nonces that are as old as a fence go a few at a time.
local old = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', int(now - HOUR), 'LIMIT', 0, 100)
if #old > 0 then
  redis.call('ZREM', KEYS[5], unpack(old))
end
local owner, owners = read_owner(ARGV[2]), redis.call('HKEYS', w)
local answer = {'OK', int(owner.count), int(owner.digest), redis.call('HLEN', s), #owners}
for _, epoch in ipairs(owners) do
  answer[#answer + 1] = epoch
end
for _, value in ipairs(redis.call('HGETALL', b)) do
  answer[#answer + 1] = value
end
return answer
