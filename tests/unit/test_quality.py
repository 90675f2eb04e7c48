"""The quality report's figures, against their definitions one number at a time."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from python_layer.utils.cpu import multiplies, supported_isas
from tests.performance.quality import Comparison

ROOT = Path(__file__).resolve().parents[2]


def test_the_figures_are_those_defined() -> None:
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((9, 30), np.float32) * 3
    other = exact + rng.standard_normal((9, 30), np.float32)
    targets = rng.integers(0, 30, 9)
    comparison = Comparison()
    for part in (slice(0, 4), slice(4, 9)):
        comparison.add(exact[part], other[part], targets[part])
    squared = reference = divergence = agreed = 0.0
    losses = [0.0, 0.0]
    for row in range(9):
        p, q = ([math.exp(x) for x in logits[row].tolist()] for logits in (exact, other))
        p, q = ([x / sum(all_) for x in all_] for all_ in (p, q))
        divergence += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        squared += sum((a - b) ** 2 for a, b in zip(exact[row].tolist(), other[row].tolist(), strict=True))
        reference += sum(a**2 for a in exact[row].tolist())
        agreed += p.index(max(p)) == q.index(max(q))
        losses[0] -= math.log(p[targets[row]])
        losses[1] -= math.log(q[targets[row]])
    assert comparison.figures() == pytest.approx(
        {
            "tokens": 9,
            "relative_logit_error": math.sqrt(squared / reference),
            "top1_agreement": agreed / 9,
            "kl_divergence": divergence / 9,
            "reference_perplexity": math.exp(losses[0] / 9),
            "candidate_perplexity": math.exp(losses[1] / 9),
        },
        rel=1e-6,
    )
    assert 0 < agreed < 9


def quality(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.performance.quality", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_rounding_products_to_bfloat16_changes_little() -> None:
    """Two real models on held-out answers, which the reference knows well."""
    report = quality("--reference", "compute_dtype=float32", "--count", "1", "--json")
    figures = json.loads(report.stdout)
    assert figures["reference"] == {"compute_dtype": "float32"} and figures["candidate"] == {}
    assert figures["tokens"] > 100
    assert figures["relative_logit_error"] < 0.02 and figures["kl_divergence"] < 0.001
    assert (figures["relative_logit_error"] > 0) == (multiplies(supported_isas()[0]) != "float32")
    assert figures["top1_agreement"] > 0.98
    assert 1 < figures["reference_perplexity"] < 1.5
    assert figures["candidate_perplexity"] == pytest.approx(figures["reference_perplexity"], rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--candidate", "float32"], "error: 'float32' is no setting; write name=value, such as dtype=float32"),
        (["--candidate", "dtpe=float32"], "known keys are"),
        (["--text", "/none"], "No such file"),
    ],
)
def test_a_wrong_setting_is_named(arguments: list[str], expected: str) -> None:
    report = quality(*arguments)
    assert report.returncode == 1 and expected in report.stderr and "Traceback" not in report.stderr
