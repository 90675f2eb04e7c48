"""Text to token ids and back: tokenizer, streaming detokenizer and chat template."""

from python_layer.tokenizer.chat_template import ChatTemplate
from python_layer.tokenizer.detokenizer import StreamingDetokenizer
from python_layer.tokenizer.qwen_tokenizer import QwenTokenizer

__all__ = ["ChatTemplate", "QwenTokenizer", "StreamingDetokenizer"]
