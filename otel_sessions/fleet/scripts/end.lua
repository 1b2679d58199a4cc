-- now, epoch, lane, then for each session: id, reason
-- KEYS[5]: the owner's ids
-- -> OK, the number ended | FENCED | OLD
local epoch, lane = ARGV[2], tonumber(ARGV[3])
local owner = read_owner(epoch)
local refused = refusal(epoch, owner, lane)
if refused then
  return refused
end
local ended = 0
for index = 4, #ARGV, 2 do
  local id = ARGV[index]
  local record = read_record(id)
  -- A missing id counts nothing: this call is a repeat. Another's session is the other's to end.
  if record and record.owner == epoch then
    redis.call('HDEL', s, id)
    redis.call('SREM', KEYS[5], id)
    redis.call('HINCRBY', b, ARGV[index + 1], 1)
    count(owner, record, -1)
    ended = ended + 1
  end
end
-- A call that comes hours late finds no fence any more. It must not bring a forgotten owner back.
if redis.call('HEXISTS', w, epoch) == 1 then
  write_owner(epoch, owner)
end
return {'OK', ended}
