"""MILI: an inference engine for Qwen3 models (Mojo kernels in a MAX graph)."""
