-- now, new epoch, lane, deadline, number of former epochs, former epochs (the one that owns the ids is first), ids...
-- KEYS[5]: the new owner's ids. KEYS[6]: the former owner's unclaimed ids
-- -> OK, 1 if a former epoch is fenced here, then for each id:
--    0 absent, 1 kept, 2 claimed, or the epoch that has it | FENCED | OLD | LATE
local epoch, lane, formers = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local former = ARGV[6]
local owner, from = read_owner(epoch), read_owner(former)
local refused = refusal(epoch, owner, lane)
if refused then
  return refused
end
if is_late(ARGV[4]) then
  return {'LATE'}
end
local fenced = 0
for index = 6, 5 + formers do
  if redis.call('ZSCORE', f, ARGV[index]) then
    fenced = 1
  end
end
local answer = {'OK', fenced}
for index = 6 + formers, #ARGV do
  local id = ARGV[index]
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
  end
  answer[#answer + 1] = result
end
write_owner(epoch, owner)
if redis.call('HEXISTS', w, former) == 1 then
  write_owner(former, from)
end
return answer
