"""Sampling parameters and random draws."""

import numpy as np
import pytest

from python_layer.model.sampling import SamplingParams, seed_of, uniform_draw
from python_layer.utils.errors import InvalidRequestError


def test_a_draw_depends_on_seed_and_number_only() -> None:
    forwards = [uniform_draw(9, i) for i in range(50)]
    assert [uniform_draw(9, i) for i in reversed(range(50))] == forwards[::-1]
    assert len(set(forwards)) == 50
    assert forwards != [uniform_draw(10, i) for i in range(50)]
    assert all(0 <= draw < 1 for draw in forwards)
    assert 0.3 < sum(forwards) / 50 < 0.7


def test_draws_are_those_of_numpys_philox() -> None:
    for seed in (0, 1, 2**63 + 12345, 2**64 - 1):
        for index in (0, 1, 77, 2**20):
            philox = np.random.Philox(key=seed, counter=index)
            assert uniform_draw(seed, index) == np.random.Generator(philox).random()


def test_seeds_of_several_answers_differ() -> None:
    assert [seed_of(SamplingParams(seed=2**64 - 1), i) for i in range(3)] == [2**64 - 1, 0, 1]
    assert len({seed_of(SamplingParams()) for _ in range(5)}) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": 2**64},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"presence_penalty": 2.5},
        {"frequency_penalty": float("nan")},
        {"logit_bias": {3: 101.0}},
    ],
)
def test_values_out_of_range_name_the_parameter(wrong: dict) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**wrong)
    assert caught.value.param == next(iter(wrong))
