-- m: rows of processes, and epoch -> process. l: living epochs by lease deadline. d: dead epochs. g: the fleet itself.
local m, l, d, g = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function number(field)
  return tonumber(redis.call('HGET', g, field)) or 0
end

local function read_row(process)
  local text = redis.call('HGET', m, 'p:' .. process)
  if not text then
    return nil
  end
  local address, epoch, joins, beat, grant, unburied = string.match(text, '^(%S*) (%d+) (%d+) (%d+) (%d+) (%S*)$')
  return {
    address = address, epoch = epoch, joins = tonumber(joins), beat = tonumber(beat),
    grant = tonumber(grant), unburied = unburied,
  }
end

local function write_row(process, row)
  local numbers = row.epoch .. ' ' .. int(row.joins) .. ' ' .. int(row.beat) .. ' ' .. int(row.grant)
  redis.call('HSET', m, 'p:' .. process, row.address .. ' ' .. numbers .. ' ' .. row.unburied)
end

-- The only place that changes a grant, so that granted is always the sum of all grants.
local function set_grant(row, places)
  redis.call('HINCRBY', g, 'granted', int(places - row.grant))
  row.grant = places
end

local function declare_dead(epoch)
  if redis.call('ZREM', l, epoch) == 1 then
    redis.call('ZADD', d, int(now), epoch)
    redis.call('HINCRBY', g, 'version', 1)
  end
end
