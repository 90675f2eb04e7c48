"""An emulator, for tests, of x86-64 instructions that a CPU may lack: Intel AMX and AVX-VNNI."""
