"""The demo: two proxies side by side, one without cleanup and cap, and virtual clients who use both badly, over HTTP.

`run` puts it together, `side` is one proxy under its load, `weight` what its sessions hold, `course` what was seen of
it; `view`, `rows` and `sparkline` say it in a terminal, `show` where and when, `picture` draws it, `verdict` judges it
and `report` keeps it. Everything stays on this machine's loopback, and nothing that it starts outlives it.
"""
