"""What is said of sessions: instruments, spans, and the registration of managers with providers."""
