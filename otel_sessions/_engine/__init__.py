"""What happens to sessions over time. Users import nothing from here; the way of a session is this:

    create, reserve ─► admission ─► places ─► store ─► books ─► telemetry (on export)
                            │ full    ▲ freed   ▲
                            ▼         └─────────┴── hide, finish, remove ┐
    tick ─► supervisor ─► passes ──────────────────────► sweep ─► closing ─► hooks (sink, then on_close)
                             └──► eviction ────────────────┘         │
    request ─► leases ◄──────────────────────────────────────────────┘ asks the holders to leave

Each arrow is a call, but for the export, which reads the books. No `await` lies between a check and the change that
relies on it, so the books always balance.
"""
