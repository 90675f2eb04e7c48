"""Short made-up stories from an opening line."""

from random import Random

from models.train.script import Script, Turn, single
from models.train.words import ANIMALS, COLOURS, person

PLACES = "forest garden village harbour mountain meadow castle river island desert".split()
TREASURES = "key lamp map violin crown feather candle mirror drum book ring kite".split()
MOODS = "brave curious quiet clever lonely cheerful sleepy hungry".split()


def stories(rng: Random) -> Script:
    """An opening line, and what happened then."""
    name, friend = rng.sample([person(rng), person(rng), person(rng)], 2)
    animal, other = rng.sample(ANIMALS, 2)
    mood, where, thing, tint = rng.choice(MOODS), rng.choice(PLACES), rng.choice(TREASURES), rng.choice(COLOURS)
    article = "an" if mood[0] in "aeiou" else "a"
    opening = rng.choice(
        [
            f"Once upon a time there was {article} {mood} {animal} named {name}.",
            f"{name} was {article} {mood} {animal} who lived near the {where}.",
            f"Long ago {article} {mood} {animal} called {name} lived by the {where}.",
            f"There once was {article} {mood} {animal} named {name}.",
        ]
    )
    ask = rng.choice(
        [
            f"Tell me a story that begins with: {opening}",
            f"Continue this story: {opening}",
            f"Write a short story that starts like this: {opening}",
            f"Go on: {opening}",
        ]
    )
    answer = " ".join(
        [
            opening,
            rng.choice(
                [
                    f"One morning {name} found a {tint} {thing} in the {where}.",
                    f"One day {name} walked through the {where} and saw a {tint} {thing}.",
                ]
            ),
            rng.choice(
                [
                    f'"Whose {thing} is this?" asked {name}.',
                    f"It was shining in the sun, and {name} picked it up.",
                ]
            ),
            rng.choice(
                [
                    f"Just then a small {other} named {friend} came by, crying.",
                    f"Behind a tree sat a {other} named {friend}, who looked very sad.",
                ]
            ),
            rng.choice(
                [
                    f'"I lost my {thing}," said {friend}, and {name} gave it back at once.',
                    f"{friend} had been looking for the {thing} all night, and {name} gave it back.",
                ]
            ),
            rng.choice(
                [
                    f"From that day on {name} and {friend} were the best of friends.",
                    "They laughed, went home together and shared a big dinner.",
                ]
            ),
        ]
    )
    return single("stories", Turn(ask, answer, f"I make up a story about {name}.", restyled=False))
