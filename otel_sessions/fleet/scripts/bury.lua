-- now, epoch -> OK | LIVING
-- The caller has seen every shard empty of the epoch, and fenced.
local epoch = ARGV[2]
if redis.call('ZSCORE', l, epoch) then
  return {'LIVING'}
end
redis.call('ZREM', d, epoch)
local process = redis.call('HGET', m, 'e:' .. epoch)
-- A suspected epoch has no process, and a buried one has none any more.
if process then
  redis.call('HDEL', m, 'e:' .. epoch)
  local row, left = read_row(process), {}
  for unburied in string.gmatch(row.unburied, '%d+') do
    if unburied ~= epoch then
      left[#left + 1] = unburied
    end
  end
  -- Only the last epoch frees the grant: a process that lives on still uses it.
  if #left == 0 then
    set_grant(row, 0)
    redis.call('HDEL', m, 'p:' .. process)
  else
    row.unburied = table.concat(left, ',')
    write_row(process, row)
  end
end
redis.call('HINCRBY', g, 'version', 1)
return {'OK'}
