"""Renders conversations with transformers: ``python tests/data/qwen-tokenizer/make_chat_golden.py`` (golden extra)."""

import json
import lzma
import shutil
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).parent
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city — today's, or <tomorrow's> & later.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
USER = {"role": "user", "content": "What's the weather in Zürich?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}}}
    ],
}
REPLY = {"role": "tool", "content": '{"celsius": 21}'}
THOUGHT = {"role": "assistant", "content": "<think>\nAdd them.\n</think>\n\nFour."}
CASES = [
    {"messages": [USER]},
    {"messages": [USER], "enable_thinking": False},
    {"messages": [USER], "enable_thinking": True},
    {"messages": [USER], "add_generation_prompt": False},
    {"messages": [{"role": "system", "content": "Be brief. <b>&amp;</b>"}, USER]},
    {"messages": [{"role": "user", "content": "2 + 2?"}, THOUGHT, {"role": "user", "content": "And + 1?"}]},
    {"messages": [{"role": "user", "content": "2 + 2?"}, THOUGHT], "add_generation_prompt": False},
    {"messages": [USER], "tools": [WEATHER]},
    {"messages": [{"role": "system", "content": "You help."}, USER], "tools": [WEATHER, WEATHER]},
    {"messages": [USER, CALL, REPLY], "tools": [WEATHER]},
    {"messages": [USER, CALL, REPLY, REPLY, {"role": "assistant", "content": "21 °C."}, USER], "tools": [WEATHER]},
    {"messages": [USER, CALL | {"content": "One moment."}, REPLY], "tools": [WEATHER], "enable_thinking": False},
    {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "reasoning_content": "z"}]},
]


def main() -> None:
    """Writes chat_golden.json beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_bytes(lzma.decompress((HERE / "tokenizer.json.xz").read_bytes()))
        shutil.copy(HERE / "tokenizer_config.json", folder)
        (Path(folder) / "config.json").write_text('{"model_type": "qwen3"}')
        tokenizer = AutoTokenizer.from_pretrained(folder)
        golden = []
        for case in CASES:
            arguments = {"add_generation_prompt": True, **case}
            golden.append({"arguments": arguments, "text": tokenizer.apply_chat_template(**_call(arguments))})
    (HERE / "chat_golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


def _call(arguments: dict) -> dict:
    rest = {name: value for name, value in arguments.items() if name != "messages"}
    return {"conversation": arguments["messages"], "tokenize": False, **rest}


if __name__ == "__main__":
    main()
