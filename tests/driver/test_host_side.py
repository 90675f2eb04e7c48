"""The host's side of the GPU path on the pretended driver, from ``driver.c``: run by ``make gpu-host``.

What the GPU would compute is not looked at, for nothing is computed.
"""

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType

from python_layer.inference.build import build_engine
from python_layer.inference.params import GenerationParams
from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.captured import MOST_ROWS
from python_layer.model.drawn_tokens import DrawnTokens
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.paged_model import PagedModel
from python_layer.model.pages import make_pages, page_view
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.safetensors_file import SafetensorsFile
from python_layer.model.sampler import SamplingRow
from python_layer.model.sampling import SamplingParams
from python_layer.utils.errors import ConfigError
from python_layer.utils.settings import load_settings
from tests.driver.log import ALLOCATIONS, WAITS, DriverLog, those, without_max_events

LOG = os.environ.get("PRETENDED_DRIVER_LOG")
if LOG is None:
    pytest.skip("these run on the pretended driver: make gpu-host", allow_module_level=True)
DRIVER = ctypes.CDLL("libcuda.so.1")  # makes sure that it is found
PAGES = 200


@pytest.fixture(scope="module")
def log() -> DriverLog:
    Path(LOG).touch()
    return DriverLog(Path(LOG))


@pytest.fixture(scope="module")
def model(log: DriverLog) -> Qwen3Model:
    return Qwen3Model.from_pretrained(DEFAULT_MODEL, device="gpu", compute_dtype="auto")


@pytest.fixture(scope="module")
def started(model: Qwen3Model, log: DriverLog) -> list[str]:
    """Calls of the model's start."""
    return log.calls()


@pytest.fixture
def paged(model: Qwen3Model, started: list[str]) -> PagedModel:
    return PagedModel(model, PAGES, 4, overlap=True)


@pytest.fixture(autouse=True)
def nothing_refused(started: list[str]) -> Iterator[None]:
    """No call of a test is refused, whoever reads the log, unless there is no memory."""
    with Path(LOG).open() as file:
        file.seek(0, os.SEEK_END)
        yield
        refused = those(file.read().splitlines(), "refused")
        assert [call for call in refused if not call.startswith("refused to allocate")] == []


def decodes(count: int, pages: int = 2) -> RaggedBatch:
    return RaggedBatch.of([RequestRows([5], start=9, pages=range(pages)) for _ in range(count)])


def draw(count: int) -> list[SamplingRow]:
    return [SamplingRow(SamplingParams(), seed=1, index=0)] * count


def assert_order(calls: list[str], *patterns: str) -> None:
    assert len(calls) == len(patterns) and all(map(re.match, patterns, calls)), "\n".join(calls)


def test_weights_arrive(started: list[str], model: Qwen3Model) -> None:
    """Each matrix of the checkpoint lies, byte by byte, in what was copied to the GPU."""
    copies = [re.match(r"copy to device (\d+) PAGEABLE to (\w+)$", call) for call in started]
    held = [ctypes.string_at(int(copy[2], 16), int(copy[1])) for copy in copies if copy]
    assert sum(map(len, held)) >= model.weight_bytes
    tensors = SafetensorsFile(DEFAULT_MODEL / "model.safetensors")
    data = tensors.path.read_bytes()
    matrices = [entry for entry in tensors.entries.values() if len(entry.shape) == 2]
    assert len(matrices) > 7 * model.config.num_hidden_layers
    for entry in matrices:
        assert any(data[entry.begin : entry.end] in place for place in held), entry
    assert those(started, "refused") == []


def test_a_prompt_is_launched_and_not_waited_for(paged: PagedModel, log: DriverLog) -> None:
    batch = RaggedBatch.of([RequestRows(range(100), start=0, pages=range(7))])
    paged.forward(batch)
    log.calls()
    paged.forward(batch)
    first, *rest = without_max_events(log.calls())
    assert re.match(r"copy to device \d+ page-locked", first)
    assert len(rest) > 10 and all(call.startswith("launch mojo_kernels_gpu_") for call in rest)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_decode_waits_for_one_event(paged: PagedModel, log: DriverLog, count: int) -> None:
    """Steps overlap: a step is asked for before the tokens of the one before are read."""
    rows = np.arange(count, dtype=np.int32)
    drawn = paged.draw(paged.forward(decodes(count)), draw(count))
    log.calls()
    recorded = None
    for step in range(5):
        logits = paged.forward(decodes(count), DrawnTokens(drawn.tokens, rows))
        drawn.read()
        drawn = paged.draw(logits, draw(count))
        calls = without_max_events(log.calls())
        if step == 0:  # takes page-locked memory for the first time, and an event
            recorded = calls[-1]
            continue
        assert_order(
            calls,
            r"copy to device \d+ page-locked",  # ids, and which of them are drawn
            r"launch gather",
            r"copy to device \d+ page-locked",  # the batch
            rf"copy on device {4 * count} to",  # the drawn tokens, into it
            r"launch graph of \d+ nodes",
            re.escape(recorded.replace("record", "wait for")) + "$",
            r"copy to device \d+ page-locked",  # what the sampler wants
            r"launch mojo_kernels_gpu_sampling",
            rf"copy to host {4 * count} page-locked",
            r"record event",
        )
        recorded = calls[-1]


