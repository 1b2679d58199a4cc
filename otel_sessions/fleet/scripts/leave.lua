-- now, epoch -> OK
declare_dead(ARGV[2])
return {'OK'}
