"""What all tests share: a GPU, where there is one."""

import os

# MAX takes 90% of a GPU's memory for each process that captures; several run tests at once.
os.environ.setdefault("MODULAR_DEVICE_CONTEXT_MEMORY_MANAGER_SIZE_PERCENT", "10")
