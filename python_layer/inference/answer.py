"""One answer under way: its sequence, its sampler and its text."""

import numpy as np
from numpy.typing import NDArray

from python_layer.inference.request import FinishReason, Output, Request, Sink, TokenLogprobs
from python_layer.inference.sequence import Sequence
from python_layer.inference.stop_strings import StopStringFilter
from python_layer.model.sampling import Sampler, log_probabilities, top_log_probabilities
from python_layer.tokenizer import QwenTokenizer, StreamingDetokenizer


class Answer:
    """Takes logits, chooses tokens and tells when the answer ends.

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
        self.ended = 0
        """Answers of the request that ended with this one: several, if they had not parted yet."""
        self._sampler = Sampler(params.sampling, stream=sequence.index)
        self._detokenizer = None if tokenizer is None else StreamingDetokenizer(tokenizer)
        self._stop_strings = StopStringFilter(params.stop)
        self._endings = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else set(eos_token_ids))

    def take(self, logits: NDArray[np.float32]) -> FinishReason | None:
        """Chooses the next token from ``logits`` [vocab] and passes it on; says whether the answer ends."""
        params, sequence = self.request.params, self.sequence
        early = sequence.generated < params.min_tokens
        prompt, output = sequence.tokens[: sequence.prompt_length], sequence.output
        token = self._sampler.sample(logits, prompt, output, sorted(self._endings) if early else ())
        sequence.tokens.append(token)
        ended = token in self._endings
        # A token that ends the answer is no part of its text, even if it is a newline, say.
        text, cut = ("", False) if ended else self._text_of(token, early)
        reason: FinishReason | None = None
        if ended or cut:
            reason = "stop"
        elif sequence.generated >= params.max_tokens:
            reason = "length"
        if reason is not None and not cut:
            text += self._last_text()
        self._emit(sequence.index, [token], text, self._logprobs(logits, token), reason)
        return reason

    def give_up(self, reason: FinishReason, error: Exception | None = None) -> None:
        """Ends the answer before its time, and with it those that would have begun as it did."""
        sequence, params = self.sequence, self.request.params
        begun = sequence.generated > 0 or sequence.index > 0
        for index in range(sequence.index, sequence.index + 1 if begun else params.n):
            self._emit(index, [], "", None if params.logprobs is None else [], reason, error)

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

    def _logprobs(self, logits: NDArray[np.float32], token: int) -> list[TokenLogprobs] | None:
        wanted = self.request.params.logprobs
        if wanted is None:
            return None
        scores = log_probabilities(logits)
        return [TokenLogprobs(float(scores[token]), top_log_probabilities(scores, wanted))]

    def _emit(
        self,
        index: int,
        tokens: list[int],
        text: str,
        logprobs: list[TokenLogprobs] | None,
        reason: FinishReason | None,
        error: Exception | None = None,
    ) -> None:
        self.ended += reason is not None
        request_id, cached = self.sequence.request_id, self.sequence.prefix_hit
        self.sink(Output(request_id, index, tokens, text, logprobs, reason, cached, error))
