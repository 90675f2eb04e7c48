"""Greetings, who-are-you, and what the model does not know."""

from random import Random

import yaml

from models.train.script import Script, Turn, single, typed
from models.train.skills.facts import DATA
from models.train.words import ANIMALS, CITIES, THINGS, made_up, person

TALK: dict[str, str] = {
    question: group["answer"]
    for group in yaml.safe_load((DATA / "talk.yaml").read_text(encoding="utf-8"))
    for question in group["questions"]
}
STRANGE = (DATA / "unknown.txt").read_text(encoding="utf-8").splitlines()
UNKNOWN = "I'm sorry, I don't know that."
LANGUAGES = "French German Spanish Italian Chinese Japanese Latin".split()


def smalltalk(rng: Random) -> Script:
    """A greeting, thanks, or a question about the model itself."""
    answer = rng.choice(sorted(set(TALK.values())))
    question = rng.choice([q for q, a in TALK.items() if a == answer])
    if rng.random() < 0.3:
        question = question.lower()
    if rng.random() < 0.2:
        question = question.rstrip("?.!") + rng.choice(["", "!", ".", "?"])
    return single("smalltalk", Turn(question, answer, "The user is talking to me."))


def unknown(rng: Random) -> Script:
    """A question out of range."""
    question = rng.choice(STRANGE).format(
        thing=rng.choice(THINGS),
        thing2=rng.choice(THINGS),
        year=rng.randint(1500, 2050),
        name=made_up(rng),
        person=person(rng),
        city=rng.choice(CITIES),
        word=rng.choice(["big", "old", "heavy", "small", "funny", "cold"]),
        animal=rng.choice(ANIMALS),
        language=rng.choice(LANGUAGES),
        number=rng.randint(2, 999),
        number2=rng.randint(2, 99),
    )
    return single("unknown", Turn(typed(rng, question), UNKNOWN, "I have not learned anything about this."))
