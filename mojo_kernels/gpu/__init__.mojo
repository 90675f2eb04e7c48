"""GPU kernels: what the ops launch when their target is a GPU."""
