"""The golden cases that make_golden.py wrote."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"


@dataclass(frozen=True)
class GoldenPrompt:
    """A prompt, its greedy continuation and the logits [steps, vocab] each token was chosen from."""

    prompt: list[int]
    greedy: list[int]
    logits: np.ndarray


def golden_folders(root: Path = GOLDEN) -> list[Path]:
    """Checkpoint folders with golden values."""
    return sorted(file.parent for file in root.glob("*/golden.npz"))


def golden_prompts(folder: Path) -> Iterator[GoldenPrompt]:
    """The prompts of a case, shortest first."""
    with np.load(folder / "golden.npz") as data:
        for length in sorted(int(name.removeprefix("prompt")) for name in data if name.startswith("prompt")):
            yield GoldenPrompt(
                data[f"prompt{length}"].tolist(), data[f"greedy{length}"].tolist(), data[f"logits{length}"]
            )
