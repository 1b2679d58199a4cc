"""What is said of sessions: instruments, spans, and who registers them with which provider."""
