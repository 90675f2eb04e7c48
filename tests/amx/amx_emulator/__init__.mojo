"""An emulator of Intel AMX, for tests."""
