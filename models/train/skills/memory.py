"""Several turns in which a later one refers back."""

from random import Random

from models.train.script import Script, Turn
from models.train.skills.arithmetic import columns, equation, number
from models.train.skills.facts import CAPITALS, OPPOSITES
from models.train.skills.lists import join, random_numbers, random_words
from models.train.skills.talk import smalltalk
from models.train.words import COLOURS, FOODS, person, place

TELLING = {
    "name": (("My name is {}.", "I am {}.", "Call me {}.", "I'm {}."), "Nice to meet you, {}!",
             ("What is my name?", "What's my name?", "Do you remember my name?", "Who am I?"), "Your name is {}."),
    "city": (("I live in {}.", "My home is in {}."), "{} sounds like a nice place.",
             ("Where do I live?", "Which city do I live in?"), "You live in {}."),
    "colour": (("My favourite colour is {}.", "I like the colour {} best."), "{} is a nice colour.",
               ("What is my favourite colour?", "Which colour do I like?"), "Your favourite colour is {}."),
    "food": (("My favourite food is {}.", "I love {}."), "{} is tasty.",
             ("What is my favourite food?", "What do I like to eat?"), "Your favourite food is {}."),
    "age": (("I am {} years old.", "My age is {}."), "{} is a good age.",
            ("How old am I?", "What is my age?"), "You are {} years old."),
    "pet": (("My dog is called {}.", "I have a dog named {}."), "{} is a good name for a dog.",
            ("What is my dog called?", "What is the name of my dog?"), "Your dog is called {}."),
}  # fmt: skip


def _capital_first(text: str) -> str:
    return text[0].upper() + text[1:]


def _told(rng: Random) -> list[Turn]:
    """Something about the user, told first and asked later."""
    values = {
        "name": person(rng),
        "city": place(rng),
        "colour": rng.choice(COLOURS),
        "food": rng.choice(FOODS),
        "age": str(rng.randint(4, 99)),
        "pet": person(rng),
    }
    kinds = rng.sample(list(TELLING), rng.choice([1, 1, 2]))
    said, asked = [], []
    for kind in kinds:
        tell, reply, ask, answer = TELLING[kind]
        value = values[kind]
        said.append(
            Turn(rng.choice(tell).format(value), _capital_first(reply.format(value)), "The user tells me something.")
        )
        asked.append(Turn(rng.choice(ask), answer.format(value), f"The user said it before: {value}.", value))
    rng.shuffle(asked)
    between = [smalltalk(rng).turns[0]] if rng.random() < 0.4 else []
    return said + between + asked[: rng.choice([1, len(asked)])]


def _sums(rng: Random) -> list[Turn]:
    """A sum, then another that starts from its result."""
    a, b, sign = number(rng) // 2, number(rng) // 2, rng.choice("+-")
    result = a + b if sign == "+" else a - b
    turns = [Turn(f"What is {a} {sign} {b}?", equation(a, sign, b), columns(a, sign, b), str(result))]
    if result < 0:
        a, b, sign, result = b, a, "-", b - a
        turns = [Turn(f"What is {a} - {b}?", equation(a, "-", b), columns(a, "-", b), str(result))]
    c, sign = rng.randint(1, 99), rng.choice("+-")
    ask = [f"Add {c} to that.", f"Now add {c}.", f"And plus {c}?"]
    if sign == "-":
        ask = [f"Subtract {c} from that.", f"Now subtract {c}.", f"And minus {c}?"]
    final = result + c if sign == "+" else result - c
    return [*turns, Turn(rng.choice(ask), equation(result, sign, c), columns(result, sign, c), str(final))]


def _lists(rng: Random) -> list[Turn]:
    """A list that is sorted, then turned round or asked about."""
    items = random_numbers(rng) if rng.random() < 0.6 else random_words(rng)
    order = sorted(items)  # type: ignore[type-var]
    first = Turn(f"Sort: {join(items)}", join(order), restyled=False)
    asks = [
        Turn(
            rng.choice(["Now reverse it.", "And backwards?"]), join(order[::-1]), "I reverse my list.", restyled=False
        ),
        Turn("Which one is first?", f"The first item is {order[0]}.", "I look at my list."),
        Turn("Which one is last?", f"The last item is {order[-1]}.", "I look at my list."),
    ]
    return [first, rng.choice(asks)]


def _and(rng: Random) -> list[Turn]:
    """A fact, then the same about something else."""
    if rng.random() < 0.6:
        (a, x), (b, y) = rng.sample(CAPITALS, 2)
        form, question = "The capital of {} is {}.", "What is the capital of {}?"
    else:
        (a, x), (b, y) = rng.sample(OPPOSITES, 2)
        form, question = "The opposite of {} is {}.", "What is the opposite of {}?"
    again = rng.choice(["And of {}?", "And {}?", "What about {}?"]).format(b)
    turns = [
        Turn(question.format(a), form.format(a, x), f"The question is about {a}. The answer is {x}.", x),
        Turn(again, form.format(b, y), f"The question is about {b}. The answer is {y}.", y),
    ]
    if rng.random() < 0.4:
        last = form.format(b, y)
        turns.append(
            rng.choice(
                [
                    Turn("Say that again.", last, "I repeat my last answer."),
                    Turn("In capital letters, please.", last.upper(), "I write my last answer in capital letters."),
                    Turn("What did I ask first?", f"You asked: {question.format(a)}", "I look at the first question."),
                ]
            )
        )
    return turns


def memory(rng: Random) -> Script:
    """Turns of one of these kinds."""
    turns = tuple(rng.choices([_told, _sums, _lists, _and], [5, 2, 2, 3])[0](rng))
    return Script("memory", turns, " | ".join(turn.user for turn in turns))
