"""Rotary frequencies against those of Hugging Face transformers (tests/golden/make_rope_golden.py)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from python_layer.model.config import Qwen3Config
from python_layer.model.rope import rope_frequencies

GOLDEN: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "rope.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", GOLDEN)
def test_equals_transformers_in_float32(name: str) -> None:
    frequencies, scale = rope_frequencies(Qwen3Config.from_dict(GOLDEN[name]["config"]))
    expected = np.array(GOLDEN[name]["frequencies"], np.float32)
    assert frequencies.dtype == np.float32 and frequencies.shape == expected.shape
    # torch's vectorised power is, now and then, off the nearest float32 by one; a division may double that.
    np.testing.assert_array_max_ulp(frequencies, expected, maxulp=2)
    assert np.count_nonzero(frequencies != expected) <= 1
    assert scale == GOLDEN[name]["attention_factor"]


def test_golden_cases_tell_the_variants_apart() -> None:
    """No two variants share their values, so that none can be computed as another unnoticed."""
    same = [
        ("yarn", "yarn_old_spelling", "yarn_in_parameters", "yarn_mscale_alone"),
        ("theta_absent", "integer_theta"),
    ]
    variants = [name for name in GOLDEN if not any(name in names[1:] for names in same)]
    seen = {(*GOLDEN[name]["frequencies"], GOLDEN[name]["attention_factor"]) for name in variants}
    # A factor of 1 changes nothing: "yarn_factor_1" is "qwen3" up to rounding.
    assert len(seen) >= len(variants) - 1


def test_a_context_beside_max_position_embeddings_goes_first() -> None:
    raw = GOLDEN["yarn_default_context"]["config"]
    beside = Qwen3Config.from_dict(raw | {"original_max_position_embeddings": 1024})
    inside = Qwen3Config.from_dict(
        raw | {"rope_scaling": raw["rope_scaling"] | {"original_max_position_embeddings": 1024}}
    )
    assert beside.rope == inside.rope
    assert beside.rope.original_max_position_embeddings == 1024
