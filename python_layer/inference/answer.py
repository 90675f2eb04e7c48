"""One answer under way: its sequence, its draws and its text."""

from collections import Counter

from python_layer.inference.guide import GuideState
from python_layer.inference.ngram import NgramIndex
from python_layer.inference.request import FinishReason, Output, Request, Sink, TokenLogprobs
from python_layer.inference.sequence import Sequence
from python_layer.inference.stop_strings import StopStringFilter
from python_layer.model.sampler import SampledToken, SamplingRow
from python_layer.model.sampling import seed_of
from python_layer.tokenizer import QwenTokenizer, StreamingDetokenizer
from python_layer.utils.errors import GrammarError


class Answer:
    """Says how its tokens are sampled, takes them, and tells when it ends.

    Args:
        request: What was asked for.
        sequence: Its tokens.
        tokenizer: Makes the text; None for none.
        eos_token_ids: The model's end-of-sequence tokens.
        sink: Receives the outputs.
    """

    def __init__(
        self,
        request: Request,
        sequence: Sequence,
        tokenizer: QwenTokenizer | None,
        eos_token_ids: tuple[int, ...],
        sink: Sink,
    ) -> None:
        params = request.params
        self.request = request
        self.sequence = sequence
        self.sink = sink
        self.reason: FinishReason | None = None
        """Why the answer has ended, once it has."""
        self.lookup = NgramIndex()
        self.ended = 0
        """Answers of the request that ended with this one: several, if they had not parted yet."""
        self._seed = seed_of(params.sampling, sequence.index)
        self._counts: Counter[int] = Counter()
        self._penalized = params.sampling.repetition_penalty != 1
        self._detokenizer = None if tokenizer is None else StreamingDetokenizer(tokenizer)
        self._stop_strings = StopStringFilter(params.stop)
        self._guide = None if params.guide is None else GuideState(params.guide)
        self._endings = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else set(eos_token_ids))

    @property
    def guided(self) -> bool:
        """Whether its tokens follow something, and can't be guessed ahead."""
        return self._guide is not None

    def rows(self, drafted: int = 0) -> list[SamplingRow]:
        """How the next token is to be sampled, and those after each of the first ``drafted`` tokens of the draft."""
        params, sequence = self.request.params, self.sequence
        counts, rows = self._counts, []
        choice = None if self._guide is None else self._guide.next()
        for ahead in range(drafted + 1):
            if ahead:
                counts = counts + Counter([sequence.draft[ahead - 1]])
            index = sequence.generated + ahead
            rows.append(
                SamplingRow(
                    params=params.sampling,
                    seed=self._seed,
                    index=index,
                    seen=[*sequence.tokens, *sequence.draft[:ahead]] if self._penalized else (),
                    counts=counts,
                    banned=sorted(self._endings) if index < params.min_tokens else (),
                    logprobs=params.logprobs,
                    forced=choice if isinstance(choice, int) else None,
                    mask=None if isinstance(choice, int) else choice,
                )
            )
        return rows

    def take(self, sampled: SampledToken) -> None:
        """Adds the next token and passes it on; ``reason`` tells whether the answer ends with it."""
        params, sequence, token = self.request.params, self.sequence, sampled.token
        early = sequence.generated < params.min_tokens
        sequence.tokens.append(token)
        self._counts[token] += 1
        ended = token in self._endings
        # A token that ends the answer is no part of its text, even if it is a newline, say.
        text, cut = ("", False) if ended else self._text_of(token, early)
        if self._guide is not None:
            self._guide.take(token)
        reason, error = self._end(ended or cut)
        if reason is not None and not cut:
            text += self._last_text()
        logprobs = None if sampled.logprob is None else [TokenLogprobs(sampled.logprob, sampled.top)]
        self.reason = reason
        self._emit(sequence.index, [token], text, logprobs, reason, error)

    def give_up(self, reason: FinishReason, error: Exception | None = None) -> None:
        """Ends the answer before its time, and with it those that would have begun as it did."""
        sequence, params = self.sequence, self.request.params
        begun = sequence.generated > 0 or sequence.index > 0
        for index in range(sequence.index, sequence.index + 1 if begun else params.n):
            self._emit(index, [], "", None if params.logprobs is None else [], reason, error)

    def _end(self, stopped: bool) -> tuple[FinishReason | None, Exception | None]:
        """Why the answer ends with its last token, if it does, and what went wrong."""
        guide, sequence = self._guide, self.sequence
        if guide is not None and guide.failure:
            return "abort", GrammarError(f"the answer can't go on: {guide.failure}")
        if stopped or (guide is not None and guide.finished):
            return "stop", None
        return ("length" if sequence.generated >= sequence.params.max_tokens else None), None

    def _text_of(self, token: int, early: bool) -> tuple[str, bool]:
        """The text that is final with a token, and whether a stop string cut it."""
        if self._detokenizer is None:
            return "", False
        piece = self._detokenizer.push(token)
        return (piece, False) if early else self._stop_strings.push(piece)

    def _last_text(self) -> str:
        """What was held back, when nothing follows."""
        if self._detokenizer is None:
            return ""
        text, cut = self._stop_strings.push(self._detokenizer.flush())
        return text if cut else text + self._stop_strings.flush()

    def _emit(
        self,
        index: int,
        tokens: list[int],
        text: str,
        logprobs: list[TokenLogprobs] | None,
        reason: FinishReason | None,
        error: Exception | None = None,
    ) -> None:
        sequence = self.sequence
        # Before the output goes out: who has it may ask for the rest.
        sequence.timeline.generated += len(tokens)
        if reason is not None:
            self.ended += 1
            sequence.timeline.reasons.append(reason if error is None else "error")
        scored = (
            list(sequence.prompt_logprobs) if sequence.scores_prompt and sequence.generated == len(tokens) else None
        )
        request_id, cached = sequence.request_id, sequence.prefix_hit
        self.sink(Output(request_id, index, tokens, text, logprobs, reason, cached, error, scored))
