"""Whole models: MILI's engine and its steps alone, beside transformers on the same checkpoint."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from python_layer.inference.build import build_engine
from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.config import Qwen3Config
from python_layer.model.device import ComputeDevice
from python_layer.model.loading import load_model
from python_layer.utils.settings import load_settings
from tests.performance.engine_run import EngineRuns
from tests.performance.gpu.contest import OURS, Case, Contender, Once, bursts
from tests.performance.gpu.kernels import COPY, MATMUL
from tests.performance.gpu.torch_ops import TorchPlace
from tests.performance.gpu.transformers_model import TransformersModel
from tests.performance.peers.checkpoint import flops_per_token
from tests.performance.peers.process import run_watched

MAX_SHARE = "MODULAR_DEVICE_CONTEXT_MEMORY_MANAGER_SIZE_PERCENT"
"""The share of a GPU's memory that MAX takes when it first captures, 90% unless it is set; PyTorch needs some too."""
STEPS, TRANSFORMERS = f"{OURS}, steps alone", "transformers"


@dataclass(frozen=True)
class Lengths:
    """What is asked of a model.

    Attributes:
        prompt: Tokens of the prompt whose prefill is measured.
        batches: Requests that decode at once.
        context: Tokens of each one's prompt, and of the prompt of the answer that is measured end to end.
        new: Tokens after it.
    """

    prompt: int = 2048
    batches: tuple[int, ...] = (1, 8, 64)
    context: int = 512
    new: int = 128


