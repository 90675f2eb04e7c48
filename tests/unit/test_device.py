"""Devices, captured batches and compiled folders: what of them needs no GPU."""

import itertools
import json
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from max.driver import CPU, Buffer, accelerator_count
from max.dtype import DType

from python_layer.model import captured
from python_layer.model import device as devices
from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.captured import CapturedDecodes, filled_up, is_decode, power_of_two_from
from python_layer.model.compile_cache import GRAPH_PARTS, CompileCache, graph_code
from python_layer.model.compiled_folder import MANIFEST, CompiledFolder
from python_layer.model.config import Qwen3Config
from python_layer.model.device import CPU_DEVICE, ComputeDevice, parse_target, resolve_device
from python_layer.model.device_arrays import on_device, staged, views
from python_layer.model.drawn_tokens import DrawnTokens
from python_layer.model.graph_choice import model_graph
from python_layer.model.host_copies import HostCopies
from python_layer.model.kernels import default_cache_dir, source_hash
from python_layer.model.kv_cache import KVCacheLayout
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.pages import DevicePages, page_view
from python_layer.model.precision import Precision
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.sample_graph import SampleGraph
from python_layer.model.sampler import Sampler, SamplingRow, sampler_inputs
from python_layer.model.sampling import SamplingParams
from python_layer.model.weights import weight_specs
from python_layer.utils.errors import CompileError, ConfigError, DeviceError

CONFIG = Qwen3Config.from_pretrained(DEFAULT_MODEL)


@pytest.mark.skipif(accelerator_count() > 0, reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert resolve_device("cpu") == resolve_device("auto") == CPU_DEVICE
    for text in ("gpu", "gpu:3"):
        with pytest.raises(ConfigError, match=f"device is {text}, but MAX finds no GPU .* --device cpu"):
            resolve_device(text)


@dataclass
class Found:
    """A GPU that is found here."""

    architecture_name: str


def test_a_gpu_that_is_too_old_or_whose_driver_is_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise ValueError("failed to create device: Your current NVIDIA GPU driver version is not supported.")

    monkeypatch.setattr(devices, "accelerator_count", lambda: 1)
    monkeypatch.setattr(devices, "accelerator_api", fail)
    with pytest.raises(ConfigError, match=r"device is gpu, but MAX can't use it: .* is not supported"):
        resolve_device("gpu")
    assert resolve_device("auto") == CPU_DEVICE
    monkeypatch.setattr(devices, "accelerator_api", lambda: "cuda")
    for name in ("sm_75", "sm_86"):
        monkeypatch.setattr(devices, "_accelerator", lambda _, name=name: Found(name))
        if name == "sm_86":
            assert resolve_device("gpu:0") == ComputeDevice(0, name)
        else:
            with pytest.raises(ConfigError, match="a GPU of sm_75; the kernels need sm_80 or later"):
                resolve_device("gpu")
            assert resolve_device("auto") == CPU_DEVICE


def test_gpus_are_counted_and_must_be_nvidias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "accelerator_count", lambda: 2)
    monkeypatch.setattr(devices, "accelerator_api", lambda: "cuda")
    with pytest.raises(ConfigError, match="there are 2 GPUs here, gpu:0 to gpu:1"):
        resolve_device("gpu:2")
    monkeypatch.setattr(devices, "accelerator_api", lambda: "hip")
    assert resolve_device("auto") == CPU_DEVICE
    with pytest.raises(ConfigError, match="the GPUs found here are of hip"):
        resolve_device("gpu")


