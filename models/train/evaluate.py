"""Accuracy per skill on held-out prompts, greedy, with and without thinking.

Run as ``python -m models.train.evaluate``; with ``--engine transformers`` the same prompts go through Hugging Face
transformers, with ``--json`` the numbers are written to a file.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

from models.train.data_mix import Conversation, conversation, styled
from models.train.script import Script, Skill, draw
from models.train.skills.arithmetic import one_sum
from models.train.skills.extraction import extraction
from models.train.skills.facts import facts
from models.train.skills.lists import copy, lists
from models.train.skills.memory import memory
from models.train.skills.stories import stories
from models.train.skills.talk import smalltalk, unknown
from models.train.skills.tools import tools
from models.train.skills.topics import topics
from models.train.train_tokenizer import MODEL_DIR
from python_layer.tokenizer.chat_template import ChatTemplate

SKILLS: dict[str, Skill] = {
    "facts": facts,
    "arithmetic": one_sum,
    "lists": lists,
    "copying": copy,
    "JSON": extraction,
    "tools": tools,
    "refer back": memory,
    "MILI": topics,
    "greetings": smalltalk,
    "unknown": unknown,
    "stories": stories,
}
MOST_TOKENS = 256
Complete = Callable[[list[str]], list[str]]
"""Prompts to answers, each with its thoughts and without the token that ends it."""


@dataclass(frozen=True)
class Case:
    """One question of the evaluation.

    Attributes:
        skill: Where it is counted.
        prompt: What the model continues.
        expected: The right answer.
    """

    skill: str
    prompt: str
    expected: str

    def passes(self, answer: str) -> bool:
        """Whether an answer is right: the same text or JSON; a story need only begin as told and end well."""
        answer = answer.split("</think>")[-1].strip()
        if self.skill == "stories":
            opening = self.expected.split(". ")[0]
            return answer.startswith(opening) and len(answer) > 2 * len(opening) and answer[-1] in '."'
        if "{" not in self.expected:
            return answer == self.expected
        try:
            return bool(_json(answer) == _json(self.expected))
        except ValueError:
            return False


def _json(text: str) -> object:
    """The object in a text, and what is around it."""
    begin, end = text.index("{"), text.rindex("}") + 1
    return text[:begin], json.loads(text[begin:end]), text[end:]


def _last(template: ChatTemplate, skill: str, whole: Conversation, end: int) -> Case:
    """The case that asks for one of a conversation's messages."""
    prompt = template.render(whole.messages[:end], tools=whole.tools, enable_thinking=whole.thinking)
    answered = template.render(whole.messages[: end + 1], tools=whole.tools, add_generation_prompt=False)
    expected = answered[len(prompt) :].split("</think>")[-1].removesuffix("<|im_end|>\n").strip()
    return Case(skill, prompt, expected)


def cases(template: ChatTemplate, count: int, seed: int) -> list[Case]:
    """``count`` cases of each skill, none of them ever seen in training."""
    made: list[Case] = []
    for name, skill in SKILLS.items():
        rng = Random(f"{name} {seed}")
        scripts = [draw(rng, skill, held_out=True) for _ in range(count)]
        for thinking in (False, True):
            mode = f"{name}, thinking" if thinking and name == "arithmetic" else name
            for script in scripts[: count if name == "arithmetic" else count // 2]:
                whole = conversation([script], rng, "", thinking)
                ends = [i for i, m in enumerate(whole.messages) if m["role"] == "assistant"]
                made += [_last(template, mode, whole, end) for end in (ends if script.tools else ends[-1:])]
            scripts.reverse()
    rng = Random(f"system {seed}")
    for _ in range(count):
        style = rng.choice(["capitals", "word"])
        script: Script = draw(rng, facts, held_out=True)
        if styled(script.turns[0], style):
            whole = conversation([script], rng, style)
            made.append(_last(template, "system message", whole, len(whole.messages) - 1))
    return made


def with_mili(folder: Path) -> Complete:
    """Answers from our own engine."""
    from python_layer.inference.build import build_engine
    from python_layer.inference.fronts import generate_batch
    from python_layer.inference.params import GenerationParams
    from python_layer.model.qwen3_model import Qwen3Model
    from python_layer.utils.settings import load_settings

    def complete(prompts: list[str]) -> list[str]:
        model = Qwen3Model.from_pretrained(folder)
        assert model.tokenizer is not None
        engine = build_engine(model, load_settings({"max_waiting": len(prompts)}))
        try:
            ids = [model.tokenizer.encode(prompt, allow_special=True) for prompt in prompts]
            outputs = generate_batch(engine, ids, GenerationParams(max_tokens=MOST_TOKENS))
            return [answers[0].text for answers in outputs]
        finally:
            engine.shutdown()

    return complete


def with_transformers(folder: Path) -> Complete:
    """Answers from Hugging Face transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def complete(prompts: list[str]) -> list[str]:
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        answers = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for begin in range(0, len(order), 64):
            chosen = order[begin : begin + 64]
            inputs = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True)
            made = model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)[:, inputs.input_ids.shape[1] :]
            for i, ids in zip(chosen, made, strict=True):
                answers[i] = tokenizer.decode(ids, skip_special_tokens=True)
        return answers

    return complete


def main() -> None:
    """Evaluates and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=MODEL_DIR)
    parser.add_argument("--engine", choices=["mili", "transformers"], default="mili")
    parser.add_argument("--count", type=int, default=400, help="cases per skill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print per skill")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    todo = cases(ChatTemplate.from_pretrained(args.model_dir), args.count, args.seed)
    complete = (with_mili if args.engine == "mili" else with_transformers)(args.model_dir)
    answers = complete([case.prompt for case in todo])
    right: dict[str, list[bool]] = defaultdict(list)
    console = Console()
    for case, answer in zip(todo, answers, strict=True):
        right[case.skill].append(case.passes(answer))
        if right[case.skill].count(False) <= args.show and not right[case.skill][-1]:
            console.print(f"{case.skill}: {case.prompt[-200:]!r}\n  {answer!r}\n  {case.expected!r}", markup=False)
    table = Table("skill", "cases", "right", title=f"{args.model_dir.name}, held-out prompts, {args.engine}")
    for skill, results in right.items():
        table.add_row(skill, str(len(results)), f"{100 * sum(results) / len(results):.1f} %")
    console.print(table)
    if args.json:
        rates = {skill: sum(results) / len(results) for skill, results in right.items()}
        args.json.write_text(json.dumps(rates, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
