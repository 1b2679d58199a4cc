"""How our programs run: how they read what they are told, and what they share.

`flags` makes flags of options and merges what flags, variables, files and defaults say, `arguments` reads what only a
flag can say, `page` writes the documentation of options. `otlp` says where telemetry goes, `logs` what stands on
stderr, `signals` what ends a program, `sockets` how it listens.
"""
