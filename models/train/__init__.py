"""Trains models/mili-tiny: data, tokenizer, network, evaluation."""