def test_captures(paged: PagedModel, log: DriverLog) -> None:
    """Once per size, of all that a step launches, with no allocation and no wait while it is captured."""
    for count, pages, captured in [(3, 2, True), (4, 2, False), (40, 2, True), (64, 1, True), (64, 2, False)]:
        log.calls()
        paged.forward(decodes(count, pages))
        calls = log.calls()
        assert len(those(calls, "begin capture")) == captured
        assert len(those(calls, "launch graph")) == 1
        within = [call for call in calls if call.endswith("while capturing")]
        assert those(within, *ALLOCATIONS, *WAITS, "copy") == []
        if captured:
            launched = len(those(within, "launch"))
            assert launched > 10
            assert those(calls, "end capture", "launch graph") == [
                f"end capture of {launched} nodes",
                f"launch graph of {launched} nodes",
            ]


def test_captures_are_let_go(paged: PagedModel, log: DriverLog) -> None:
    log.calls()
    sizes = [1, 2, 4, 8, 16, 32, 64]  # pages
    for pages in sizes:
        paged.forward(decodes(128, pages))
    calls = log.calls()
    assert len(those(calls, "begin capture")) == len(sizes)
    # What the fixture captured to warm up goes with the first of them.
    assert len(those(calls, "destroy graph")) == 1 + len(sizes) - MOST_ROWS // 128


def test_two_caches_of_a_model(model: Qwen3Model, paged: PagedModel, log: DriverLog) -> None:
    """Each has captures of its own."""
    other = PagedModel(model, PAGES, overlap=True)
    log.calls()
    for pages in (paged, other, paged, other):
        pages.forward(decodes(2))
    calls = log.calls()
    assert len(those(calls, "begin capture")) == 2
    assert len(those(calls, "launch graph")) == 4


def test_pages(model: Qwen3Model, log: DriverLog) -> None:
    """Pages are copied where they should be; on the GPU nobody waits for that."""
    pages = make_pages(model.layout, model.device, 4, swap_slots=2)
    size = model.layout.page_bytes
    numbers = np.random.default_rng(1).integers(0, 2**16, (1, *model.layout.page_shape), np.uint16)
    page_view(pages.cache, 1).inplace_copy_from(Buffer.from_numpy(numbers).view(model.layout.dtype, numbers.shape))
    log.calls()
    pages.copy(1, 2)
    assert_order(without_max_events(log.calls()), rf"copy on device {size} to")
    pages.swap_out(2, 1)
    assert len(those(log.calls(), f"copy to host {size} ")) == 1
    pages.swap_in(1, 3)
    assert len(those(log.calls(), f"copy to device {size} ")) == 1
    held = pages.cache.view(DType.uint16, pages.cache.shape).to_numpy()
    for page in (1, 2, 3):
        np.testing.assert_array_equal(held[page], numbers[0])


def test_the_engine_only_waits_for_events(model: Qwen3Model, log: DriverLog) -> None:
    engine = build_engine(model, load_settings({"device": "gpu", "kv_cache_memory": 0.1}))
    try:
        params = GenerationParams(max_tokens=12, ignore_eos=True)
        engine.generate_batch([[5, 9, 3]] * 3, params)
        log.calls()
        answers = [outputs[0] for outputs in engine.generate_batch([[5, 9, 3]] * 3, params)]
    finally:
        engine.shutdown()
    assert [len(answer.tokens) for answer in answers] == [12] * 3
    calls = log.calls()
    assert len(those(calls, "launch mojo_kernels_gpu_sampling")) >= 12
    assert len(those(calls, "launch graph")) >= 9  # the others have a prompt beside decodes
    assert len(those(calls, "copy to host")) == len(those(calls, "wait for event"))
    assert those(calls, "synchronize", *ALLOCATIONS) == []
    assert [call for call in calls if "PAGEABLE" in call] == []


def test_a_cache_that_is_too_large(model: Qwen3Model, paged: PagedModel) -> None:
    with pytest.raises(ConfigError, match=r"gpu:0 lacks the memory to hold a KV cache of 20\.\d\d GiB"):
        model.allocate_cache(int(20.5 * 2**30) // model.layout.page_bytes)
    paged.forward(decodes(1))


def test_a_step_without_memory(model: Qwen3Model, paged: PagedModel) -> None:
    paged.forward(decodes(1))
    held, size = [], 1 << 30
    while size >= 1 << 12:
        try:
            held.append(Buffer(DType.uint8, [size], model.device.open()))
        except (RuntimeError, ValueError):
            size //= 2
    for batch in (decodes(256, 100), RaggedBatch.of([RequestRows([5] * 2000, start=0, pages=range(125))])):
        with pytest.raises(ConfigError, match=r"gpu:0 lacks the memory to compute a step of \d+ tokens"):
            paged.forward(batch)
    paged.forward(decodes(1))  # goes on
    del held
    paged.forward(decodes(256, 100))


def test_a_driver_that_is_too_old() -> None:
    script = "from python_layer.model.device import *; print(resolve_device('auto').name); resolve_device('gpu')"
    environment = os.environ | {"PRETENDED_DRIVER_VERSION": "12000"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert result.stdout == "cpu\n"
    assert "ConfigError: device is gpu, but MAX can't use it" in result.stderr
    assert "Required: driver version >= 580" in result.stderr
