"""Generation for one request: prefill in chunks, then one token per step."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from max.driver import Buffer

from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.config import Qwen3Config
from python_layer.model.kv_cache import KVCacheLayout
from python_layer.model.sampler import Drawn, SamplingRow
from python_layer.model.sampling import MOST_LOGPROBS, SamplingParams, seed_of
from python_layer.tokenizer import QwenTokenizer, StreamingDetokenizer
from python_layer.utils.errors import ContextLengthError, InvalidRequestError, OutOfMemoryError, TokenizerError

PREFILL_CHUNK = 512
"""Most prompt tokens per step: bounds the memory of activations, whatever the prompt's length."""

FinishReason = Literal["stop", "length"]


class StepModel(Protocol):
    """What generation needs of a model."""

    @property
    def config(self) -> Qwen3Config:
        """Its configuration."""

    @property
    def layout(self) -> KVCacheLayout:
        """The layout of its KV cache."""

    @property
    def tokenizer(self) -> QwenTokenizer | None:
        """Its tokenizer, if the checkpoint has one."""

    def free_memory(self) -> int:
        """Bytes that are free where it runs."""

    def allocate_cache(self, pages: int) -> Buffer:
        """A KV cache of so many pages."""

    def drawn_step(self, batch: RaggedBatch, cache: Buffer, rows: Sequence[SamplingRow]) -> Drawn:
        """Computes a batch, and draws a token from each of its wanted rows."""


@dataclass(frozen=True)
class GeneratedToken:
    """One step's result.

    Attributes:
        token: Its id.
        text: Text that became final with it; "" inside a character, and None without a tokenizer.
        logprob: Log-probability of the token under the model, before temperature and filters.
        top_logprobs: The likeliest tokens as (id, log-probability).
        finish_reason: "stop" after an end-of-sequence token, "length" at the limit, else None.
    """

    token: int
    text: str | None
    logprob: float
    top_logprobs: list[tuple[int, float]]
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class Generation:
    """A whole answer; lists have one entry per token, an end-of-sequence token included.

    Attributes:
        prompt_tokens: Number of tokens of the prompt.
        text: The answer without special tokens, None without a tokenizer.
        tokens: Token ids.
        logprobs: As in :class:`GeneratedToken`.
        top_logprobs: Likewise.
        finish_reason: Likewise.
    """

    prompt_tokens: int
    text: str | None
    tokens: list[int]
    logprobs: list[float]
    top_logprobs: list[list[tuple[int, float]]]
    finish_reason: FinishReason

    def __str__(self) -> str:
        """The answer's text, or its token ids where there is no tokenizer."""
        return " ".join(map(str, self.tokens)) if self.text is None else self.text


