"""Generation on a model whose next token is always the last one plus one: no weights, the real loop."""

from collections.abc import Sequence

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType

from python_layer.model.batch import RaggedBatch
from python_layer.model.compile_cache import CompileCache
from python_layer.model.config import Qwen3Config
from python_layer.model.generation import PREFILL_CHUNK, Generator
from python_layer.model.kernels import default_cache_dir
from python_layer.model.kv_cache import KVCacheLayout
from python_layer.model.sampler import Drawn, Sampler, SamplingRow
from python_layer.model.sampling import SamplingParams
from python_layer.utils.errors import InvalidRequestError

VOCAB, CONTEXT, EOS = 50, 2000, 41
GREEDY = SamplingParams()
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
        "max_position_embeddings": CONTEXT,
        "eos_token_id": EOS,
    }
)


class CountingModel:
    """Says that the token after n is n + 1, and remembers every step."""

    config = CONFIG
    tokenizer = None
    layout = KVCacheLayout.of(CONFIG, 16, DType.float32)

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self._sampler = Sampler(CompileCache(default_cache_dir()))

    def free_memory(self) -> int:
        return 1 << 34

    def allocate_cache(self, pages: int) -> Buffer:
        return self.layout.allocate(pages)

    def drawn_step(self, batch: RaggedBatch, cache: Buffer, rows: Sequence[SamplingRow]) -> Drawn:
        batch.check(VOCAB, cache.shape[0], 16)
        self.steps.append((int(batch.positions[0]), len(batch.token_ids)))
        logits = np.zeros((len(batch.logit_rows), VOCAB), np.float32)
        logits[:, (batch.token_ids[-1] + 1) % VOCAB] = 5
        return self._sampler.draw(logits, rows)


@pytest.mark.parametrize(("prompt", "count"), [([1], 1), ([1, 2, 3], 17), (range(10), 20)])
def test_counts_on(prompt: Sequence[int], count: int) -> None:
    model = CountingModel()
    result = Generator(model).generate(prompt, GREEDY, count)
    first = prompt[-1] + 1
    assert result.tokens == list(range(first, first + count))
    assert (result.finish_reason, result.text, result.prompt_tokens) == ("length", None, len(prompt))
    assert model.steps == [(0, len(prompt)), *((len(prompt) + i, 1) for i in range(count - 1))]


def test_long_prompts_go_in_chunks() -> None:
    model = CountingModel()
    Generator(model).generate([1] * (2 * PREFILL_CHUNK + 5), GREEDY, 1)
    assert model.steps == [(0, PREFILL_CHUNK), (PREFILL_CHUNK, PREFILL_CHUNK), (2 * PREFILL_CHUNK, 5)]


def test_stops_after_an_end_of_sequence_token() -> None:
    result = Generator(CountingModel()).generate([EOS - 3], GREEDY, 10)
    assert (result.tokens, result.finish_reason) == ([EOS - 2, EOS - 1, EOS], "stop")
    ignored = Generator(CountingModel()).generate([EOS - 3], GREEDY, 5, ignore_eos=True)
    assert (ignored.tokens, ignored.finish_reason) == ([39, 40, 41, 42, 43], "length")


def test_logprobs() -> None:
    result = Generator(CountingModel()).generate([1], GREEDY, 2, logprobs=2)
    expected = 5 - np.log(np.exp(5) + VOCAB - 1)
    np.testing.assert_allclose(result.logprobs, expected, rtol=1e-6)
    assert [[token for token, _ in step] for step in result.top_logprobs] == [[2, 0], [3, 0]]


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "logprobs", "param"),
    [
        ([], 1, 0, "prompt"),
        ([VOCAB], 1, 0, "prompt"),
        ([-1], 1, 0, "prompt"),
        ("text", 1, 0, "prompt"),
        ([1], 0, 0, "max_tokens"),
        ([1] * 10, CONTEXT - 9, 0, "max_tokens"),
        ([1], 1, 21, "logprobs"),
        ([1], 1, -1, "logprobs"),
    ],
)
def test_what_cannot_be_served_is_refused_before_the_first_step(
    prompt: Sequence[int] | str, max_tokens: int, logprobs: int, param: str
) -> None:
    model = CountingModel()
    with pytest.raises(InvalidRequestError) as caught:
        Generator(model).stream(prompt, GREEDY, max_tokens, logprobs)
    assert caught.value.param == param
    assert model.steps == []


def test_the_whole_context_can_be_used() -> None:
    result = Generator(CountingModel()).generate([1] * (CONTEXT - 3), GREEDY, 3)
    assert len(result.tokens) == 3
