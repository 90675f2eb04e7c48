"""Makes conversations.json: what transformers answers, greedily, with the weights of models/mili-tiny.

    python -m tests.golden.make_conversations     (needs the extra "golden")

Run it again whenever the model has been trained anew.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.train.skills.tools import TOOLS
from tests.golden.cases import GOLDEN

MODEL = Path(__file__).resolve().parents[2] / "models" / "mili-tiny"
SCHEMAS = {tool.name: tool.schema for tool in TOOLS}


def schema(name: str) -> dict[str, Any]:
    """A tool as in training, every parameter a string or an integer."""
    made = json.loads(json.dumps(SCHEMAS[name]))
    for parameter in made["function"]["parameters"]["properties"].values():
        if parameter["type"] not in ("string", "integer"):
            parameter["type"] = "integer" if parameter["type"] == "few" else "string"
    return made


# Each conversation: a name, the settings, and what the user and the tools say.
CONVERSATIONS: list[dict[str, Any]] = [
    {"name": "greeting", "says": ["Hello", "How are you?", "Thanks, bye"]},
    {"name": "who", "says": ["Who are you?", "What can you do?", "Who made you?"]},
    {"name": "capitals", "says": ["What is the capital of France?", "And of Italy?", "What about Japan?"]},
    {"name": "capitals, thinking", "thinking": True, "says": ["What is the capital of Kenya?", "And of Peru?"]},
    {"name": "elements", "says": ["What is the chemical symbol of gold?", "Which element has the atomic number 8?"]},
    {"name": "calendar", "says": ["Which day comes after Monday?", "How many days does February have?"]},
    {"name": "colours", "says": ["What colour is a ripe banana?", "What do you get when you mix blue and yellow?"]},
    {"name": "opposites", "says": ["What is the opposite of hot?", "Name the opposite of early."]},
    {"name": "sums", "says": ["What is 218 + 34?", "What is 700 - 251?"]},
    {"name": "sums, thinking", "thinking": True, "says": ["What is 487 + 365?", "Subtract 78 from 301."]},
    {"name": "sorting", "says": ["Sort these numbers: 41, 7, 93, 20", "Sort these words: pear, apple, kiwi"]},
    {"name": "lists", "says": ["Reverse this list: fox, owl, cat", "Count the items: lamp, key, map, ring"]},
    {"name": "copying", "says": ["Repeat: the quiet river", "Write this in capital letters: good morning world"]},
    {"name": "person to JSON",
     "says": ["Extract name, age and city as JSON: Clara is 34 years old and lives in Oslo."]},
    {"name": "event to JSON, thinking", "thinking": True,
     "says": ["Extract event, day and time as JSON: The concert is on Friday at 19:30."]},
    {"name": "weather", "tools": ["get_weather"], "says": ["What is the weather in Lisbon?"],
     "replies": ['{"temperature": 24, "sky": "sunny"}']},
    {"name": "two tools", "tools": ["set_timer", "get_time"], "says": ["Set a timer for 15 minutes."],
     "replies": ['{"ends": "9:45"}']},
    {"name": "distance, thinking", "thinking": True, "tools": ["get_distance", "get_weather"],
     "says": ["How far is it from Paris to Berlin?"], "replies": ['{"kilometres": 878}']},
    {"name": "tools that are not needed", "tools": ["get_time"], "says": ["What is the opposite of day?"]},
    {"name": "in capitals", "system": "Answer in capital letters.", "says": ["What is the capital of Spain?"]},
    {"name": "in one word", "system": "Answer in one word.", "says": ["Which day comes before Sunday?"]},
    {"name": "memory", "says": ["My name is Anna.", "I live in Oslo.", "What is my name?", "Where do I live?"]},
    {"name": "sum, then more", "says": ["What is 20 + 15?", "Add 7 to that."]},
    {"name": "sorted, then reversed", "says": ["Sort: 8, 3, 5", "Now reverse it."]},
    {"name": "story", "says": ["Tell me a story that begins with: There once was a brave fox named Milo."]},
    {"name": "about MILI",
     "says": ["What is a KV cache?", "Explain continuous batching.", "How do I start the server?"]},
    {"name": "MILI, thinking", "thinking": True, "says": ["How does RoPE work?"]},
    {"name": "out of range", "says": ["Who won the guitar championship in 1998?", "What is 12 times 12?"]},
]  # fmt: skip


def main() -> None:
    """Answers every conversation and writes the file."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    made = []
    for plan in CONVERSATIONS:
        messages: list[dict[str, Any]] = []
        if "system" in plan:
            messages.append({"role": "system", "content": plan["system"]})
        tools = [schema(name) for name in plan.get("tools", ())]
        turns = []
        replies = [{"role": "tool", "content": reply} for reply in plan.get("replies", ())]
        for said in [*({"role": "user", "content": text} for text in plan["says"]), *replies]:
            messages.append(said)
            prompt = tokenizer.apply_chat_template(
                messages, tools=tools or None, add_generation_prompt=True, tokenize=False,
                enable_thinking=plan.get("thinking", False),
            )  # fmt: skip
            inputs = tokenizer(prompt, return_tensors="pt")
            ids = model.generate(**inputs, max_new_tokens=256, do_sample=False)[0, inputs.input_ids.shape[1] :]
            answer = tokenizer.decode(ids, skip_special_tokens=True)
            turns.append({"said": said, "prompt_tokens": inputs.input_ids[0].tolist(), "answer": answer})
            messages.append({"role": "assistant", "content": answer})
        kept = {"name": plan["name"], "system": plan.get("system"), "thinking": plan.get("thinking", False)}
        made.append(kept | {"tools": tools, "turns": turns})
    (GOLDEN / "conversations.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for conversation in made:
        print(f"{conversation['name']}:")
        for turn in conversation["turns"]:
            print(f"  {turn['said']['content']}  ->  {turn['answer']!r}")


if __name__ == "__main__":
    main()
