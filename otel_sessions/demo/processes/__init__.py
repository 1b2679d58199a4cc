"""The programs that the demo starts, each in its own process, and their readings."""
