"""mili.layers against its parts, each of which has tests of its own, one op after the other: the same bits."""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType
from max.graph import BufferType, TensorValue, ops

from python_layer.model.config import Qwen3Config
from python_layer.model.cpu_layers import layers_op, scratch_type
from python_layer.model.graph_ops import StepInputs
from python_layer.model.kv_cache import scale_numbers
from python_layer.model.linear import LinearLayers
from python_layer.model.quantized import QuantFormat, quantize_rows
from python_layer.utils.cpu import supported_isas
from tests.unit.kernels.harness import DEVICE, FLOAT, INT, OpRunner, tensor, to_dtype
from tests.unit.kernels.isas import BEST, HALVES, PAIRED, WORDS, other_isas
from tests.unit.kernels.matrices import packed, packed_quantized, packed_scaled

# Sizes that fill no panel of a matrix, but of attention's heads.
LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, PAGE = 3, 160, 224, 4, 2, 64, 16
EPS = 1e-6
PANELS_INNER = 512
"""Fills panels, so that many rows are gated panel by panel, by up to four threads."""
MATRICES = ("qkv", "o", "gate_up", "down")
BF16, FP16, INT16 = DType.bfloat16, DType.float16, DType.int16
INT8, INT4 = QuantFormat(8, 32, False), QuantFormat(4, 32, True)


