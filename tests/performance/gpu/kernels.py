"""The kernels' cases: MILI's, MAX's and PyTorch's ways to do the same work."""

from dataclasses import dataclass, replace
from functools import partial

from python_layer.model.device import ComputeDevice
from python_layer.utils.cpu import supported_isas
from tests.performance.gpu import max_ops, ours
from tests.performance.gpu.contest import OURS, Case, Contender, Once
from tests.performance.gpu.op import Op
from tests.performance.gpu.place import Place
from tests.performance.gpu.sizes import Sizes
from tests.performance.gpu.torch_ops import BACKENDS, TorchPlace
from tests.performance.gpu.work import AttentionWork, LinearWork

MAX, TORCH = "MAX", "torch"
COPY, MATMUL = "copy", "matmul"
"""The cases that are the limits of the others, and what these call them."""
FEW_ROWS = 64
"""Of linear layers that wait for their weights."""


@dataclass(frozen=True)
class Ops:
    """All graphs of a device, by what they do, and then by whose they are."""

    norm: dict[str, Op]
    swiglu: dict[str, Op]
    store: Op
    attention: dict[str, Op]
    linear: dict[str, dict[str, Op]]
    square: Op

    @staticmethod
    def of(device: ComputeDevice, sizes: Sizes) -> "Ops":
        """Those of a device, which need not be here."""
        architecture = device.architecture if device.is_gpu else supported_isas()[0]
        some = (device.ref, sizes, architecture)

        def both(kind: str, copies: int = 1) -> dict[str, Op]:
            return {OURS: getattr(ours, kind)(*some, copies), MAX: getattr(max_ops, kind)(*some, copies)}

        few = min(sizes.rows)
        linear: dict[str, dict[str, Op]] = {}
        for name, (outputs, columns) in sizes.matrices.items():
            copies = sizes.copies(outputs * columns * 2)
            own = ours.Linear(*some, copies, matrix=name)
            linear[name] = {OURS: own, MAX: max_ops.Matmul(*some, copies, matrix=name)}
            if device.is_gpu:
                linear[name][f"{OURS} e4m3"] = replace(own, copies=min(16, 2 * copies), float8=True)
        return Ops(
            # Few rows stay in the cache of a GPU, as in a model; the copies are there for the launches' sake.
            norm=both("AddRMSNorm", min(4, sizes.copies(few * sizes.hidden * 12))),
            swiglu=both("SwiGLU", min(4, sizes.copies(few * sizes.inner * 6))),
            store=ours.Store(*some),
            attention=both("Attention"),
            linear=linear,
            square=max_ops.Matmul(*some),
        )

    def all(self) -> dict[str, Op]:
        """Every graph by its name, those that take longest to compile first."""
        kinds = {"attention": self.attention, **{f"linear {name}": ops for name, ops in self.linear.items()}}
        kinds |= {"square matmul": {MAX: self.square}, "qk_norm_rope_store": {OURS: self.store}}
        kinds |= {"add_rms_norm": self.norm, "swiglu": self.swiglu}
        return {f"{whose} {kind}": op for kind, ops in kinds.items() for whose, op in ops.items()}


class KernelCases:
    """The cases of a device; nothing is made before it is needed.

    Args:
        place: The device.
        ops: Its graphs.
        sizes: Of the work.
    """

    def __init__(self, place: Place, ops: Ops, sizes: Sizes) -> None:
        self._place, self._ops, self._sizes = place, ops, sizes
        self._torch = Once(lambda: TorchPlace(place.device))

    def all(self) -> list[Case]:
        """In order; the limits come first."""
        sizes = self._sizes
        requests, context = sizes.decode
        prompt = AttentionWork(sizes, 1, sizes.prompt, sizes.prompt)
        return [
            self.copy(),
            self.matmul(),
            *(case(rows) for rows in sizes.rows for case in (self.norm, self.swiglu)),
            self.store(prompt),
            self.attention(f"prompt of {sizes.prompt}", prompt),
            self.attention(f"decode of {requests} x {context}", AttentionWork(sizes, requests, 1, context)),
            *(self.linear(name, rows) for name in sizes.matrices for rows in sizes.linear_rows),
        ]

    def copy(self) -> Case:
        size = self._sizes.copy
        return Case(
            COPY, COPY, 2 * size, {MAX: lambda: self._place.copy(size), TORCH: lambda: self._torch().copy(size)}
        )

    def matmul(self) -> Case:
        size = self._sizes.square
        work = LinearWork(size, size, size)
        makers = {
            MAX: lambda: max_ops.matmul(self._place, self._ops.square, work),
            TORCH: lambda: self._torch().linear(work, 1),
        }
        return Case(MATMUL, MATMUL, 2 * size**3, makers)

    def norm(self, rows: int) -> Case:
        size, copies = rows * self._sizes.hidden * 12, self._ops.norm[OURS].copies
        makers = {
            **{name: partial(ours.add_rms_norm, self._place, op, rows) for name, op in self._ops.norm.items()},
            TORCH: lambda: self._torch().add_rms_norm(self._sizes, rows, copies),
        }
        return Case(f"add_rms_norm, {rows} rows", COPY, size, makers)

    def swiglu(self, rows: int) -> Case:
        size, copies = rows * self._sizes.inner * 6, self._ops.swiglu[OURS].copies
        makers = {
            **{name: partial(ours.swiglu, self._place, op, rows) for name, op in self._ops.swiglu.items()},
            TORCH: lambda: self._torch().swiglu(self._sizes, rows, copies),
        }
        return Case(f"swiglu, {rows} rows", COPY, size, makers)

    def store(self, work: AttentionWork) -> Case:
        sizes = self._sizes
        row = 2 * (2 * sizes.q_size + 4 * sizes.kv_size) + 4 * sizes.head_dim
        makers = {
            OURS: lambda: ours.store(self._place, self._ops.store, work),
            TORCH: lambda: self._torch().store(work),
        }
        return Case(f"qk_norm_rope_store, {work.rows} rows", COPY, work.rows * row, makers)

    def attention(self, name: str, work: AttentionWork) -> Case:
        """A prompt is bound by its products, a decode by reading keys and values."""
        ops, place = self._ops, self._place
        makers = {
            OURS: lambda: ours.attention(place, ops.attention[OURS], ops.store, work),
            MAX: lambda: max_ops.attention(place, ops.attention[MAX], work),
            **{f"{TORCH} {backend}": partial(self._torch_attention, work, backend) for backend in BACKENDS},
        }
        if work.tokens > 1:
            return Case(f"attention, {name}", MATMUL, 4 * work.pairs * self._sizes.q_size, makers)
        return Case(f"attention, {name}", COPY, 4 * work.pairs * self._sizes.kv_size, makers)

    def linear(self, name: str, rows: int) -> Case:
        """Few rows are bound by reading the weights, taken as bfloat16, many by the products."""
        ops, (outputs, columns) = self._ops.linear[name], self._sizes.matrices[name]
        work, copies = LinearWork(rows, outputs, columns), ops[OURS].copies
        makers = {
            **{
                whose: partial(max_ops.matmul if whose == MAX else ours.linear, self._place, op, work)
                for whose, op in ops.items()
            },
            TORCH: lambda: self._torch().linear(work, copies),
        }
        label = f"linear {name}, {rows} rows"
        if rows <= FEW_ROWS:
            return Case(label, COPY, 2 * outputs * columns, makers)
        return Case(label, MATMUL, 2 * rows * outputs * columns, makers)

    def _torch_attention(self, work: AttentionWork, backend: str) -> Contender:
        return self._torch().attention(work, backend)
