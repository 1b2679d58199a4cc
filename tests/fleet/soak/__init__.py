"""The fault matrix of a fleet: real processes under load, one fault, and books that must balance afterwards.

    embedders ───► journals ─┐
        │                     ├──► verdict: lost, counted twice, served after a claim, over the cap
        ▼                     │
    store (a fault) ──► books ┘

`rows` has the faults. CI runs each row in its short form (`test_soak`); `make soak` runs the long form and writes the
table of the page on the fault matrix.
"""
