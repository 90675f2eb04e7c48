"""Load on an engine or a server, and what it measures."""
