"""The demo of a fleet: three replicas share one cap and one set of books, and one of them is killed now and then.

`run` puts the demo together. `store` finds a Valkey and runs it. `replicas` are the proxies, and `balancer` spreads
requests over them. `books` is what the store has counted, with the verdict on it.
"""
