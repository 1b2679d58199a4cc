-- s: records by id. w: for each owner count, digest and last lane number. f: fenced epochs. b: the books.
local s, w, f, b = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local HOUR = 3600000
local MODULUS = 4503599627370496 -- 2^52: the sum of two digests is still exact

local function read_record(id)
  local text = redis.call('HGET', s, id)
  if not text then
    return nil
  end
  local owner, turn, created, nonce, blob = string.match(text, '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  return {owner = owner, turn = tonumber(turn), created = created, nonce = nonce, blob = blob}
end

local function write_record(id, record)
  local head = record.owner .. ' ' .. int(record.turn) .. ' ' .. record.created .. ' ' .. record.nonce
  redis.call('HSET', s, id, head .. ' ' .. record.blob)
end

local function read_owner(epoch)
  local count, digest, lane = string.match(redis.call('HGET', w, epoch) or '0 0 0', '^(%d+) (%d+) (%d+)$')
  return {count = tonumber(count), digest = tonumber(digest), lane = tonumber(lane)}
end

local function write_owner(epoch, owner)
  redis.call('HSET', w, epoch, int(owner.count) .. ' ' .. int(owner.digest) .. ' ' .. int(owner.lane))
end

-- A record comes to an owner, or leaves it with -1. The digest is the sum of the nonces.
local function count(owner, record, sign)
  owner.count = owner.count + sign
  owner.digest = (owner.digest + sign * tonumber(record.nonce)) % MODULUS
end

-- Why a numbered write must change nothing here, or nil.
local function refusal(epoch, owner, lane)
  -- Others clean up after a fenced epoch.
  if redis.call('ZSCORE', f, epoch) then
    return {'FENCED'}
  end
  -- A late copy would bring back what a later call has ended.
  if lane < owner.lane then
    return {'OLD'}
  end
  owner.lane = lane
end

-- The caller's lease, by the clock of the fleet's slot. Past it, others may clean up without having been here yet.
local function is_late(deadline)
  return now > tonumber(deadline)
end
