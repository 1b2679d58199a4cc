"""How our programs run: how they read what they are told.

`flags` makes flags of options and merges what flags, variables, files and defaults say, `arguments` reads what only a
flag can say, `page` writes the documentation of options.
"""
