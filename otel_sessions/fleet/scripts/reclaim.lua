-- now, new epoch, lane, deadline, former epoch, then for each session: id, nonce
-- KEYS[5]: the new owner's ids. KEYS[6]: the former owner's unclaimed ids. KEYS[7]: nonces of orphans whose hooks ran
-- -> OK, then for each id: 0 forgotten, 1 kept, 2 claimed, or the epoch that has it | FENCED | OLD | LATE
local epoch, lane, former = ARGV[2], tonumber(ARGV[3]), ARGV[5]
local owner, from = read_owner(epoch), read_owner(former)
local refused = refusal(epoch, owner, lane)
if refused then
  return refused
end
if is_late(ARGV[4]) then
  return {'LATE'}
end
local answer = {'OK'}
for index = 6, #ARGV, 2 do
  local id, nonce = ARGV[index], ARGV[index + 1]
  local record, result = read_record(id), '0'
  if record then
    result = record.owner
    if record.owner == epoch then
      result = '1'
    elseif record.owner == former then
      -- Whoever claimed the session runs its hook. It never comes back.
      result = '2'
      if redis.call('SREM', KEYS[6], id) == 1 then
        count(from, record, -1)
        record.owner = epoch
        write_record(id, record)
        redis.call('SADD', KEYS[5], id)
        count(owner, record, 1)
        result = '1'
      end
    end
  -- A fence alone says nothing: a survivor may have fenced a shard that had forgotten the session already.
  elseif redis.call('ZSCORE', KEYS[7], nonce) then
    result = '2'
  end
  answer[#answer + 1] = result
end
write_owner(epoch, owner)
if redis.call('HEXISTS', w, former) == 1 then
  write_owner(former, from)
end
return answer
