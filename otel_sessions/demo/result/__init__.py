"""What a run shows while it goes on, and what it comes to in the end."""
