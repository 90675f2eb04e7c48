"""Text from a stream of tokens, never half a character at a time."""

import codecs

from python_layer.tokenizer.qwen_tokenizer import QwenTokenizer


class StreamingDetokenizer:
    """Turns tokens into text as they come; the pieces add up to what decoding all at once gives.

    A token may hold a part of a character only: bytes wait until their character is complete or can't
    become one any more.

    Args:
        tokenizer: Knows the tokens' bytes.
        skip_special_tokens: Leave special tokens out of the text.
    """

    def __init__(self, tokenizer: QwenTokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that is final with this token; "" for special tokens and ids beyond the tokenizer."""
        if token in self._skip or token not in self._tokenizer:
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """The end of the text: what is left of an incomplete character, as U+FFFD."""
        return self._decoder.decode(b"", final=True)
