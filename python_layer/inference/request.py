"""Requests to the engine, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from python_layer.inference.params import GenerationParams
from python_layer.inference.timeline import Timeline

FinishReason = Literal["stop", "length", "abort", "timeout"]


@dataclass(frozen=True)
class Request:
    """What the engine is asked for.

    Attributes:
        request_id: Unique among those under way.
        prompt: Token ids.
        params: How to generate.
        priority: Lower goes first, under the ``priority`` policy.
        user: Whose it is, for the ``fair`` policy.
        timeout: Seconds after which it is given up; None is never.
        timeline: What has happened to it since it was last submitted; the engine writes it.
    """

    request_id: str
    prompt: list[int]
    params: GenerationParams = field(default_factory=GenerationParams)
    priority: int = 0
    user: str = ""
    timeout: float | None = None
    timeline: Timeline = field(default_factory=Timeline, init=False, compare=False)


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of one token under the model, before temperature and filters.

    Attributes:
        logprob: Of the token itself.
        top: The likeliest tokens as (id, log-probability).
    """

    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Output:
    """A piece of one answer.

    Attributes:
        request_id: The request's.
        index: Which of its ``n`` answers this is.
        tokens: New token ids; an end-of-sequence or stop token is among them.
        text: Text that is final now, without special tokens and stop strings; "" without a tokenizer.
        logprobs: For each token, where they were asked for.
        finish_reason: Why the answer ends here; None while it goes on.
        cached_tokens: Tokens of the prompt that were found in the prefix cache.
        error: Why it failed, with ``finish_reason`` "abort"; None if it was taken back or went well.
        prompt_logprobs: With the first output of a request that asked for them: one for each token of the prompt but
            the first.
    """

    request_id: str
    index: int
    tokens: list[int]
    text: str
    logprobs: list[TokenLogprobs] | None
    finish_reason: FinishReason | None
    cached_tokens: int = 0
    error: Exception | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None


Sink = Callable[[Output], None]
"""Receives a request's outputs, on the engine's thread: it must be quick and must not raise."""
