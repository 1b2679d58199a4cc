"""The parts of the proxy's benchmarks, from what is asked to what is shown.

`asked` says what each workload asks for. `servers` starts processes, `peers` installs and starts those of others, and
`field` starts everything that is measured. `crowds` are the clients of several workers. `wrk` and `events` put a target
under load, and `cpu` counts. `results` says what that means, `table` and `picture` show it.
"""
