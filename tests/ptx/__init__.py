"""Runs PTX without a GPU: what the compiler made of the GPU kernels, interpreted."""
