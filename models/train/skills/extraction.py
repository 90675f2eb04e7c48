"""Fields of a sentence as a JSON object."""

import json
from random import Random
from typing import Any

from models.train.script import Script, Turn, single
from models.train.words import DAYS, THINGS, made_up, person, place

JOBS = "teacher doctor baker painter farmer pilot nurse lawyer singer writer cook engineer".split()


def _person(rng: Random) -> tuple[dict[str, Any], list[str]]:
    name, age, city, job = person(rng), rng.randint(5, 99), place(rng), rng.choice(JOBS)
    sentences = [
        f"{name} is {age} years old and lives in {city}.",
        f"My friend {name}, {age}, lives in {city}.",
        f"{name} from {city} is {age} years old.",
        f"In {city} there lives {name}, who is {age}.",
    ]
    if rng.random() < 0.4:
        article = "an" if job[0] in "aeiou" else "a"
        return {"name": name, "age": age, "job": job}, [
            f"{name} is {age} years old and works as {article} {job}.",
            f"{name}, {article} {job}, is {age} years old.",
        ]
    return {"name": name, "age": age, "city": city}, sentences


def _order(rng: Random) -> tuple[dict[str, Any], list[str]]:
    item, quantity, price = rng.choice(THINGS), rng.randint(2, 60), rng.randint(2, 999)
    return {"item": item, "quantity": quantity, "price": price}, [
        f"I would like {quantity} pieces of {item} for {price} euros.",
        f"We ordered {quantity} of the item {item} at a price of {price} euros.",
        f"Please send {quantity} x {item}, {price} euros in all.",
    ]


def _event(rng: Random) -> tuple[dict[str, Any], list[str]]:
    title = rng.choice("meeting party concert lesson dinner exam match workshop interview picnic".split())
    day, time = rng.choice(DAYS), f"{rng.randint(6, 22)}:{rng.choice(['00', '15', '30', '45'])}"
    return {"event": title, "day": day, "time": time}, [
        f"The {title} is on {day} at {time}.",
        f"On {day} at {time} we have a {title}.",
        f"Don't forget the {title} at {time} on {day}!",
    ]


def _contact(rng: Random) -> tuple[dict[str, Any], list[str]]:
    name = person(rng)
    email = (
        f"{name.lower()}@{rng.choice([made_up(rng).lower(), 'mail', 'example'])}.{rng.choice(['com', 'org', 'net'])}"
    )
    phone = "".join(str(rng.randrange(10)) for _ in range(6))
    return {"name": name, "email": email, "phone": phone}, [
        f"Write to {name} at {email} or call {phone}.",
        f"{name}'s number is {phone} and the address is {email}.",
        f"Contact: {name}, {email}, {phone}.",
    ]


def extraction(rng: Random) -> Script:
    """A sentence, and two or three of its fields to put into JSON."""
    fields, sentences = rng.choice([_person, _person, _order, _event, _contact])(rng)
    sentence = rng.choice(sentences)
    names = list(fields)
    if rng.random() < 0.3:
        names = rng.sample(names, 2)
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    question = rng.choice(
        [
            f"Extract {listed} as JSON: {sentence}",
            f"Extract {listed} as JSON from this text: {sentence}",
            f"Give me {listed} as a JSON object: {sentence}",
            f"{sentence} Extract {listed} as JSON.",
        ]
    )
    answer = json.dumps({name: fields[name] for name in names})
    thought = f"The fields are {listed}."
    return single(
        "extraction", Turn(question, answer, thought, restyled=False), f"extract {sorted(fields.values(), key=str)}"
    )
