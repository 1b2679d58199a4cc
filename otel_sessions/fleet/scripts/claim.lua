-- now, dead epoch, at most so many, for so many milliseconds
-- KEYS[5]: the dead owner's ids. KEYS[6]: its claimed ids by the deadline of the claim
-- -> OK, the number of records left, then for each claimed session: id, turn, created, nonce, blob
local dead, most, span = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
-- First of all: from here on the owner changes nothing in this shard, whatever it believes.
redis.call('ZADD', f, int(now), dead)
redis.call('ZREMRANGEBYSCORE', f, '-inf', int(now - HOUR))

-- A claim that ran out belongs to a survivor that died too. One that has not is another's work.
local ids = redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', '(' .. int(now), 'LIMIT', 0, most)
if #ids < most then
  for _, id in ipairs(redis.call('SPOP', KEYS[5], most - #ids)) do
    ids[#ids + 1] = id
  end
end
local answer = {'OK', 0}
for _, id in ipairs(ids) do
  local record = read_record(id)
  -- The turn is the claimer's token: a claimer of an earlier turn settles nothing.
  record.turn = record.turn + 1
  write_record(id, record)
  redis.call('ZADD', KEYS[6], int(now + span), id)
  for _, value in ipairs({id, record.turn, record.created, record.nonce, record.blob}) do
    answer[#answer + 1] = value
  end
end
answer[2] = redis.call('SCARD', KEYS[5]) + redis.call('ZCARD', KEYS[6])
if answer[2] == 0 then
  redis.call('HDEL', w, dead)
end
return answer
