-- now, epoch, number of the beat, places wanted, places used, 1 if somebody was refused, lease
-- -> OK grant deadline version pressure former granted, numbers of living and dead epochs, dead... | FENCED | OLD
local epoch, beat, want, used = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local refused, lease = ARGV[6] == '1', tonumber(ARGV[7])

local process = redis.call('HGET', m, 'e:' .. epoch)
-- A dead epoch stays dead: others may have claimed its sessions.
if not process or not redis.call('ZSCORE', l, epoch) then
  return {'FENCED'}
end
local row = read_row(process)
-- A late copy asks for the grant of an earlier moment. The process may have more sessions by now.
if beat < row.beat then
  return {'OLD'}
end
row.beat = beat

-- Nobody has beaten for long: the store was away, not the processes. Give everybody one lease to come back.
-- After three times in a row it is a lone survivor that is slow, and it must clean.
local quiet, last = number('quiet'), number('beat')
if last > 0 and now - last > lease * 2 / 3 then
  if redis.call('HINCRBY', g, 'quiets', 1) <= 3 then
    quiet = now + lease
  end
else
  redis.call('HSET', g, 'quiets', 0)
end
redis.call('HSET', g, 'quiet', int(quiet), 'beat', int(now))

redis.call('ZADD', l, int(now + lease), epoch)
if now >= quiet then
  for _, overdue in ipairs(redis.call('ZRANGEBYSCORE', l, '-inf', '(' .. int(now), 'LIMIT', 0, 8)) do
    declare_dead(overdue)
  end
end

-- While a former epoch is not buried, its sessions stand on this grant.
local _, commas = string.gsub(row.unburied, ',', '')
if commas == 0 then
  local free = math.max(0, number('cap') - number('granted'))
  local share = math.max(1, math.floor(free / (2 * redis.call('ZCARD', l))))
  local target = math.min(want, math.max(used, row.grant + share))
  if now < number('grace') then
    target = math.min(want, math.max(used, row.grant))
  end
  set_grant(row, math.min(target, row.grant + free))
end
write_row(process, row)

-- Only what cannot be had from the free places must come from others.
if refused and commas == 0 and row.grant <= used then
  redis.call('HSET', g, 'pressure', int(now + lease))
end
local pressure = now < number('pressure') and 1 or 0
local answer = {'OK', row.grant, now + lease, number('version'), pressure, commas}
for _, count in ipairs({number('granted'), redis.call('ZCARD', l), redis.call('ZCARD', d)}) do
  answer[#answer + 1] = count
end
-- A suspected epoch is dead a lease later.
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', d, '-inf', int(now), 'LIMIT', 0, 8)) do
  answer[#answer + 1] = dead
end
return answer
