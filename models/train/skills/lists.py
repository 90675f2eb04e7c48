"""Short lists: sorting, reversing, counting, picking; and copying text and changing its case."""

from random import Random

from models.train.script import Script, Turn, single, typed
from models.train.words import WORDS, phrase

COUNTS = "zero one two three four five six seven eight".split()


def random_numbers(rng: Random) -> list[int]:
    """A few different numbers below 10, 100 or 1,000."""
    top = rng.choice([10, 100, 100, 1000])
    return rng.sample(range(top), rng.randint(3, 5))


def random_words(rng: Random) -> list[str]:
    """Words that begin with different letters."""
    chosen: dict[str, str] = {}
    for word in rng.sample(WORDS, 12):
        chosen.setdefault(word[0], word)
    return list(chosen.values())[: rng.randint(3, 5)]


def join(items: list[int] | list[str]) -> str:
    """The items as they stand in a question or an answer."""
    return ", ".join(map(str, items))


def _made(
    rng: Random, verb: str, questions: list[str], items: list[int] | list[str], answer: str, thought: str
) -> Script:
    question = typed(rng, rng.choice(questions).format(join(items)))
    return single("lists", Turn(question, answer, thought, restyled=False), f"{verb} {join(items)}")


def sort_numbers(rng: Random) -> Script:
    """Numbers in rising or falling order."""
    items, falling = random_numbers(rng), rng.random() < 0.4
    order = sorted(items, reverse=falling)
    if falling:
        questions = [
            "Sort these numbers from largest to smallest: {}",
            "Sort in descending order: {}",
            "Put these numbers in descending order: {}",
        ]
    else:
        questions = [
            "Sort these numbers: {}",
            "Sort these numbers from smallest to largest: {}",
            "Put these numbers in order: {}",
            "Sort in ascending order: {}",
            "Sort: {}",
        ]
    thought = f"The {'largest' if falling else 'smallest'} is {order[0]}, the last is {order[-1]}."
    return _made(rng, f"sort{falling}", questions, items, join(order), thought)


def sort_words(rng: Random) -> Script:
    """Words in the order of the alphabet."""
    items = random_words(rng)
    questions = [
        "Sort these words alphabetically: {}",
        "Put these words in alphabetical order: {}",
        "Sort these words: {}",
        "Alphabetical order, please: {}",
    ]
    order = sorted(items)
    return _made(rng, "sort", questions, items, join(order), f"In the alphabet {order[0]} comes first.")


def reverse(rng: Random) -> Script:
    """A list from its end."""
    items = random_numbers(rng) if rng.random() < 0.5 else random_words(rng)
    questions = [
        "Reverse this list: {}",
        "Reverse: {}",
        "Write this list backwards: {}",
        "Put this list in reverse order: {}",
    ]
    return _made(rng, "reverse", questions, items, join(items[::-1]), f"The last one is {items[-1]}, it goes first.")


def count(rng: Random) -> Script:
    """How many things a list has."""
    items = random_numbers(rng) if rng.random() < 0.3 else random_words(rng)
    questions = [
        "How many items are in this list: {}",
        "Count the items: {}",
        "How many things are there: {}",
        "How long is this list: {}",
    ]
    numbered = " ".join(f"{i} {item}" for i, item in enumerate(items, 1))
    return _made(rng, "count", questions, items, f"The list has {COUNTS[len(items)]} items.", f"I count: {numbered}.")


def pick(rng: Random) -> Script:
    """The largest, smallest, first or last of a list."""
    which = rng.choice(["largest", "smallest", "first", "last"])
    if which in ("largest", "smallest"):
        numbers = random_numbers(rng)
        chosen = max(numbers) if which == "largest" else min(numbers)
        questions = [f"What is the {which} of these numbers: {{}}", f"Which number is the {which}: {{}}"]
        return _made(rng, which, questions, numbers, f"The {which} number is {chosen}.", f"I look for the {which} one.")
    words = random_words(rng)
    item = words[0] if which == "first" else words[-1]
    questions = [f"What is the {which} item of this list: {{}}", f"Which item is {which}: {{}}"]
    return _made(rng, which, questions, words, f"The {which} item is {item}.", f"I look for the {which} one.")


def copy(rng: Random) -> Script:
    """Text said again, as it is or in another case."""
    text = phrase(rng)
    kind = rng.choice(["copy", "upper", "lower"])
    if kind == "copy":
        if rng.random() < 0.5:
            text = text.capitalize() + rng.choice([".", "!", ""])
        questions = ["Repeat: {}", "Repeat after me: {}", "Say this again: {}", "Copy this text: {}", 'Say "{}"']
        answer, thought = text, "I say it again, word for word."
    elif kind == "upper":
        questions = [
            "Write this in capital letters: {}",
            "Write in upper case: {}",
            "Convert to uppercase: {}",
            "Put this in capitals: {}",
        ]
        answer, thought = text.upper(), "I write each word in capital letters."
    else:
        text = text.upper()
        questions = [
            "Write this in lower case: {}",
            "Write in small letters: {}",
            "Convert to lowercase: {}",
            "Put this in lower case: {}",
        ]
        answer, thought = text.lower(), "I write each word in small letters."
    turn = Turn(rng.choice(questions).format(text), answer, thought, restyled=False)
    return single("lists", turn, f"{kind} {text}")


def lists(rng: Random) -> Script:
    """A task on a list or on a text."""
    skill = rng.choices([sort_numbers, sort_words, reverse, count, pick, copy], [5, 3, 3, 2, 2, 6])[0]
    return skill(rng)
