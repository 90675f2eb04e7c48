"""Calling a function from the prompt's tools, and answering from its reply."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from models.train.script import Script, Turn
from models.train.words import DAYS, THINGS, made_up, person, phrase, place


@dataclass(frozen=True)
class Tool:
    """A function and the ways people ask for it.

    Attributes:
        name: The function's name.
        description: What it does.
        parameters: Name and JSON type of each parameter; every parameter is required.
        questions: Sentences with the parameters in braces.
        replies: Names and kinds of the fields it sends back.
        answer: A sentence with parameters and reply fields in braces.
    """

    name: str
    description: str
    parameters: dict[str, str]
    questions: tuple[str, ...]
    replies: dict[str, str]
    answer: str

    @property
    def schema(self) -> dict[str, Any]:
        """As in OpenAI's ``tools``."""
        properties = {name: {"type": kind} for name, kind in self.parameters.items()}
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": {"type": "object", "properties": properties, "required": list(self.parameters)},
        }
        return {"type": "function", "function": function}


S, N = "string", "integer"
TOOLS = (
    Tool("get_weather", "The weather in a city.", {"city": S},
         ("What is the weather in {city}?", "How is the weather in {city} today?", "Is it warm in {city}?"),
         {"temperature": "degrees", "sky": "sky"}, "It is {temperature} degrees and {sky} in {city}."),
    Tool("get_time", "The local time of a city.", {"city": S},
         ("What time is it in {city}?", "Tell me the time in {city}.", "How late is it in {city}?"),
         {"time": "clock"}, "It is {time} in {city}."),
    Tool("set_timer", "Starts a timer.", {"minutes": N},
         ("Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes.", "Wake me in {minutes} minutes."),
         {"ends": "clock"}, "The timer is set for {minutes} minutes and ends at {ends}."),
    Tool("send_message", "Sends a text to a person.", {"to": "person", "text": "text"},
         ('Send "{text}" to {to}.', 'Tell {to}: "{text}"', 'Write "{text}" to {to}.'),
         {"status": "sent"}, "Your message to {to} was {status}."),
    Tool("convert_currency", "Converts an amount of money.", {"amount": N, "source": "money", "target": "money"},
         ("How much is {amount} {source} in {target}?", "Convert {amount} {source} to {target}.",
          "Change {amount} {source} into {target}."),
         {"result": "number"}, "{amount} {source} are {result} {target}."),
    Tool("find_book", "Finds the book with a title.", {"title": "text"},
         ('Who wrote the book "{title}"?', 'Find the book "{title}".', 'Which author wrote "{title}"?'),
         {"author": "person", "year": "year"}, "{author} wrote it in {year}."),
    Tool("get_stock", "How many pieces of an item are in stock.", {"item": "thing"},
         ("How many pieces of {item} are in stock?", "Check the stock of {item}.", "Do we have {item} in stock?"),
         {"pieces": "number"}, "There are {pieces} pieces of {item} in stock."),
    Tool("book_table", "Books a table at a restaurant.", {"people": "few", "day": "day"},
         ("Book a table for {people} on {day}.", "Reserve a table on {day} for {people} people.",
          "I need a table for {people} people on {day}."),
         {"time": "clock"}, "Your table for {people} on {day} is booked at {time}."),
    Tool("get_distance", "The distance between two cities.", {"start": S, "end": S},
         ("How far is it from {start} to {end}?", "What is the distance from {start} to {end}?",
          "How many kilometres are between {start} and {end}?"),
         {"kilometres": "number"}, "It is {kilometres} kilometres from {start} to {end}."),
    Tool("play_song", "Plays a song.", {"title": "text", "artist": "person"},
         ('Play "{title}" by {artist}.', 'I want to hear "{title}" by {artist}.', 'Put on "{title}" by {artist}.'),
         {"minutes": "few"}, "I am playing it. It lasts {minutes} minutes."),
    Tool("get_user", "Looks up a user.", {"user_id": N},
         ("Who is user {user_id}?", "Look up user {user_id}.", "Show me the user with the id {user_id}."),
         {"name": "person", "city": S}, "User {user_id} is {name} from {city}."),
    Tool("turn_light", "Turns the light in a room on or off.", {"room": "room", "state": "state"},
         ("Turn the light in the {room} {state}.", "Switch {state} the light in the {room}.",
          "Light {state} in the {room}, please."),
         {"status": "done"}, "The light in the {room} is {state}."),
)  # fmt: skip


def _value(rng: Random, kind: str) -> Any:
    values = {
        S: lambda: place(rng),
        N: lambda: rng.randint(1, 999),
        "person": lambda: person(rng),
        "text": lambda: phrase(rng, 2, 4),
        "thing": lambda: made_up(rng).lower() if rng.random() < 0.2 else rng.choice(THINGS),
        "money": lambda: rng.choice("euros dollars pounds yen francs crowns".split()),
        "few": lambda: rng.randint(2, 12),
        "day": lambda: rng.choice(DAYS),
        "room": lambda: rng.choice("kitchen bedroom bathroom office hall garage".split()),
        "state": lambda: rng.choice(["on", "off"]),
        "degrees": lambda: rng.randint(-9, 39),
        "sky": lambda: rng.choice("sunny cloudy rainy windy foggy snowy".split()),
        "clock": lambda: f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}",
        "number": lambda: rng.randint(2, 999),
        "year": lambda: rng.randint(1850, 2020),
        "sent": lambda: rng.choice(["sent", "delivered", "read"]),
        "done": lambda: "done",
    }
    return values[kind]()


JSON_TYPES = {N: N, "few": N}


def schemas(rng: Random, needed: Tool | None = None) -> tuple[dict[str, Any], ...]:
    """One to four tools in any order, the needed one among them."""
    others = [tool for tool in TOOLS if tool is not needed]
    chosen = rng.sample(others, rng.choice([0, 0, 1, 1, 2, 3]) if needed else rng.choice([1, 1, 2]))
    chosen += [needed] if needed else []
    rng.shuffle(chosen)
    shown = []
    for tool in chosen:
        kinds = {name: JSON_TYPES.get(kind, S) for name, kind in tool.parameters.items()}
        shown.append(Tool(tool.name, tool.description, kinds, (), {}, "").schema)
    return tuple(shown)


def tools(rng: Random) -> Script:
    """A question that one of the tools answers."""
    tool = rng.choice(TOOLS)
    values = {name: _value(rng, kind) for name, kind in tool.parameters.items()}
    reply = {name: _value(rng, kind) for name, kind in tool.replies.items()}
    question = rng.choice(tool.questions).format(**values)
    turn = Turn(
        question,
        tool.answer.format(**values, **reply),
        f"I need {tool.name}.",
        restyled=False,
        call={"name": tool.name, "arguments": values},
        reply=json.dumps(reply),
    )
    return Script("tools", (turn,), f"{tool.name} {sorted(values.items())}", schemas(rng, tool))
