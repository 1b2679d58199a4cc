-- now, epochs... -> OK
-- The caller has seen each epoch as an owner in a shard for two leases.
for index = 2, #ARGV do
  local epoch = ARGV[index]
  -- Most owners are members. One that is dead already only dies again.
  if not redis.call('ZSCORE', l, epoch) then
    redis.call('ZADD', d, int(now), epoch)
    redis.call('HINCRBY', g, 'version', 1)
  end
end
return {'OK'}
