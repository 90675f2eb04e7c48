"""A model without weights for tests of the engine: real pages and sampling, pretended logits."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from python_layer.inference.cache_manager import CacheManager
from python_layer.inference.engine import InferenceEngine
from python_layer.inference.scheduler import ContinuousBatchScheduler, SchedulerConfig
from python_layer.inference.swap_space import SwapSpace
from python_layer.model.batch import RaggedBatch
from python_layer.model.compile_cache import CompileCache
from python_layer.model.config import Qwen3Config
from python_layer.model.drawn_tokens import DrawnTokens
from python_layer.model.kernels import default_cache_dir
from python_layer.model.sampler import SampledToken, Sampler, SamplingRow

VOCAB, PAGE, EOS = 64, 4, 63
AHEAD, NOBODYS = 3, -2

CONFIG = Qwen3Config.from_dict(
    {
        "model_type": "qwen3",
        "vocab_size": VOCAB,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "eos_token_id": EOS,
    }
)


def expected_token(context: list[int]) -> int:
    """The greedy token after a context: any change to any of its tokens would change it."""
    return sum((i + 1) * (token + 1) for i, token in enumerate(context)) * 2654435761 % 2**32 % (VOCAB - 1)


def continuation(prompt: list[int], count: int) -> list[int]:
    """The greedy answer to a prompt."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(expected_token(tokens))
    return tokens[len(prompt) :]


@dataclass
class MockDraws:
    """Tokens that a model will have drawn once it has done what it was asked for before."""

    work: Callable[[], None]
    tokens: list[int] = field(default_factory=list)
    sampled: list[SampledToken] = field(default_factory=list)

    def read(self) -> list[SampledToken]:
        self.work()
        return self.sampled


class MockModel:
    """Keeps the tokens themselves in its pages and reads every context back from there.

    Args:
        late: Do nothing before its result is asked for, in the order it was asked for: a GPU may be as slow.
    """

    config = CONFIG

    def __init__(
        self,
        pages: int,
        uniform: bool = False,
        delay: float = 0.0,
        next_token: Callable[[list[int]], int] = expected_token,
        late: bool = False,
    ) -> None:
        self._late = late
        self._queue: list[Callable[[], None]] = []
        self._memory = np.full((pages, PAGE), -1)
        self._swap = np.full((pages, PAGE), -1)
        self.swapped = 0
        self.ready = 0
        self._uniform = uniform
        self._next_token = next_token
        self._sampler = Sampler(CompileCache(default_cache_dir()))
        self._delay = delay
        self.fail_at: int | None = None
        self.steps = 0
        self.largest = 0

    def forward(self, batch: RaggedBatch, drawn: DrawnTokens | None = None) -> np.ndarray:
        batch.check(VOCAB, len(self._memory), PAGE)
        self.steps += 1
        self.largest = max(self.largest, len(batch.page_table))
        if self.steps == self.fail_at:
            raise RuntimeError("the device is gone")
        time.sleep(self._delay)
        logits = np.zeros((len(batch.logit_rows), VOCAB), np.float32)
        self._do(lambda: self._compute(batch, drawn, logits))
        return logits

    def draw(self, logits: np.ndarray, rows: list[SamplingRow]) -> MockDraws:
        given = [replace(row, seen=list(row.seen), counts=dict(row.counts)) for row in rows]
        done = []

        def sample() -> None:
            draws.sampled = self._sampler.sample(logits, given)
            draws.tokens += [sampled.token for sampled in draws.sampled]
            done.append(True)

        def work() -> None:
            while not done:
                self._queue.pop(0)()

        draws = MockDraws(work)
        self._do(sample)
        return draws

    def ready_page(self, reached: int) -> bool:
        self.ready = max(self.ready, reached)
        if self.ready == min(len(self._memory), reached + AHEAD):
            return False
        self._memory[self.ready] = NOBODYS
        self.ready += 1
        return True

    def copy_page(self, source: int, target: int) -> None:
        self._do(lambda: self._move(self._memory, source, self._memory, target))

    def swap_out(self, page: int, slot: int) -> None:
        self._do(lambda: self._move(self._memory, page, self._swap, slot))
        self.swapped += 1

    def swap_in(self, slot: int, page: int) -> None:
        self._do(lambda: self._move(self._swap, slot, self._memory, page))

    def _do(self, work: Callable[[], None]) -> None:
        self._queue.append(work)
        while self._queue and not self._late:
            self._queue.pop(0)()

    @staticmethod
    def _move(source: np.ndarray, i: int, target: np.ndarray, j: int) -> None:
        target[j] = source[i]

    def _compute(self, batch: RaggedBatch, drawn: DrawnTokens | None, logits: np.ndarray) -> None:
        token_ids = batch.token_ids
        if drawn is not None:
            token_ids = np.array(
                [given if row < 0 else drawn.tokens[row] for given, row in zip(token_ids, drawn.rows, strict=True)]
            )
        contexts = {}
        for b, (begin, end) in enumerate(zip(batch.row_offsets, batch.row_offsets[1:], strict=False)):
            positions = batch.positions[begin:end]
            self._memory[batch.page_table[b, positions // PAGE], positions % PAGE] = token_ids[begin:end]
            everything = np.arange(positions[-1] + 1)
            known = self._memory[batch.page_table[b, everything // PAGE], everything % PAGE].tolist()
            contexts |= {row: known[: batch.positions[row] + 1] for row in range(begin, end)}
        for row, wanted in zip(logits, batch.logit_rows.tolist(), strict=True):
            if not self._uniform:
                row[self._next_token(contexts[wanted])] = 10


def make_engine(
    model: MockModel,
    pages: int,
    speculation: int = 0,
    swap_slots: int = 0,
    overlap: bool = False,
    prefix_caching: bool = True,
    **config: object,
) -> InferenceEngine:
    cache = CacheManager(pages, PAGE, prefix_caching=prefix_caching)
    scheduler = ContinuousBatchScheduler(SchedulerConfig(**config), cache, time.monotonic, SwapSpace(swap_slots))
    return InferenceEngine(model, scheduler, cache, None, speculation=speculation, overlap=overlap, debug=True)
