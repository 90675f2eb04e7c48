"""A sequence of tokens that is being generated."""

import enum
from dataclasses import dataclass, field

from python_layer.inference.params import GenerationParams
from python_layer.inference.request import TokenLogprobs
from python_layer.inference.timeline import Timeline


class Status(enum.Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class Sequence:
    """One answer under way: its tokens, and how many of them have keys and values in the cache.

    There is no prefill and no decode: ``computed`` catches up with ``tokens``, in chunks or one by one.

    Attributes:
        request_id: The request it answers.
        index: Which of the request's ``n`` answers it is.
        params: How to generate.
        tokens: Prompt and answer so far.
        prompt_length: Tokens of the prompt.
        priority: Lower goes first.
        user: Whose it is, for fairness.
        arrival: When its request came, in the scheduler's seconds.
        deadline: When it is given up if it has not finished; None is never.
        computed: Tokens in the cache, or in a step that was launched.
        pending: Its next token is drawn, but not known here yet.
        pages: Block table: position p is in ``pages[p // page_size]``.
        status: Where it stands.
        prefix_hit: Tokens it found in the cache when it was first scheduled.
        draft: Tokens that may come next, to be checked in its next step.
        preemptions: How often its pages were taken from it.
        slots: Of the swap space, with its first pages, while it waits after a preemption.
        kept: Tokens whose keys and values are in them.
        prompt_logprobs: Of the prompt's second token and those after it, as far as they are known.
        timeline: Its request's.
        last_token: When it got its latest token, in the scheduler's seconds; None while it has none.
    """

    request_id: str
    index: int
    params: GenerationParams
    tokens: list[int]
    prompt_length: int
    priority: int = 0
    user: str = ""
    arrival: float = 0.0
    deadline: float | None = None
    computed: int = 0
    pending: bool = False
    pages: list[int] = field(default_factory=list)
    status: Status = Status.WAITING
    prefix_hit: int = 0
    draft: list[int] = field(default_factory=list)
    preemptions: int = 0
    slots: list[int] = field(default_factory=list)
    kept: int = 0
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)
    last_token: float | None = None

    @property
    def remaining(self) -> int:
        """Tokens to compute: the known ones, and the pending one unless it is the answer's last."""
        goes_on = self.pending and self.generated + 1 < self.params.max_tokens
        return len(self.tokens) + goes_on - self.computed

    @property
    def scores_prompt(self) -> bool:
        """Whether the log-probabilities of its prompt are wanted; its first answer gives them."""
        return self.params.prompt_logprobs is not None and self.index == 0

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def output(self) -> list[int]:
        """The answer's tokens so far."""
        return self.tokens[self.prompt_length :]
