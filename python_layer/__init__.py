"""MILI: an inference engine for Qwen3 models (Mojo kernels in a MAX graph)."""

import os

# The engine library reads these when it is loaded. By default it reports to its maker; MILI opens no
# connection that its user did not ask for.
os.environ.setdefault("MODULAR_TELEMETRY_ENABLED", "false")
os.environ.setdefault("MODULAR_CRASH_REPORTING_ENABLED", "false")
