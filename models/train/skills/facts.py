"""Facts: capitals, chemical elements, days and months, colours, opposites."""

from pathlib import Path
from random import Random

from models.train.script import Script, Turn, single, typed
from models.train.words import DAYS, MONTHS

DATA = Path(__file__).resolve().parents[1] / "data"
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _table(name: str) -> list[list[str]]:
    return [line.split("\t") for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


CAPITALS = _table("capitals.tsv")
ELEMENTS = _table("elements.tsv")
COLOURS = _table("colours.tsv")
MIXTURES = _table("mixtures.tsv")
OPPOSITES = [pair for a, b in _table("opposites.tsv") for pair in ((a, b), (b, a))]


def _fact(rng: Random, questions: list[str], answer: str, short: str, subject: str) -> Script:
    thought = f"The question is about {subject}. The answer is {short}."
    return single("facts", Turn(typed(rng, rng.choice(questions)), answer, thought, short))


def capital(rng: Random) -> Script:
    """The capital of a country, or the country of a capital."""
    country, city = rng.choice(CAPITALS)
    if rng.random() < 0.2 and city not in country:
        questions = [
            f"Which country has the capital {city}?",
            f"{city} is the capital of which country?",
            f"What country is {city} the capital of?",
        ]
        return _fact(rng, questions, f"{city} is the capital of {country}.", country, city)
    questions = [
        f"What is the capital of {country}?",
        f"What's the capital of {country}?",
        f"Which city is the capital of {country}?",
        f"Name the capital of {country}.",
        f"Tell me the capital of {country}.",
        f"Do you know the capital of {country}?",
        f"The capital of {country}?",
        f"What is the capital city of {country}?",
    ]
    return _fact(rng, questions, f"The capital of {country} is {city}.", city, country)


def element(rng: Random) -> Script:
    """Symbol, number or name of a chemical element."""
    number, symbol, name = rng.choice(ELEMENTS)
    kind = rng.randrange(4)
    if kind == 0:
        questions = [
            f"What is the chemical symbol of {name}?",
            f"What is the symbol for {name}?",
            f"Which symbol does {name} have?",
            f"What's the symbol of the element {name}?",
            f"Give me the chemical symbol of {name}.",
        ]
        return _fact(rng, questions, f"The chemical symbol of {name} is {symbol}.", symbol, name)
    if kind == 1:
        questions = [
            f"What is the atomic number of {name}?",
            f"Which atomic number does {name} have?",
            f"Tell me the atomic number of {name}.",
            f"What number is {name} in the periodic table?",
        ]
        return _fact(rng, questions, f"The atomic number of {name} is {number}.", number, name)
    if kind == 2:
        questions = [
            f"Which element has the symbol {symbol}?",
            f"What element is {symbol}?",
            f"Which chemical element is {symbol}?",
            f"What does the chemical symbol {symbol} stand for?",
        ]
        return _fact(rng, questions, f"{symbol} is the symbol of {name}.", name, symbol)
    questions = [
        f"Which element has the atomic number {number}?",
        f"Which element is number {number} in the periodic table?",
        f"What is element number {number}?",
    ]
    return _fact(rng, questions, f"Element number {number} is {name}.", name, f"element {number}")


def calendar(rng: Random) -> Script:
    """What comes before and after a day or month, and how long months are."""
    names, noun = rng.choice([(DAYS, "day"), (MONTHS, "month")])
    index = rng.randrange(len(names))
    name = names[index]
    kind = rng.randrange(4)
    if kind < 2:
        step, word = ((1, "after"), (-1, "before"))[kind]
        other = names[(index + step) % len(names)]
        questions = [
            f"Which {noun} comes {word} {name}?",
            f"What {noun} comes {word} {name}?",
            f"What {noun} is {word} {name}?",
            f"Which {noun} is right {word} {name}?",
            f"Name the {noun} {word} {name}.",
            f"What comes {word} {name}?",
        ]
        return _fact(rng, questions, f"{other} comes {word} {name}.", other, name)
    if kind == 2:
        whole = "year" if noun == "month" else "week"
        questions = [
            f"What is the {ORDINALS[index]} {noun} of the {whole}?",
            f"Which {noun} is the {ORDINALS[index]} of the {whole}?",
            f"Which is {noun} number {index + 1}?",
            f"What is the {ORDINALS[index]} {noun}?",
        ]
        return _fact(
            rng, questions, f"The {ORDINALS[index]} {noun} of the {whole} is {name}.", name, f"{noun} {index + 1}"
        )
    index = rng.randrange(12)
    name, days = MONTHS[index], str(MONTH_DAYS[index])
    questions = [
        f"How many days does {name} have?",
        f"How many days are in {name}?",
        f"How long is {name}?",
        f"What is the number of days in {name}?",
    ]
    return _fact(rng, questions, f"{name} has {days} days.", days, name)


def colour(rng: Random) -> Script:
    """The colour of a thing, or of a mixture."""
    if rng.random() < 0.25:
        a, b, mixed = rng.choice(MIXTURES)
        a, b = rng.sample([a, b], 2)
        questions = [
            f"What do you get when you mix {a} and {b}?",
            f"Which colour do {a} and {b} make?",
            f"What colour is a mix of {a} and {b}?",
            f"What is {a} mixed with {b}?",
        ]
        return _fact(rng, questions, f"Mixing {a} and {b} makes {mixed}.", mixed, f"{a} and {b}")
    thing, tint = rng.choice(COLOURS)
    questions = [
        f"What colour is {thing}?",
        f"What color is {thing}?",
        f"Which colour does {thing} have?",
        f"Tell me the colour of {thing}.",
        f"Name the colour of {thing}.",
    ]
    return _fact(rng, questions, f"{thing[0].upper()}{thing[1:]} is {tint}.", tint, thing)


def opposite(rng: Random) -> Script:
    """The opposite of a word."""
    word, other = rng.choice(OPPOSITES)
    questions = [
        f"What is the opposite of {word}?",
        f"What's the opposite of {word}?",
        f"Which word is the opposite of {word}?",
        f"Name the opposite of {word}.",
        f"Tell me the opposite of {word}.",
        f"Give me the opposite of {word}.",
        f"The opposite of {word}?",
    ]
    return _fact(rng, questions, f"The opposite of {word} is {other}.", other, word)


def facts(rng: Random) -> Script:
    """A fact of any kind, the larger tables more often."""
    return rng.choices([capital, element, calendar, colour, opposite], [4, 8, 3, 1, 3])[0](rng)
