"""Pointer and tensor types used by every op."""

from extensibility import IOSpec, ManagedTensorSlice

comptime MutableInputTensor = ManagedTensorSlice[
    IOSpec[_, _].MutableInput, static_spec=_
]
"""A graph buffer that an op may write in place, such as the KV cache."""

comptime ReadPtr[dtype: DType] = Pointer[Scalar[dtype], ImmUntrackedOrigin]
"""Read access to elements of `dtype`. Bounds, and that the memory outlives the pointer, are the caller's duty."""

comptime WritePtr[dtype: DType] = MutPointer[Scalar[dtype], MutUntrackedOrigin]
"""Read and write access to elements of `dtype`, on the same terms."""


@always_inline
def untracked[dtype: DType](p: MutPointer[Scalar[dtype], _]) -> WritePtr[dtype]:
    """The pointer without its origin: for memory that lives as long as the op runs."""
    return p.unsafe_origin_cast[MutUntrackedOrigin]()


@always_inline
def floats[dtype: DType](p: MutPointer[Scalar[dtype], _]) -> WritePtr[DType.float32]:
    """As `untracked`, for activations on a CPU, which are float32 there."""
    comptime assert dtype == DType.float32, "activations on a CPU are float32"
    return rebind[WritePtr[DType.float32]](untracked(p))


def require_cpu[target: StaticString]():
    """Refuses, when a graph is compiled, a device for which an op has no path."""
    comptime assert target == "cpu", "this op has no GPU path"


def require_gpu[target: StaticString]():
    """Likewise, where there is only a GPU path."""
    comptime assert target == "gpu", "this op has no CPU path"
