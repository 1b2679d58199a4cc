"""The demo: an upstream, a proxy that leases sessions, and virtual clients who use it badly, over real HTTP.

`run` puts it together. Everything stays on this machine's loopback, and nothing that it starts outlives it.
"""