class MiliModel:
    """MILI with a checkpoint, and a cache for the longest case.

    Args:
        folder: The checkpoint.
        device: Where it runs.
        lengths: What will be asked of it.
    """

    def __init__(self, folder: Path, device: ComputeDevice, lengths: Lengths) -> None:
        self._rng = np.random.default_rng(0)
        # A prompt in one step, as many a token as the GPU multiplies best.
        flags = {"model": str(folder), "device": device.name, "token_budget": lengths.prompt}
        self._model = load_model(load_settings(flags))
        layout, self._lengths = self._model.layout, lengths
        most = max(lengths.batches)
        self._prompt = layout.pages_for(lengths.prompt)
        self._each = layout.pages_for(lengths.context + lengths.new + self._extra(most))
        pages = self._prompt + most * self._each + 1
        memory = pages * layout.page_bytes / 2**30
        self._steps_cache = self._model.allocate_cache(pages)
        self._engine = build_engine(
            self._model, load_settings({**flags, "kv_cache_memory": memory, "max_running": most})
        )
        self._runs = EngineRuns(self._engine)
        self._spare = pages - 1

    def prompts(self, count: int, length: int) -> list[list[int]]:
        prompts: list[list[int]] = self._rng.integers(0, self._model.config.vocab_size, (count, length)).tolist()
        return prompts

    def prefill(self) -> float:
        return self._runs.generate(self.prompts(1, self._lengths.prompt), 1).first

    def answer(self) -> float:
        return self._runs.generate(self.prompts(1, self._lengths.context), self._lengths.new).ended

    def decode(self, requests: int) -> float:
        prompts = self.prompts(requests, self._lengths.context)
        return self._runs.generate(prompts, self._lengths.new + self._extra(requests)).per_round

    def _extra(self, requests: int) -> int:
        """Tokens that the first requests decode while the prompts of the last ones are computed."""
        return -(-requests * self._lengths.context // self._lengths.prompt)

    def prefill_step(self) -> Contender:
        [prompt] = self.prompts(1, self._lengths.prompt)
        batch = RaggedBatch.of([RequestRows(prompt, 0, list(range(self._prompt)))])
        return Contender(bursts(lambda: self._model.step(batch, self._steps_cache), self._synchronize))

    def decode_step(self, requests: int) -> Contender:
        first = range(0, requests * self._each, self._each)
        position = self._lengths.context + self._lengths.new // 2
        batch = RaggedBatch.of([RequestRows([1], position, list(range(p, p + self._each))) for p in first])
        if not self._model.device.is_gpu:
            return Contender(bursts(lambda: self._model.step(batch, self._steps_cache), self._synchronize))
        captured = self._model.captured_decodes(self._steps_cache, self._spare)
        return Contender(bursts(lambda: captured.step(batch), self._synchronize))

    def close(self) -> None:
        self._engine.shutdown()

    def _synchronize(self) -> None:
        self._model.device.open().synchronize()


class ModelCases:
    """A checkpoint's cases; MILI and transformers load it when they are first needed.

    Args:
        name: Of the model.
        folder: The checkpoint, in bfloat16.
        device: Where it runs.
        lengths: What is asked.
    """

    def __init__(self, name: str, folder: Path, device: ComputeDevice, lengths: Lengths) -> None:
        self._name, self._lengths, self._config = name, lengths, Qwen3Config.from_pretrained(folder)
        self._mili = Once(lambda: MiliModel(folder, device, lengths))
        self._transformers = Once(lambda: TransformersModel(folder, TorchPlace(device)))

    def all(self) -> list[Case]:
        """In order; nothing is loaded yet."""
        return [self.prefill(), *(self.decode(requests) for requests in self._lengths.batches), self.answer()]

    def prefill(self) -> Case:
        length = self._lengths.prompt
        makers = {
            OURS: lambda: Contender(self._mili().prefill),
            STEPS: lambda: self._mili().prefill_step(),
            f"{TRANSFORMERS}, eager": lambda: Contender(partial(self._transformers().prefill, length)),
        }
        operations = length * flops_per_token(self._config)
        return Case(f"{self._name}: prompt of {length}", MATMUL, operations, makers, length)

    def decode(self, requests: int) -> Case:
        config, context, new = self._config, self._lengths.context, self._lengths.new
        # Layers' matrices and the output projection; the table of embeddings is read only if it is that too.
        numbers = flops_per_token(config) // 2 + config.vocab_size * config.hidden_size
        kept = (context + new // 2) * 2 * config.num_hidden_layers * config.kv_size
        makers = {
            OURS: lambda: Contender(partial(self._mili().decode, requests)),
            STEPS: lambda: self._mili().decode_step(requests),
            **self._both_ways(lambda model, compiled: model.decode(requests, context, new, compiled)),
        }
        return Case(f"{self._name}: decode of {requests}", COPY, 2 * (numbers + requests * kept), makers, requests)

    def answer(self) -> Case:
        context, new = self._lengths.context, self._lengths.new
        makers = {
            OURS: lambda: Contender(self._mili().answer),
            **self._both_ways(lambda model, compiled: model.answer(context, new, compiled)),
        }
        return Case(f"{self._name}: {context} + {new} tokens", "", 0, makers)

    def close(self) -> None:
        """Ends what was loaded."""
        for loaded in (self._mili, self._transformers):
            if loaded.made is not None:
                loaded.made.close()
                loaded.made = None

    def _both_ways(self, ask: Callable[[TransformersModel, bool], float]) -> dict[str, Callable[[], Contender]]:
        def maker(compiled: bool) -> Callable[[], Contender]:
            return lambda: Contender(partial(ask, self._transformers(), compiled))

        return {f"{TRANSFORMERS}, eager": maker(False), f"{TRANSFORMERS}, compiled": maker(True)}


def memory_in_use(folder: Path, device: ComputeDevice, lengths: Lengths) -> float:
    """The share of the device's memory that is in use when MILI serves the largest batch, alone, with its defaults.

    Raises:
        ProgramError: It failed.
    """
    program = [sys.executable, "-m", "tests.performance.gpu.memory", folder, "--device", device.name]
    sizes = ["--requests", max(lengths.batches), "--context", lengths.context, "--new", lengths.new]
    # The default of MAX, not what leaves room for others.
    out, _ = run_watched([*program, *sizes], {name: value for name, value in os.environ.items() if name != MAX_SHARE})
    return float(json.loads(out.strip().splitlines()[-1])["in_use"])
