"""MILI's kernels: every custom op of the Qwen3 graph, registered as `mili.<name>`."""
