"""Text to token ids and back: tokenizer, streaming detokenizer and chat template."""
