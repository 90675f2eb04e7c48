"""What one sequence does in one step."""

from dataclasses import dataclass
from itertools import islice

from python_layer.inference.answer import Answer
from python_layer.inference.request import TokenLogprobs
from python_layer.inference.sequence import Sequence, Status
from python_layer.model.batch import RequestRows
from python_layer.model.sampler import SampledToken, SamplingRow
from python_layer.model.sampling import SamplingParams

GREEDY = SamplingParams()


@dataclass
class Turn:
    """The tokens a sequence computes, and the answers that draw from their logits.

    Attributes:
        sequence: Whose tokens are computed.
        known: How many tokens, its pending one among them.
        drafted: How many of its draft's, after them.
        answers: Its own answer and those that begin with it; none while a prompt is not all computed.
        scored: Tokens of the prompt, by position, whose log-probabilities are wanted and follow from this step.
        taken: Tokens the answers got.
    """

    sequence: Sequence
    known: int
    drafted: int
    answers: list[Answer]
    scored: range = range(0)
    taken: int = 0

    @property
    def draws(self) -> int:
        """How many tokens are drawn for it; only a lone answer has a draft."""
        return len(self.scored) + len(self.answers) * (1 + self.drafted)

    @property
    def takes_pending(self) -> bool:
        """Whether the last of its tokens is not known yet; asked before it is computed."""
        return self.sequence.computed + self.known > len(self.sequence.tokens)

    @property
    def ended(self) -> bool:
        """Whether the sequence's answer ended with what it took."""
        return bool(self.answers) and self.answers[0].reason is not None

    @property
    def dropped(self) -> bool:
        """Whether its sequence ended while it was under way."""
        return self.sequence.status is Status.FINISHED

    def batch_rows(self) -> RequestRows:
        """Its part of the batch, with 0 for a token that is not known yet."""
        sequence = self.sequence
        tokens = sequence.tokens[sequence.computed : sequence.computed + self.known] + [0] * self.takes_pending
        wanted = [position - 1 - sequence.computed for position in self.scored]
        wanted += [-1] * len(self.answers) if not self.drafted else range(-1 - self.drafted, 0)
        return RequestRows([*tokens, *sequence.draft[: self.drafted]], sequence.computed, sequence.pages, wanted)

    def sampling_rows(self) -> list[SamplingRow]:
        """How each of its rows of logits is sampled."""
        if self.dropped:
            return [SamplingRow(GREEDY, 0, 0)] * self.draws
        tokens, count = self.sequence.tokens, self.sequence.params.prompt_logprobs
        given = [SamplingRow(GREEDY, 0, 0, logprobs=count, forced=tokens[position]) for position in self.scored]
        return given + [row for answer in self.answers for row in answer.rows(self.drafted)]

    def take(self, drawn: list[SampledToken]) -> int:
        """Gives the answers their tokens; returns how many of the draft's were right."""
        sequence, accepted = self.sequence, 0
        sampled = iter(drawn)
        for given in islice(sampled, len(self.scored)):
            assert given.logprob is not None
            sequence.prompt_logprobs.append(TokenLogprobs(given.logprob, given.top))
        for answer in self.answers:
            for ahead, token in enumerate(islice(sampled, self.drafted + 1)):
                answer.take(token)
                self.taken += 1
                if answer.reason is not None or ahead == self.drafted or token.token != sequence.draft[ahead]:
                    break
                accepted += 1
        return accepted
