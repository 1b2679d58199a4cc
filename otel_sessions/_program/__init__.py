"""How our programs run: how they read their settings, and what they share.

`flags` makes flags from options and merges flags, variables, files and defaults. `arguments` reads the texts of flags.
`page` writes the documentation of options. `otlp` exports telemetry, `logs` writes to stderr, `signals` lists the
signals that end a program, and `sockets` opens listening sockets.
"""
