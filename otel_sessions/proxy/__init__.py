"""The reference proxy: a reverse proxy whose clients' sessions are bounded and accounted for.

`server` runs it, `forward` and `websocket` pass exchanges on, `upstream` is the way to the server behind, `rules` and
`headers` say what passes, `settings` what can be set. Nothing of an exchange is kept but its session.
"""
