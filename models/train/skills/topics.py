"""Questions about MILI and inference engines, from data/topics.yaml."""

from random import Random

import yaml

from models.train.script import Script, Turn, single, typed
from models.train.skills.facts import DATA

FORMS = (
    "What is {}?", "Explain {}.", "What's {}?", "Tell me about {}.", "How does {} work?", "Can you explain {}?",
    "What do you know about {}?", "What does {} mean?", "Describe {}.", "Explain {} to me.", "Define {}.",
)  # fmt: skip
TOPICS = yaml.safe_load((DATA / "topics.yaml").read_text(encoding="utf-8"))


def topics(rng: Random) -> Script:
    """A question about one topic."""
    topic = rng.choice(TOPICS)
    questions = list(topic["questions"])
    if topic["names"] and rng.random() < 0.8:
        questions = [rng.choice(FORMS).format(rng.choice(topic["names"]))]
    subject = topic["names"][0] if topic["names"] else "using MILI"
    question = typed(rng, rng.choice(questions))
    return single("topics", Turn(question, topic["answer"], f"The question is about {subject}.", restyled=False))
