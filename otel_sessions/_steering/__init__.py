"""The commands that see and steer a running proxy: `sessions`, `close`, `cleanup` and `stats`.

They are clients of the admin API and need no extra. `flags` has the flags, `commands` what each command does and its
exit statuses. `target` says where the API is and with which token, `api` asks it, `written` makes texts of its answers,
and `watch` shows them live. Nothing here knows a manager: what is shown is what the API has answered.
"""
