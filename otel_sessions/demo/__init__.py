"""The demo: two proxies side by side, one without cleanup and cap, and virtual clients who use both badly, over HTTP.

`run` puts it together. `load` has the clients, `processes` what the demo starts, `result` what a run shows: `history`
what was seen, `table` and `view` the same for a terminal, `live` where and when, `picture` and `report` for later,
`verdict` the judgement. Everything stays on this machine's loopback, and nothing that the demo starts outlives it.
"""
