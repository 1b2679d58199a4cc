"""What the demo starts, each in a process of its own, and what they say of themselves."""
