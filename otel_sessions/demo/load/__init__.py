"""The virtual clients, and the phases that they go through."""
