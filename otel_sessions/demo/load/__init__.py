"""The virtual clients, and the phases of their load."""
