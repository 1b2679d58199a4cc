"""What happens to sessions over time. Users import nothing from here. The way of a session:

    create, reserve ─► admission ─► places ─► store ─► books ─► telemetry (on export)
                            │ full    ▲ freed   ▲
                            ▼         └─────────┴── hide, finish, remove ┐
    tick ─► supervisor ─► passes ──────────────────────► sweep ─► closing ─► hooks (sink, then on_close)
                             └──► eviction ────────────────┘         │
    request ─► leases ◄──────────────────────────────────────────────┘ asks the holders to leave

Each arrow is a call, except the export, which reads the books. No `await` stands between a check and the change that
relies on it, so the books always balance.
"""
