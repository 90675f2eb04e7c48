"""The Qwen3 model: configuration, weights, graph and compiled execution."""
