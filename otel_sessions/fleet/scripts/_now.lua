-- Milliseconds since 1970. An argument of 0 stands for the server's own clock.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Lua writes large numbers as 1.7e+15. Every number that is kept goes through here.
local function int(number)
  return string.format('%.0f', number)
end
