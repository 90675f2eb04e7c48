"""The kernels' cases: MILI's, MAX's and PyTorch's ways to do the same work."""

from collections.abc import Callable, Mapping
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
Makers = Mapping[str, Callable[[], Contender]]


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


def cases(place: Place, ops: Ops, sizes: Sizes) -> list[Case]:
    """In order; the limits come first. Nothing is made yet."""
    torch = Once(lambda: TorchPlace(place.device))
    square = LinearWork(sizes.square, sizes.square, sizes.square)
    made = [
        Case(
            COPY,
            COPY,
            2 * sizes.copy,
            {MAX: partial(place.copy, sizes.copy), TORCH: lambda: torch().copy(sizes.copy)},
        ),
        Case(
            MATMUL,
            MATMUL,
            2 * sizes.square**3,
            {
                MAX: partial(max_ops.matmul, place, ops.square, square),
                TORCH: lambda: torch().linear(square, 1),
            },
        ),
    ]
    for rows in sizes.rows:
        norm, swiglu = ops.norm[OURS], ops.swiglu[OURS]
        made += [
            Case(
                f"add_rms_norm, {rows} rows",
                COPY,
                rows * sizes.hidden * 12,
                {name: partial(ours.add_rms_norm, place, op, rows) for name, op in ops.norm.items()}
                | {TORCH: lambda rows=rows, n=norm.copies: torch().add_rms_norm(sizes, rows, n)},
            ),
            Case(
                f"swiglu, {rows} rows",
                COPY,
                rows * sizes.inner * 6,
                {name: partial(ours.swiglu, place, op, rows) for name, op in ops.swiglu.items()}
                | {TORCH: lambda rows=rows, n=swiglu.copies: torch().swiglu(sizes, rows, n)},
            ),
        ]
    return [*made, *attention_cases(place, ops, sizes, torch), *linear_cases(place, ops, sizes, torch)]


def attention_cases(place: Place, ops: Ops, sizes: Sizes, torch: Callable[[], TorchPlace]) -> list[Case]:
    """The write to the cache, prefill and decode."""
    requests, context = sizes.decode
    prompt = AttentionWork(sizes, 1, sizes.prompt, sizes.prompt)
    decode = AttentionWork(sizes, requests, 1, context)

    def makers(work: AttentionWork) -> Makers:
        own = {
            OURS: partial(ours.attention, place, ops.attention[OURS], ops.store, work),
            MAX: partial(max_ops.attention, place, ops.attention[MAX], work),
        }
        return own | {f"{TORCH} {name}": lambda name=name: torch().attention(work, name) for name in BACKENDS}

    row = 2 * (2 * sizes.q_size + 4 * sizes.kv_size) + 4 * sizes.head_dim
    return [
        Case(
            f"qk_norm_rope_store, {prompt.rows} rows",
            COPY,
            prompt.rows * row,
            {OURS: partial(ours.store, place, ops.store, prompt), TORCH: lambda: torch().store(prompt)},
        ),
        Case(f"attention, prompt of {sizes.prompt}", MATMUL, 4 * prompt.pairs * sizes.q_size, makers(prompt)),
        Case(
            f"attention, decode of {requests} x {context}",
            COPY,
            requests * context * sizes.kv_size * 4,
            makers(decode),
        ),
    ]


def linear_cases(place: Place, ops: Ops, sizes: Sizes, torch: Callable[[], TorchPlace]) -> list[Case]:
    """Linear layers: few rows are bound by reading bfloat16 weights, many by the product."""
    made = []
    for name, (outputs, columns) in sizes.matrices.items():
        for rows in sizes.linear_rows:
            work, reading = LinearWork(rows, outputs, columns), rows <= 64
            makers: dict[str, Callable[[], Contender]] = {
                whose: partial(max_ops.matmul if whose == MAX else ours.linear, place, op, work)
                for whose, op in ops.linear[name].items()
            }
            copies = ops.linear[name][OURS].copies
            makers[TORCH] = lambda work=work, copies=copies: torch().linear(work, copies)
            size = outputs * columns * 2 if reading else 2 * rows * outputs * columns
            made.append(Case(f"linear {name}, {rows} rows", COPY if reading else MATMUL, size, makers))
    return made
