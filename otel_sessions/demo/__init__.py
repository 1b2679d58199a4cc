"""The demo: two proxies side by side, one without cleanup and cap, under virtual clients that use both badly.

`run` puts the demo together. `load` has the clients, and `processes` the programs that the demo starts. `result` shows
a run: `history` keeps what was seen, `table` and `view` show it on a terminal, `live` updates the view, `picture` and
`report` write files, and `verdict` judges the run. `fleet` is another demo, of replicas that share a cap. All traffic
stays on the loopback. No process outlives the demo.
"""
