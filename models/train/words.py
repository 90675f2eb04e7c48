"""Names and words that the skills fill their sentences with."""

from random import Random

NAMES = (
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Karen Leo Maria Noah Olivia Paul Quinn Rosa Sam Tina "
    "Uma Victor Wendy Xavier Yara Zoe Adam Bella Carlos Diana Erik Fiona George Hannah Ivan Julia Kevin Laura Martin "
    "Nina Oscar Petra Robert Sofia Thomas Ursula Vera Walter Alice Bob Eve Lucy Max Mia Tom Sara Peter Helen"
).split()
CITIES = (
    "Paris London Berlin Rome Madrid Tokyo Oslo Vienna Lisbon Dublin Athens Cairo Delhi Lima Boston Chicago Sydney "
    "Toronto Munich Milan Geneva Kyoto Osaka Denver Seattle Prague Warsaw Zurich Helsinki Hamburg"
).split()
ANIMALS = (
    "fox bear owl cat dog rabbit mouse turtle duck horse goat frog lion tiger otter badger hedgehog squirrel".split()
)
FRUITS = "apple banana cherry grape lemon mango orange peach pear plum melon kiwi fig lime".split()
THINGS = (
    "book chair door engine flower garden hammer island jacket kettle ladder mirror needle ocean pencil quilt river "
    "spoon table umbrella violin window yarn zebra basket candle drum envelope forest guitar house ink jar key lamp "
    "map nest oven piano queen rope ship train vase wheel box bridge cloud desk feather glove hat iron"
).split()
COLOURS = "red blue green yellow orange purple pink black white brown grey".split()
FOODS = "pizza pasta soup rice bread cheese salad curry sushi pancakes chocolate soup apples tea coffee".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
WORDS = sorted({*ANIMALS, *FRUITS, *THINGS, *COLOURS})
PLAIN = (
    "the a my your is was small old new big green good we you they see like find has have very here now today "
    "morning evening hello world and with in on under near happy quiet bright cold warm"
).split()


def made_up(rng: Random) -> str:
    """A name nobody has, so that it must be copied rather than known."""
    syllables = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3))]
    return ("".join(syllables) + rng.choice(["", "", "n", "r", "s", "l"])).capitalize()


def person(rng: Random) -> str:
    """A first name, now and then a made-up one."""
    return made_up(rng) if rng.random() < 0.3 else rng.choice(NAMES)


def place(rng: Random) -> str:
    """A town, now and then a made-up one."""
    return made_up(rng) if rng.random() < 0.3 else rng.choice(CITIES)


def phrase(rng: Random, shortest: int = 2, longest: int = 6) -> str:
    """Words in a row, which need not make sense."""
    words = [rng.choice(WORDS if rng.random() < 0.6 else PLAIN) for _ in range(rng.randint(shortest, longest))]
    if rng.random() < 0.2:
        words[rng.randrange(len(words))] = made_up(rng)
    if rng.random() < 0.15:
        words.append(str(rng.randint(0, 999)))
    return " ".join(words)
