-- now -> OK version process address epoch ...
local answer = {'OK', number('version')}
for _, epoch in ipairs(redis.call('ZRANGE', l, 0, -1)) do
  local process = redis.call('HGET', m, 'e:' .. epoch)
  answer[#answer + 1] = process
  answer[#answer + 1] = read_row(process).address
  answer[#answer + 1] = epoch
end
return answer