class Generator:
    """Runs requests one at a time on a model.

    Args:
        model: Computes the steps.
    """

    def __init__(self, model: StepModel) -> None:
        self._model = model

    def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        max_tokens: int,
        logprobs: int = 0,
        ignore_eos: bool = False,
    ) -> Generation:
        """The whole answer at once; arguments as in :meth:`stream`."""
        ids = self._prompt_ids(prompt)
        steps = list(self.stream(ids, params, max_tokens, logprobs, ignore_eos))
        return Generation(
            prompt_tokens=len(ids),
            text=None if steps[0].text is None else "".join(step.text or "" for step in steps),
            tokens=[step.token for step in steps],
            logprobs=[step.logprob for step in steps],
            top_logprobs=[step.top_logprobs for step in steps],
            finish_reason=steps[-1].finish_reason or "length",
        )

    def stream(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        max_tokens: int,
        logprobs: int = 0,
        ignore_eos: bool = False,
    ) -> Iterator[GeneratedToken]:
        """Token by token; errors are raised here, before the first step.

        Args:
            prompt: Text or token ids.
            params: How tokens are chosen.
            max_tokens: Most tokens to generate, at least 1.
            logprobs: Number of likeliest tokens to report, 0 to 20.
            ignore_eos: Go on after an end-of-sequence token.

        Raises:
            InvalidRequestError: Something that can't be served; names the parameter.
        """
        ids = self._prompt_ids(prompt)
        check_prompt(self._model.config, ids, max_tokens)
        if not 0 <= logprobs <= MOST_LOGPROBS:
            raise InvalidRequestError(f"logprobs is {logprobs}; it must be from 0 to {MOST_LOGPROBS}", "logprobs")
        layout = self._model.layout
        # The last token's keys and values are never needed.
        pages = layout.pages_for(len(ids) + max_tokens - 1)
        available = self._model.free_memory()
        if pages * layout.page_bytes > available:
            raise OutOfMemoryError(
                f"{len(ids)} prompt tokens and {max_tokens} new ones need {pages * layout.page_bytes:,} bytes of KV "
                f"cache, but {available:,} are free; lower max_tokens",
                "max_tokens",
            )
        return self._steps(ids, pages, params, max_tokens, logprobs, ignore_eos)

    def _steps(
        self, ids: list[int], pages: int, params: SamplingParams, max_tokens: int, logprobs: int, ignore_eos: bool
    ) -> Iterator[GeneratedToken]:
        tokenizer = self._model.tokenizer
        detokenizer = None if tokenizer is None else StreamingDetokenizer(tokenizer)
        stops = set() if ignore_eos else set(self._model.config.eos_token_ids)
        cache = self._model.allocate_cache(pages)
        known, computed, seed = list(ids), 0, seed_of(params)
        for index in range(max_tokens):
            while computed < len(known):
                chunk = known[computed : computed + PREFILL_CHUNK]
                computed += len(chunk)
                last = computed == len(known)
                rows = RequestRows(chunk, computed - len(chunk), range(pages), (-1,) if last else ())
                wanted = [SamplingRow(params, seed, index, logprobs=logprobs)] if last else []
                drawn = self._model.drawn_step(RaggedBatch.of([rows]), cache, wanted)
            [sampled] = drawn.read()
            token, logprob = sampled.token, sampled.logprob
            assert logprob is not None
            known.append(token)
            reason: FinishReason | None = None
            if token in stops:
                reason = "stop"
            elif index == max_tokens - 1:
                reason = "length"
            text = None
            if detokenizer is not None:
                text = detokenizer.push(token) + (detokenizer.flush() if reason else "")
            yield GeneratedToken(token, text, logprob, sampled.top, reason)
            if reason:
                return

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        if not isinstance(prompt, str):
            return [int(token) for token in prompt]
        return encode_prompt(self._model.tokenizer, prompt)


def check_prompt(config: Qwen3Config, ids: Sequence[int], max_tokens: int) -> None:
    """Refuses a prompt that is empty, or that the model's vocabulary or context does not hold.

    Raises:
        InvalidRequestError: Names the parameter, with both numbers.
    """
    if not ids:
        raise InvalidRequestError("the prompt is empty; give at least one token", "prompt")
    check_token_ids(config, "prompt", ids)
    if max_tokens < 1:
        raise InvalidRequestError(f"max_tokens is {max_tokens}; it must be 1 or more", "max_tokens")
    if len(ids) + max_tokens > config.max_position_embeddings:
        raise ContextLengthError(
            f"{len(ids)} prompt tokens and {max_tokens} new ones exceed the model's context of "
            f"{config.max_position_embeddings} tokens; shorten the prompt or lower max_tokens",
            "max_tokens",
        )


def check_token_ids(config: Qwen3Config, param: str, ids: Iterable[int]) -> None:
    """Refuses ids outside the vocabulary.

    Raises:
        InvalidRequestError: Names the parameter and the id.
    """
    outside = next((i for i in ids if not 0 <= i < config.vocab_size), None)
    if outside is not None:
        raise InvalidRequestError(
            f"{param} holds token id {outside}; ids must be from 0 to {config.vocab_size - 1}", param
        )


def encode_prompt(tokenizer: QwenTokenizer | None, text: str, special: bool = True, param: str = "prompt") -> list[int]:
    """The token ids of a prompt.

    Args:
        tokenizer: The checkpoint's, if it has one.
        text: The prompt.
        special: Recognise special tokens in it.
        param: What the prompt is called in errors.

    Raises:
        InvalidRequestError: There is no tokenizer, or the text is no valid Unicode.
    """
    if tokenizer is None:
        raise InvalidRequestError("the checkpoint has no tokenizer; give the prompt as token ids", param)
    try:
        return tokenizer.encode(text, allow_special=special)
    except TokenizerError as error:
        raise InvalidRequestError(str(error), param) from None
