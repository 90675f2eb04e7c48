"""What every kernel shares: tensor types, thread splitting and SIMD reductions."""
