"""The values and the state of sessions. Nothing here awaits."""
