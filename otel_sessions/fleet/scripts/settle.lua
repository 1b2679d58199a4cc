-- now, dead epoch, then for each session: id, turn, nonce
-- KEYS[5]: the dead owner's claimed ids. KEYS[6]: nonces of orphans whose hooks have run, by time
-- -> OK, then for each session 1 if it is ended by this call, else 0
local dead = ARGV[2]
local owner, answer = read_owner(dead), {'OK'}
for index = 3, #ARGV, 3 do
  local id = ARGV[index]
  local record, settled = read_record(id), 0
  -- Another turn: the claim ran out, and the session is another claimer's by now.
  if record and record.owner == dead and record.turn == tonumber(ARGV[index + 1]) then
    redis.call('HDEL', s, id)
    redis.call('ZREM', KEYS[5], id)
    redis.call('HINCRBY', b, 'orphaned', 1)
    count(owner, record, -1)
    settled = 1
  end
  -- An owner that comes back must tell a session whose hook has run from a session that the store forgot.
  redis.call('ZADD', KEYS[6], int(now), ARGV[index + 2])
  answer[#answer + 1] = settled
end
-- A late copy comes when the owner is forgotten already.
if redis.call('HEXISTS', w, dead) == 1 then
  write_owner(dead, owner)
end
return answer
