"""Qwen3's chat template as transformers renders it."""

import json
from pathlib import Path

import pytest

from python_layer.tokenizer import ChatTemplate
from python_layer.utils.errors import TokenizerError
from tests.unit.qwen_files import DATA

GOLDEN = json.loads((DATA / "chat_golden.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("number", range(len(GOLDEN)))
def test_renders_as_transformers_does(number: int) -> None:
    assert ChatTemplate.from_pretrained(DATA).render(**GOLDEN[number]["arguments"]) == GOLDEN[number]["text"]


def template(folder: Path, source: object) -> ChatTemplate:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": source, "eos_token": "</s>"}))
    return ChatTemplate.from_pretrained(folder)


def test_a_file_of_its_own_goes_first(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert template(tmp_path, "from the configuration").render([]) == "from the file"


def test_named_templates_and_tokens(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes{{ eos_token }}"}]
    assert template(tmp_path, named).render([]) == "yes</s>"
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ eos_token }}", "eos_token": {"content": "<e>"}})
    )
    assert ChatTemplate.from_pretrained(tmp_path).render([]) == "<e>"


def test_further_arguments_reach_the_template(tmp_path: Path) -> None:
    assert template(tmp_path, "{{ language }} {{ enable_thinking }}").render([], language="de") == "de "


def test_json_is_not_escaped_for_html(tmp_path: Path) -> None:
    source = "{{ messages[0] | tojson }}"
    assert template(tmp_path, source).render([{"content": "<é> & 'x'"}]) == '{"content": "<é> & \'x\'"}'


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.upper() }}", "can't render"),
        ("{{ ''.__class__.__mro__ }}", "can't render"),
        ("{% for m in messages %}{{ messages.append(1) }}{% endfor %}x", "can't render"),
    ],
)
def test_what_a_template_refuses_is_an_error(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        template(tmp_path, source).render([{"content": None}])


def test_missing_and_broken_templates_are_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja"):
        ChatTemplate.from_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="line 2"):
        template(tmp_path, "a\n{% if %}")
