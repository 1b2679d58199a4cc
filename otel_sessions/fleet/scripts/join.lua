-- now, process, number of the join, address, used, cap, shards, lease, three random digits, format
-- -> OK epoch | OLD | FORMAT found | SHARDS found
local process, joins, address, used = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local cap, shards, lease, digits, format = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10]

local found = redis.call('HMGET', g, 'format', 'shards')
if found[1] and found[1] ~= format then
  return {'FORMAT', found[1]}
end
if found[2] and found[2] ~= shards then
  return {'SHARDS', found[2]}
end

local row = read_row(process)
-- A late copy of an earlier join would declare the epoch of a later join dead.
if row and row.joins > joins then
  return {'OLD'}
end
-- A repeat gets the same answer: the first answer may be lost.
if row and row.joins == joins then
  return {'OK', row.epoch}
end

-- The clock makes epochs grow over a store that forgot the last one. The digits tell apart two joins within the
-- millisecond in which it forgot.
local last = number('epoch')
local epoch = int(math.max(math.floor(last / 1000) + 1, now) * 1000 + digits)
redis.call('HSET', g, 'epoch', epoch, 'cap', int(cap), 'shards', shards, 'format', format)

if row then
  declare_dead(row.epoch)
  row.unburied = row.unburied .. ',' .. epoch
else
  row = {grant = 0, unburied = epoch}
  local free = math.max(0, cap - number('granted'))
  set_grant(row, math.min(used, free))
  -- This process has sessions, and the fleet does not know it: the store forgot. Until all are back, a grant
  -- covers what is in use and no more, else the early ones take the places of the late ones.
  if used > 0 then
    redis.call('HSET', g, 'grace', int(now + lease))
  end
end
row.address, row.epoch, row.joins, row.beat = address, epoch, joins, 0
write_row(process, row)
redis.call('HSET', m, 'e:' .. epoch, process)
redis.call('ZADD', l, int(now + lease), epoch)
redis.call('HINCRBY', g, 'version', 1)
return {'OK', epoch}
