-- now, id -> OK epoch turn | NONE
local record = read_record(ARGV[2])
if not record then
  return {'NONE'}
end
return {'OK', record.owner, record.turn}
