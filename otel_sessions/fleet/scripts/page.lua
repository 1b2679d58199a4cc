-- now, epoch, cursor
-- KEYS[5]: the owner's ids
-- -> OK, the next cursor (0 after the last page), then for each session: id, nonce
local page = redis.call('SSCAN', KEYS[5], ARGV[3], 'COUNT', 50)
local answer = {'OK', page[1]}
for _, id in ipairs(page[2]) do
  answer[#answer + 1] = id
  answer[#answer + 1] = read_record(id).nonce
end
return answer
