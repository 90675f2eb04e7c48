"""What a request asks for."""

from dataclasses import dataclass, field

from python_layer.inference.guide import Guide
from python_layer.model.sampling import MOST_LOGPROBS, SamplingParams
from python_layer.utils.errors import InvalidRequestError

MOST_ANSWERS = 128
MOST_STOP_STRINGS = 16


@dataclass(frozen=True)
class GenerationParams:
    """How answers are generated, and when they end.

    Attributes:
        sampling: How tokens are chosen.
        max_tokens: Most tokens of an answer.
        min_tokens: Tokens before which no end-of-sequence or stop token is chosen and no stop string ends it.
        n: Answers to the same prompt; answer i draws with seed + i.
        stop: Strings that end an answer; they are not part of it.
        stop_token_ids: Tokens that end an answer, beside the model's own.
        ignore_eos: Go on after the model's end-of-sequence tokens.
        logprobs: Likeliest tokens to report with each token; None reports no log-probabilities.
        prompt_logprobs: Likewise for the tokens of the prompt, each given those before it. The prompt is then computed
            whole, whatever the prefix cache holds.
        guide: What the tokens must follow.

    Raises:
        InvalidRequestError: A value outside its range; names the parameter.
    """

    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int = 128
    min_tokens: int = 0
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    guide: Guide | None = None

    def __post_init__(self) -> None:
        self._within("max_tokens", self.max_tokens, 1)
        self._within("min_tokens", self.min_tokens, 0, self.max_tokens)
        self._within("n", self.n, 1, MOST_ANSWERS)
        if self.guide is not None and self.guide.grammar is not None and self.min_tokens:
            raise InvalidRequestError(
                "min_tokens can't be combined with a grammar, which says where it ends", "min_tokens"
            )
        for name, wanted in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if wanted is not None:
                self._within(name, wanted, 0, MOST_LOGPROBS)
        if len(self.stop) > MOST_STOP_STRINGS or "" in self.stop:
            raise InvalidRequestError(
                f"stop has {len(self.stop)} strings; it must be up to {MOST_STOP_STRINGS}, none of them empty", "stop"
            )

    @staticmethod
    def _within(name: str, value: int, low: int, high: int | None = None) -> None:
        if value < low or (high is not None and value > high):
            allowed = f"{low} or more" if high is None else f"from {low} to {high}"
            raise InvalidRequestError(f"{name} is {value}; it must be {allowed}", name)
