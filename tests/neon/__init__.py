"""The kernels on an emulated Arm CPU: ``python -m tests.neon``."""
