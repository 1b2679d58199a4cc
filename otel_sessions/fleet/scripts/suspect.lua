-- now, lease, epochs... -> OK
-- The caller has seen each epoch as an owner in a shard for two leases.
local lease = tonumber(ARGV[2])
for index = 3, #ARGV do
  local epoch = ARGV[index]
  -- Most owners are members. One that is dead already keeps the time of its death.
  -- A store that just forgot a member has a process that still serves. No beat prolongs its lease any more.
  if not redis.call('ZSCORE', l, epoch) then
    redis.call('ZADD', d, 'NX', int(now + lease), epoch)
    redis.call('HINCRBY', g, 'version', 1)
  end
end
return {'OK'}