@dataclass(frozen=True)
class Case:
    """Types of a layer."""

    weights: DType
    cache: DType
    compute: DType = FLOAT
    biases: bool = False
    isa: str = BEST
    formats: tuple[tuple[str, QuantFormat], ...] = ()
    inner: int = INNER
    hidden: int = HIDDEN
    head_dim: int = HEAD_DIM

    @property
    def q_size(self) -> int:
        return HEADS * self.head_dim

    @property
    def qkv_size(self) -> int:
        return (HEADS + 2 * KV_HEADS) * self.head_dim

    @property
    def vectors(self) -> dict[str, int]:
        """Sizes of norms and biases."""
        norms = {"input_norm": self.hidden, "q_norm": self.head_dim, "k_norm": self.head_dim, "post_norm": self.hidden}
        return norms | ({"qkv_bias": self.qkv_size, "o_bias": self.hidden} if self.biases else {})

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        hidden, inner = self.hidden, self.inner
        sizes = [(self.qkv_size, hidden), (hidden, self.q_size), (2 * inner, hidden), (hidden, inner)]
        return dict(zip(MATRICES, sizes, strict=True))

    @property
    def config(self) -> Qwen3Config:
        raw = {"model_type": "qwen3", "vocab_size": 64, "hidden_size": self.hidden, "intermediate_size": self.inner}
        raw |= {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
        raw |= {"head_dim": self.head_dim, "hidden_act": "silu", "rms_norm_eps": EPS, "max_position_embeddings": 512}
        raw |= {"rope_theta": 1e6, "attention_bias": self.biases, "tie_word_embeddings": True, "eos_token_id": 1}
        return Qwen3Config.from_dict(raw)

    @property
    def names(self) -> list[str]:
        norms, biases = [n for n in self.vectors if "norm" in n], [n for n in self.vectors if "bias" in n]
        return [*norms, *MATRICES, *biases]


CASES = {
    "bfloat16": Case(BF16, BF16, BF16 if BEST == PAIRED else FLOAT, biases=True),
    "quantized": Case(
        FLOAT, FLOAT, formats=(("qkv", INT8), ("o", INT4), ("gate_up", INT4), ("down", INT8)), inner=PANELS_INNER
    ),
}
if "amx" in supported_isas():  # whose projection back takes several panels, and not all columns, at once
    CASES["tiles"] = Case(BF16, BF16, BF16, biases=True, isa="amx", inner=1600, hidden=1024)
    CASES["tiles of bytes"] = replace(CASES["quantized"], isa="amx")
if PAIRED and PAIRED != BEST:
    CASES["pairs"] = Case(BF16, BF16, BF16, isa=PAIRED)
if HALVES:
    CASES["float16"] = Case(FP16, FP16, FP16, isa=HALVES)
if WORDS:  # whose gate is applied panel by panel, and whose heads fill groups
    CASES["int16"] = Case(INT16, INT16, INT16, isa=WORDS[0], inner=PANELS_INNER, head_dim=2 * HEAD_DIM)
if "avx2" in other_isas():  # whose blocks of rows are of another size
    CASES["avx2"] = Case(BF16, BF16, isa="avx2")


def random_weights(rng: np.random.Generator, case: Case, name: str) -> Buffer | np.ndarray:
    """A norm, a bias or a packed matrix of each layer."""
    layers = [random_weight(rng, case, name) for _ in range(LAYERS)]
    if isinstance(layers[0], np.ndarray):
        return np.stack(layers)
    together = np.stack([layer.view(DType.uint16, layer.shape).to_numpy() for layer in layers])
    return Buffer.from_numpy(together).view(layers[0].dtype, together.shape)


def random_weight(rng: np.random.Generator, case: Case, name: str) -> Buffer | np.ndarray:
    if name not in MATRICES:
        return (1 + rng.standard_normal(case.vectors[name]) / 4).astype(np.float32)
    rows, columns = case.shapes[name]
    values = (rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)
    form = dict(case.formats).get(name)
    if form:
        rounded = quantize_rows(values, form.bits, form.group).fitted(form)
        assert rounded is not None
        return packed_quantized(rounded)
    if case.compute in (FP16, INT16):
        return Buffer.from_numpy(packed_scaled(values, case.compute.name))
    return packed(to_dtype(values, case.weights)[0])


def by_parts(
    case: Case,
    step: StepInputs,
    linear: LinearLayers,
    x: TensorValue,
    rope: TensorValue,
    of_layers: dict[str, TensorValue],
) -> TensorValue:
    """The layers as ops of their own."""
    for layer in range(LAYERS):
        w = {name: value[layer] for name, value in of_layers.items()}
        x = layer_by_parts(case, step, linear, x, rope, w, layer)
    return x


def layer_by_parts(
    case: Case,
    step: StepInputs,
    linear: LinearLayers,
    x: TensorValue,
    rope: TensorValue,
    w: dict[str, TensorValue],
    index: int,
) -> TensorValue:
    eps = ops.constant(EPS, FLOAT, DEVICE)
    layer = ops.constant(index, DType.int32, DEVICE)

    def op(name: str, values: list, shape: list, dtype: DType = FLOAT, **parameters: int) -> TensorValue:
        make = ops.inplace_custom if values[0] is step.cache else ops.custom
        return make(f"mili.{name}", DEVICE, values, [tensor(dtype, *shape)], parameters)[0].tensor

    def apply(kind: str, rows: TensorValue) -> TensorValue:
        y = linear.apply(kind, rows, w[kind], case.shapes[kind][0])
        bias = w.get(f"{kind}_bias")
        return y if bias is None else y + bias

    place = [step.positions, step.row_offsets, step.page_table, layer]
    qkv = apply("qkv", op("rms_norm", [x, w["input_norm"], eps], ["T", case.hidden]))
    q_type = BF16 if case.compute == BF16 else FLOAT
    heads = [step.cache, qkv, w["q_norm"], w["k_norm"], rope, *place, eps]
    q = op("qk_norm_rope_store", heads, ["T", case.q_size], q_type)
    attended = op(
        "paged_attention", [step.cache, q, *place], ["T", case.q_size], head_dim=case.head_dim, amx=case.isa == "amx"
    )
    sums = [tensor(FLOAT, "T", case.hidden)] * 2
    normed, total = ops.custom("mili.add_rms_norm", DEVICE, [apply("o", attended), x, w["post_norm"], eps], sums)
    gated = op("swiglu", [apply("gate_up", normed.tensor)], ["T", case.inner])
    return apply("down", gated) + total.tensor


@pytest.fixture(scope="module")
def every_case() -> OpRunner:
    """The step and x, rope, and two caches and the weights of each case -> the layers of each, whole and by parts."""

    def build(values):
        positions, offsets, table, x, rope, *rest = values
        outputs = []
        for case in CASES.values():
            caches, weights = rest[:2], rest[2 : 2 + len(case.names)]
            rest = rest[2 + len(case.names) :]
            linear = LinearLayers(case.isa, case.compute, dict(case.formats))
            w = {name: value.tensor for name, value in zip(case.names, weights, strict=True)}
            own = x.tensor
            if case.hidden > HIDDEN:
                own = ops.concat([own] * ceil(case.hidden / HIDDEN), 1)[:, : case.hidden]
            angles = ops.concat([rope.tensor] * (case.head_dim // HEAD_DIM), 1)
            step = StepInputs(caches[1].buffer, own, positions.tensor, offsets.tensor, table.tensor, positions.tensor)
            scratch = ops.buffer_create(scratch_type(case.config, own.shape[0]))
            inputs = [caches[0], scratch, own, angles, positions, offsets, table]
            outputs.append(layers_op(case.config, inputs, w, linear))
            outputs.append(by_parts(case, step, linear, own, angles, w))
        return outputs

    inputs = [tensor(INT, "T"), tensor(INT, "B_plus_1"), tensor(INT, "B", "P"), tensor(FLOAT, "T", HIDDEN)]
    inputs.append(tensor(FLOAT, "T", HEAD_DIM))
    for case in CASES.values():
        inputs += [BufferType(case.cache, ["pages", LAYERS, 2, KV_HEADS, PAGE, row_size(case)], DEVICE)] * 2
        rng = np.random.default_rng(0)
        for name in case.names:
            weight = random_weights(rng, case, name)
            form = name in dict(case.formats)
            dtype = DType.uint8 if form else case.weights if name in MATRICES else FLOAT
            inputs.append(tensor(dtype, *weight.shape))
    return OpRunner(inputs, build)


def row_size(case: Case) -> int:
    """Numbers of a row of the cache, its scale among them."""
    return case.head_dim + scale_numbers(case.cache)


def empty_cache(case: Case, pages: int) -> Buffer:
    """Not-a-number everywhere, in int16 as scales: what no request wrote must not be read."""
    shape = (pages, LAYERS, 2, KV_HEADS, PAGE, row_size(case))
    if case.cache == INT16:
        return Buffer.from_numpy(np.full(shape, -1, np.int16))
    if case.cache == BF16:
        return Buffer.from_numpy(np.full(shape, 0x7FC0, np.uint16)).view(case.cache, shape)
    return Buffer.from_numpy(np.full(shape, np.nan, np.float16 if case.cache == FP16 else np.float32))


def test_layers_have_the_bits_of_their_parts_in_chunks_and_decodes(every_case: OpRunner) -> None:
    rng = np.random.default_rng(1)
    weights = {name: [random_weights(rng, case, n) for n in case.names] for name, case in CASES.items()}
    caches = {name: [empty_cache(case, 36) for _ in range(2)] for name, case in CASES.items()}
    table = np.arange(36, dtype=np.int32).reshape(3, 12)
    # (positions before, rows) of each request: prompts, then a decode beside a chunk, then decodes alone.
    for plan in (
        [(0, 170), (0, 1), (0, 29)],
        [(170, 1), (1, 20), (29, 0)],
        [(171, 1), (21, 1), (29, 1)],
        [(172, 0), (22, 1), (30, 0)],
    ):
        counts = [rows for _, rows in plan]
        positions = np.concatenate([np.arange(start, start + rows) for start, rows in plan]).astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        x = rng.standard_normal((sum(counts), HIDDEN)).astype(np.float32)
        angles = positions[:, None] * 1e6 ** (-np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
        rope = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
        arguments = [value for name in CASES for value in (*caches[name], *weights[name])]
        results = every_case(positions, offsets, table, x, rope, *arguments)
        for number, name in enumerate(CASES):
            whole, parts = results[2 * number : 2 * number + 2]
            assert np.isfinite(whole).all(), name
            np.testing.assert_array_equal(whole, parts, err_msg=name)
