"""An emulator of instructions that the CPU lacks; see `signals.mojo`."""
