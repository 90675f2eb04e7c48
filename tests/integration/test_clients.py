"""Other clients than OpenAI's: LangChain, and the README's curl lines."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from langchain_openai import ChatOpenAI

README = Path(__file__).resolve().parents[2] / "README.md"
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def chat(url: str) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="mili-tiny", temperature=0, max_retries=0)


def test_langchain_asks(chat: ChatOpenAI) -> None:
    answer = chat.invoke([("system", "Answer in capital letters."), ("user", "What is the capital of Spain?")])
    assert answer.content == "THE CAPITAL OF SPAIN IS MADRID."
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] == "stop"


def test_langchain_streams(chat: ChatOpenAI) -> None:
    question = "What is the capital of France?"
    pieces = [chunk.content for chunk in chat.stream(question)]
    assert len([piece for piece in pieces if piece]) > 2
    assert "".join(pieces) == chat.invoke(question).content == "The capital of France is Paris."


def test_langchain_asks_several_at_once(chat: ChatOpenAI) -> None:
    answers = chat.batch(["What is the opposite of hot?", "Which day comes after Monday?"])
    assert [a.content for a in answers] == ["The opposite of hot is cold.", "Tuesday comes after Monday."]


def curl_lines() -> list[str]:
    """The README's commands, each with its continuation lines."""
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl ")]


@pytest.mark.parametrize("line", curl_lines())
def test_the_curl_lines_of_the_readme_work(url: str, line: str) -> None:
    assert shutil.which("curl"), "this test needs curl"
    command = line.replace(ADDRESS, url).replace("curl ", "curl --silent --show-error --fail-with-body ", 1)
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    if result.stdout.startswith("data: "):
        assert result.stdout.strip().endswith("data: [DONE]")
    else:
        assert "error" not in json.loads(result.stdout)


def test_the_readme_has_curl_lines() -> None:
    assert len(curl_lines()) >= 3
