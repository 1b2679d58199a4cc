-- now, epoch, lane, deadline, then for each session: id, nonce, blob
-- KEYS[5]: the owner's ids
-- -> OK, then for each session 0 or the epoch that has the id | FENCED | OLD | LATE
local epoch, lane = ARGV[2], tonumber(ARGV[3])
local owner = read_owner(epoch)
local refused = refusal(epoch, owner, lane)
if refused then
  return refused
end
if is_late(ARGV[4]) then
  return {'LATE'}
end
local answer = {'OK'}
for index = 5, #ARGV, 3 do
  local id, nonce = ARGV[index], ARGV[index + 1]
  local record, result = read_record(id), '0'
  if not record then
    record = {owner = epoch, turn = 1, created = int(now), nonce = nonce, blob = ARGV[index + 2]}
    write_record(id, record)
    redis.call('SADD', KEYS[5], id)
    redis.call('HINCRBY', b, 'created', 1)
    count(owner, record, 1)
  -- The same nonce is the same session: this call is a repeat.
  elseif record.owner ~= epoch or record.nonce ~= nonce then
    result = record.owner
  end
  answer[#answer + 1] = result
end
write_owner(epoch, owner)
return answer
