"""Many requests at once: pages and shared prefixes, scheduling, sampling and the engine's loop."""
