"""The commands that see and steer a running proxy: `sessions`, `close`, `cleanup` and `stats`.

They are clients of the admin API and need no extra. `target` says where the API is and with which token, `api` asks it,
`written` makes texts of its answers, `watch` shows them live, and `commands` has the flags and the exit statuses.
Nothing here knows a manager: what is shown is what the API has answered.
"""
