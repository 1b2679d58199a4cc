"""The parts of the proxy's benchmark, from what is asked to what is shown.

`asked` says what each workload asks for. `servers` starts processes, `peers` installs and starts those of others, and
`field` starts everything that is measured. `wrk` and `events` put it under load, and `cpu` counts. `results` says what
that means, `table` and `picture` show it.
"""
