-- now, epoch -> OK count digest, the number of records, the number of owners, owners..., then the books: word, count ...
local owner, owners = read_owner(ARGV[2]), redis.call('HKEYS', w)
local answer = {'OK', int(owner.count), int(owner.digest), redis.call('HLEN', s), #owners}
for _, epoch in ipairs(owners) do
  answer[#answer + 1] = epoch
end
for _, value in ipairs(redis.call('HGETALL', b)) do
  answer[#answer + 1] = value
end
return answer
