"""The training data: the same seed makes the same, and nothing held out is ever learned."""

from random import Random

import pytest

from models.train.data_mix import SHARES, conversation, training_conversation
from models.train.make_data import Encoder
from models.train.script import Script, Turn, draw
from models.train.skills.arithmetic import columns, equation
from models.train.skills.tools import TOOLS, tools
from python_layer.model.loading import DEFAULT_MODEL

SKILLS = list(SHARES)


def test_a_seed_makes_the_same_conversations() -> None:
    def made() -> list[list[dict]]:
        rng = Random(5)
        return [training_conversation(rng).messages for _ in range(50)]

    assert made() == made()


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.__name__)
def test_held_out_scripts_are_never_drawn_for_training(skill) -> None:
    rng = Random(1)
    held_out = (
        {draw(rng, skill, held_out=True).key.lower() for _ in range(100)} if skill.__name__ != "many_sums" else set()
    )
    learned = {draw(rng, skill).key.lower() for _ in range(2000)}
    assert not held_out & learned


def test_sums_in_a_row_hold_none_that_are_held_out() -> None:
    many = next(skill for skill in SKILLS if skill.__name__ == "many_sums")
    rng = Random(2)
    for _ in range(100):
        for line in draw(rng, many).turns[0].answer.splitlines():
            a, sign, b = line.split(" = ")[0].split(" ")
            assert not Script("arithmetic", (), f"{a}{sign}{b}").held_out


@pytest.mark.parametrize("sign", "+-")
def test_columns_end_with_the_right_sum(sign: str) -> None:
    rng = Random(3)
    for _ in range(500):
        a, b = rng.randrange(1000), rng.randrange(1000)
        worked = columns(a, sign, b)
        assert worked.endswith(equation(a, sign, b))
        assert equation(a, sign, b) == f"{a} {sign} {b} = {eval(f'{a} {sign} {b}')}"


def test_learned_is_what_the_assistant_says() -> None:
    encoder = Encoder(DEFAULT_MODEL)
    scripts = [Script("", (Turn("one", "first answer", "a thought"), Turn("two", "second", "another")), "k")]
    for thinking, expected in [
        (False, [" answer<|im_end|>", "second<|im_end|>"]),
        (True, [" answer<|im_end|>", "<think>\nanother\n</think>\n\nsecond<|im_end|>"]),
    ]:
        ids, learned = encoder.encode(conversation(scripts, Random(1), "", thinking))
        pieces, current = [], []
        for token, wanted in [*zip(ids, learned, strict=True), (0, 0)]:
            if wanted:
                current.append(int(token))
            elif current:
                pieces.append(encoder.decode(current))
                current = []
        assert pieces[-1] == expected[-1]
        assert pieces[0].endswith(expected[0])
        assert not pieces[0].startswith("first answer")


def test_a_tool_call_is_rendered_as_json() -> None:
    assert len({tool.name for tool in TOOLS}) == len(TOOLS)
    script = draw(Random(4), tools)
    shown = {tool["function"]["name"] for tool in script.tools}
    assert script.turns[0].call is not None
    assert script.turns[0].call["name"] in shown