@pytest.mark.parametrize("text", ["", "GPU", "gpu:", "gpu:-1", "cuda", "cpu:0"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="supported are cpu, gpu, gpu:N and auto"):
        resolve_device(text)


def test_targets() -> None:
    assert parse_target("cuda:sm_90a") == ComputeDevice(0, "sm_90a", virtual=True)
    for text in ("sm_90a", "cuda:sm_75", "hip:gfx942"):
        with pytest.raises(ConfigError, match="supported are cuda:sm_80, cuda:sm_89, cuda:sm_90a"):
            parse_target(text)


def test_a_gpus_types_and_pages_are_checked() -> None:
    gpu = parse_target("cuda:sm_80")
    graph = model_graph(CONFIG, gpu, Precision(kv_dtype="bfloat16", compute_dtype="auto"), 16, {})
    assert graph.dtype == graph.layout.dtype == DType.bfloat16
    with pytest.raises(ConfigError, match="kv_dtype is 'float32'; on a GPU it is bfloat16"):
        model_graph(CONFIG, gpu, Precision(kv_dtype="float32", compute_dtype="auto"), 16, {})
    with pytest.raises(ConfigError, match="quantization is 'int8'; on a GPU supported are auto and none"):
        model_graph(CONFIG, gpu, Precision(quantization="int8", compute_dtype="auto"), 16, {})
    with pytest.raises(ConfigError, match="page_size is 24; on a GPU it must be a power of two"):
        model_graph(CONFIG, gpu, Precision(compute_dtype="auto"), 24, {})
    assert not any(spec.packed for spec in weight_specs(CONFIG, packed=False))


def test_errors_of_a_gpu_say_what_was_not_possible() -> None:
    gpu = parse_target("cuda:sm_80")
    lack = gpu.failure(RuntimeError("CUDA_ERROR_OUT_OF_MEMORY (out of memory)"), "hold a KV cache of 3 GiB")
    assert isinstance(lack, ConfigError) and "gpu:0 lacks the memory to hold a KV cache of 3 GiB" in str(lack)
    assert isinstance(gpu.failure(RuntimeError("illegal address"), "run a step"), DeviceError)
    kernel = (
        'An error occurred in kernel entry point named "x":\nAt y: Memory manager cannot satisfy allocation (avoidable)'
    )
    with pytest.raises(ConfigError, match="lacks the memory to run a step"), gpu.explaining("run a step"):
        raise ValueError(kernel)
    with pytest.raises(ValueError, match="cannot satisfy"), CPU_DEVICE.explaining("run a step"):
        raise ValueError(kernel)


def test_batches_are_filled_up_with_tokens_of_a_spare_page() -> None:
    requests = [RequestRows([7], start=20, pages=[4, 2]), RequestRows([9], 0, [1]), RequestRows([3], 40, [0, 5, 6])]
    batch = RaggedBatch.of(requests)
    assert is_decode(batch)
    sizes = power_of_two_from(3), power_of_two_from(3)
    assert sizes == (4, 4)
    full = RaggedBatch(*filled_up(batch, *sizes, spare_page=8))
    full.check(vocab_size=10, num_pages=9, page_size=16)
    assert is_decode(full)
    for given, more in ((batch.token_ids, full.token_ids), (batch.positions, full.positions)):
        np.testing.assert_array_equal(more[:3], given)
    for request, own in enumerate(([4, 2], [1], [0, 5, 6])):
        assert full.page_table[request, : len(own)].tolist() == own
    assert full.page_table[3].tolist() == [8] * 4
    assert [power_of_two_from(n) for n in (1, 2, 4, 5)] == [1, 2, 4, 8]


def test_prefills_chunks_and_other_logits_are_no_decodes() -> None:
    for rows in ([RequestRows([1, 2], 0, [0])], [RequestRows([1], 0, [0], logits=())]):
        assert not is_decode(RaggedBatch.of(rows))
    two = RaggedBatch.of([RequestRows([1], 0, [0]), RequestRows([2], 0, [1])])
    assert not is_decode(replace(two, logit_rows=two.logit_rows[::-1].copy()))


class Replayed:
    """A compiled model on the CPU with a GPU's capture and replay: inputs and logits stay in their places."""

    def __init__(self, model: Qwen3Model) -> None:
        self._model = model._model
        self._no_draws = [Buffer.from_numpy(array) for array in sampler_inputs((), model.config.vocab_size)]
        self._logits: dict[int, Buffer] = {}

    def capture(self, key: int, *inputs: Buffer) -> list[Buffer]:
        assert key not in self._logits
        self._logits[key] = self._execute(*inputs)
        self._logits[key].to_numpy()[:] = 0  # a capture computes nothing
        return [self._logits[key]]

    def replay(self, key: int, *inputs: Buffer) -> None:
        self._logits[key].to_numpy()[:] = self._execute(*inputs).to_numpy()

    def release_captured_graph(self, key: int) -> None:
        del self._logits[key]

    @property
    def rows(self) -> list[int]:
        return [logits.shape[0] for logits in self._logits.values()]

    def _execute(self, *inputs: Buffer) -> Buffer:
        return self._model.execute(*inputs, *self._no_draws)[0]


@pytest.fixture(scope="module")
def model() -> Qwen3Model:
    return Qwen3Model.from_pretrained(DEFAULT_MODEL)


def test_captured_decodes_give_the_logits_of_the_model(model: Qwen3Model) -> None:
    cache = model.allocate_cache(9)
    prompts, pages = [[5, 9, 3], [7] * 20, [1], [2, 4]], [[0], [1, 2], [3], [4]]
    model.forward(RaggedBatch.of([RequestRows(p, 0, own) for p, own in zip(prompts, pages, strict=True)]), cache)
    decodes = CapturedDecodes(Replayed(model), cache, spare_page=8, device=CPU(), keys=itertools.count())
    for count in (4, 3, 1, 3):  # 4 and 3 are one capture
        rows = [RequestRows([11], len(p), own) for p, own in zip(prompts[:count], pages, strict=False)]
        batch = RaggedBatch.of(rows)
        expected = model.forward(batch, cache)
        np.testing.assert_array_equal(decodes.step(batch).to_numpy(), expected)
        unknown = replace(batch, token_ids=np.zeros_like(batch.token_ids))
        on_device = Buffer.from_numpy(batch.token_ids)
        np.testing.assert_array_equal(decodes.step(unknown, on_device).to_numpy(), expected)


def test_captures_have_their_own_numbers_and_the_longest_unused_ones_are_let_go(
    model: Qwen3Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "MOST_ROWS", 6)
    replayed, cache = Replayed(model), model.allocate_cache(2)
    keys = itertools.count()
    first, second = (CapturedDecodes(replayed, cache, spare_page=1, device=CPU(), keys=keys) for _ in range(2))
    for decodes, count, rows in (
        (first, 4, [4]), (first, 1, [4, 1]), (second, 1, [4, 1, 1]), (first, 4, [4, 1, 1]), (first, 2, [4, 1, 2]),
        (first, 1, [1, 2, 1]),
    ):  # fmt: skip
        decodes.step(RaggedBatch.of([RequestRows([11], 0, [0])] * count))
        assert replayed.rows == rows


def test_arrays_go_to_a_device_together() -> None:
    rng = np.random.default_rng(0)
    arrays = [
        rng.random((3, 5)).astype(np.float32),
        np.zeros(0, np.int32),
        rng.random(70),
        np.arange(4, dtype=np.uint32),
    ]
    block = staged(arrays, CPU())
    assert block.shape == (256 + 0 + 768 + 256,)
    for found in (views(block, arrays), on_device(arrays, CPU())):
        for buffer, array in zip(found, arrays, strict=True):
            np.testing.assert_array_equal(buffer.to_numpy(), array)


def test_a_step_draws_what_the_sampler_draws_from_its_logits(model: Qwen3Model) -> None:
    cache, vocab = model.allocate_cache(4), model.config.vocab_size
    mask = np.zeros((vocab + 31) // 32, np.uint32)
    mask[[1, 7]] = 0x00F0_0001
    rows = [
        SamplingRow(SamplingParams(), 0, 0, logprobs=3),
        SamplingRow(SamplingParams(temperature=5.0), seed=7, index=2),
        SamplingRow(SamplingParams(temperature=5.0, top_k=30, repetition_penalty=3.0), 9, 0, seen=[5, 9], mask=mask),
        SamplingRow(SamplingParams(), 0, 0, logprobs=0, forced=17),
    ]
    batch = RaggedBatch.of([RequestRows([5, 9, 3], 0, [0], range(3)), RequestRows([7] * 20, 0, [1, 2])])
    apart = Sampler(CompileCache(default_cache_dir())).sample(model.forward(batch, cache), rows)
    assert model.drawn_step(batch, cache, rows).read() == apart
    assert apart[2].token // 32 in (1, 7) and apart[3].token == 17
    assert model.drawn_step(replace(batch, logit_rows=batch.logit_rows[:0]), cache, []).read() == []
    with pytest.raises(ValueError, match="3 tokens can't be drawn from 4 rows of logits"):
        model.drawn_step(batch, cache, rows[:3])
    with pytest.raises(ValueError, match="draws tokens itself"):
        model.draw(model.step(batch, cache), rows)


def test_drawn_tokens_come_into_a_batch_on_the_device(model: Qwen3Model) -> None:
    given, rows, tokens = np.array([7, 0, 9, 0, 0]), np.array([-1, 2, -1, 0, 2]), np.array([40, 41, 42])
    drawn = DrawnTokens(Buffer.from_numpy(tokens.astype(np.int32)), rows.astype(np.int32))
    token_ids = model.token_gatherer().token_ids(given.astype(np.int32), drawn)
    assert token_ids.to_numpy().tolist() == [7, 42, 9, 40, 42]
    batch = RaggedBatch.of([RequestRows([7, 0, 9, 0, 0], 0, [0])])
    cache = model.allocate_cache(1)
    known = model.forward(RaggedBatch.of([RequestRows([7, 42, 9, 40, 42], 0, [0])]), cache)
    np.testing.assert_array_equal(model.step(batch, cache, token_ids).to_numpy(), known)


def test_staged_copies_are_there_when_they_have_been_waited_for() -> None:
    copies, rng = HostCopies(CPU(), staged=True), np.random.default_rng(0)
    for size in (3, 5, 4, 40):  # memory grows, and is used again once it was read
        ids, values = rng.integers(0, 100, size).astype(np.int32), rng.random((size, 20))
        results = copies.begin([Buffer.from_numpy(ids), Buffer.from_numpy(values)]).wait()
        for result, array in zip(results, (ids, values), strict=True):
            np.testing.assert_array_equal(result, array)


def test_pages_are_copied_and_swapped_by_the_driver() -> None:
    layout = KVCacheLayout.of(CONFIG, 16, DType.float32)
    pages = DevicePages(layout, 4, 2, CPU_DEVICE)
    # Copies run on the driver's own queue: what they read must stay, and the reader must wait.
    contents = [Buffer.from_numpy(np.full((1, *layout.page_shape), page, np.float32)) for page in range(4)]
    for page, content in enumerate(contents):
        page_view(pages.cache, page).inplace_copy_from(content)
    CPU().synchronize()
    pages.copy(1, 3)
    CPU().synchronize()
    pages.swap_out(2, 1)
    CPU().synchronize()
    pages.copy(0, 2)
    CPU().synchronize()
    pages.swap_in(1, 0)
    CPU().synchronize()
    values = pages.cache.to_numpy().reshape(4, -1)
    assert [set(page) for page in values.tolist()] == [{2.0}, {1.0}, {0.0}, {1.0}]


def test_a_compiled_folder_must_fit(tmp_path: Path) -> None:
    gpu = parse_target("cuda:sm_80")
    with pytest.raises(CompileError, match="holds no compiled model"):
        CompiledFolder(tmp_path, gpu)
    (tmp_path / MANIFEST).write_text(json.dumps({"architecture": "sm_90a"}), encoding="utf-8")
    with pytest.raises(CompileError, match="it was made with architecture sm_90a, but here architecture is sm_80"):
        CompiledFolder(tmp_path, gpu)
    facts = {"architecture": "sm_80", "MAX version": version("max"), "kernel sources": source_hash()[:16]}
    old = {"ModelGraph": {"configuration": "another", "graph code": "0"}}
    (tmp_path / MANIFEST).write_text(json.dumps(facts | {"graphs": old}), encoding="utf-8")
    folder = CompiledFolder(tmp_path, gpu)
    with pytest.raises(CompileError, match="its graph ModelGraph was made with configuration another, but here"):
        folder.get(model_graph(CONFIG, gpu, Precision(compute_dtype="auto"), 16, {}))
    with pytest.raises(CompileError, match="has no graph SampleGraph"):
        folder.get(SampleGraph(gpu.ref))


def test_a_compiled_folder_is_refused_when_any_file_that_shapes_its_graphs_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = parse_target("cuda:sm_80")
    graph = model_graph(CONFIG, gpu, Precision(compute_dtype="auto"), 16, {})
    facts = {"architecture": "sm_80", "MAX version": version("max"), "kernel sources": source_hash()[:16]}
    made = {"ModelGraph": {"configuration": repr(graph), "graph code": graph_code(graph)[:16]}}
    (tmp_path / MANIFEST).write_text(json.dumps(facts | {"graphs": made}), encoding="utf-8")
    with pytest.raises(CompileError, match="can't be read"):  # it fits, and there is no file
        CompiledFolder(tmp_path, gpu).get(graph)
    read_bytes = Path.read_bytes
    for part in ("graph.py", *GRAPH_PARTS):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_bytes", lambda path, part=part: read_bytes(path) + b"#" * (path.name == part))
            with pytest.raises(CompileError, match="was made with graph code"):
                CompiledFolder(tmp_path, gpu).get(graph)
