"""What the engine counts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """Counts since the start, and the state now.

    Attributes:
        requests: Requests that have not ended.
        running: Sequences that hold pages.
        waiting: Sequences in the queue.
        steps: Steps of the model.
        prompt_tokens: Tokens computed that were known before (prompts, and answers after preemption).
        generated_tokens: Tokens generated.
        drafted_tokens: Tokens proposed by speculation.
        accepted_tokens: Those of them that the model would have chosen.
        preemptions: Times a sequence lost its pages.
        prefix_queries: Prompt tokens looked up in the prefix cache.
        prefix_hits: Prompt tokens found there.
        pages_free: Pages nobody uses.
        pages_cached: Pages of the prefix cache that no sequence holds.
        pages_held: Pages of sequences.
        model_seconds: Time inside the model, waiting for the device included.
        overhead_seconds: Time of the steps outside of it; with overlap, the device computes meanwhile.
    """

    requests: int
    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    preemptions: int
    prefix_queries: int
    prefix_hits: int
    pages_free: int
    pages_cached: int
    pages_held: int
    model_seconds: float
    overhead_seconds: float
