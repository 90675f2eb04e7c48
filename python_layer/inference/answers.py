"""The answers under way, and what each does in a step."""

from python_layer.inference.answer import Answer
from python_layer.inference.request import Request, Sink
from python_layer.inference.sequence import Sequence
from python_layer.inference.turn import Turn
from python_layer.tokenizer import QwenTokenizer


class Answers(dict[Sequence, Answer]):
    """Those that have not ended, by their sequences.

    Args:
        tokenizer: Makes their text; None for token ids only.
        eos_token_ids: The model's end-of-sequence tokens.
    """

    def __init__(self, tokenizer: QwenTokenizer | None, eos_token_ids: tuple[int, ...]) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids

    def begin(self, request: Request, sink: Sink) -> Sequence:
        """Adds a request's first answer, which stands for the others until they part."""
        answer = self._make(request, 0, sink)
        self[answer.sequence] = answer
        return answer.sequence

    def draft(self, sequences: list[Sequence], most: int) -> None:
        """Guesses up to ``most`` tokens after the one that a decoding sequence is about to compute."""
        for sequence in sequences:
            left = sequence.params.max_tokens - sequence.generated - 1
            answer = self[sequence]
            ready = sequence.remaining == 1 and sequence.generated > 0 and not answer.guided
            sequence.draft = answer.lookup.propose(sequence.tokens, min(most, left)) if ready else []

    def turn(self, sequence: Sequence, count: int) -> Turn:
        """What a sequence does in a step of so many tokens: with all computed, its answers draw their next ones."""
        answer, scored = self[sequence], range(0)
        if sequence.scores_prompt:
            # Token p follows from row p - 1; after a preemption some are known already.
            first = max(sequence.computed, len(sequence.prompt_logprobs)) + 1
            scored = range(first, min(sequence.computed + count + 1, sequence.prompt_length))
        if count < sequence.remaining:
            return Turn(sequence, count, 0, [], scored)
        answers = [answer]
        if sequence.generated == 0 and sequence.index == 0 and not sequence.pending:
            for index in range(1, answer.request.params.n):
                fork = self._make(answer.request, index, answer.sink)
                fork.sequence.prefix_hit = sequence.prefix_hit
                answers.append(fork)
        return Turn(sequence, sequence.remaining, count - sequence.remaining, answers, scored)

    def _make(self, request: Request, index: int, sink: Sink) -> Answer:
        arrived = request.timeline.arrived
        sequence = Sequence(
            request_id=request.request_id,
            index=index,
            params=request.params,
            tokens=list(request.prompt),
            prompt_length=len(request.prompt),
            priority=request.priority,
            user=request.user,
            arrival=arrived,
            deadline=None if request.timeout is None else arrived + request.timeout,
            timeline=request.timeline,
        )
        return Answer(request, sequence, self.tokenizer, self._eos_token_ids, sink)
