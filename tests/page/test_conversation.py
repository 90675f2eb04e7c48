"""Conversations on the page, with the real server and the model that comes along."""

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.page.scripted_server import ScriptedServer, delta, text
from tests.page.steps import ask, begin, ended, last, set_up

LONG = "Tell me a story that begins with: There once was a curious fox named Nora."
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def titles(page: Page) -> list[str]:
    return page.locator("#conversations .open").all_inner_texts()


def requests_running(url: str) -> int:
    with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
        return json.load(response)["queue"]["running"]


def test_a_question_is_answered_with_its_times(page: Page) -> None:
    expect(page.locator("#model-name")).to_have_text("mili-tiny")
    answer = ask(page, "What is the capital of France?")
    expect(answer.locator(".markdown")).to_have_text("The capital of France is Paris.")
    expect(answer.locator(".stats")).to_have_text(re.compile(r"^\d+ tokens · .*first token after [\d.]+ m?s$"))
    answer = ask(page, "What is the opposite of hot?")
    expect(answer.locator(".markdown")).to_have_text("The opposite of hot is cold.")
    expect(page.locator(".question")).to_have_count(2)
    expect(page).to_have_title("What is the capital of France? · MILI")


@pytest.mark.parametrize("index", range(6))
def test_the_model_knows_the_examples(page: Page, index: int) -> None:
    example = page.locator("#examples button").nth(index)
    question = example.inner_text()
    example.click()
    expect(page.locator(".question-text")).to_have_text(question)
    answer = ended(page)
    expect(answer.locator(".markdown")).not_to_be_empty()
    expect(answer).to_have_attribute("data-state", "done")
    assert "I don't know" not in answer.inner_text()
    expect(page.locator("#welcome")).to_be_hidden()


def test_stop_keeps_what_there_is_and_frees_the_request(page: Page, url: str) -> None:
    # An answer that ends by itself would leave nothing to stop.
    page.route(
        "**/v1/chat/completions",
        lambda route: route.continue_(post_data={**route.request.post_data_json, "ignore_eos": True}),
    )
    set_up(page, max_tokens="1900", temperature="2")
    begin(page, LONG)
    expect(last(page).locator(".markdown")).not_to_be_empty()
    assert requests_running(url) == 1
    page.keyboard.press("Escape")
    answer = ended(page)
    expect(answer).to_have_attribute("data-state", "stopped")
    expect(answer.locator(".stats")).to_contain_text("Stopped")
    deadline = time.monotonic() + 5
    while requests_running(url):
        assert time.monotonic() < deadline


def test_the_button_stops_too(scripted_page: Page, scripted: ScriptedServer) -> None:
    scripted.answers = [[delta(content="Half an "), 60.0, *text("answer.")]]
    begin(scripted_page, "Hello")
    expect(last(scripted_page).locator(".markdown")).to_have_text("Half an")
    scripted_page.get_by_role("button", name="Stop", exact=True).click()
    expect(ended(scripted_page)).to_have_attribute("data-state", "stopped")
    expect(scripted_page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def test_thoughts_are_folded_away(page: Page) -> None:
    set_up(page, thinking="on")
    answer = ask(page, "What is 218 + 34?")
    expect(answer.locator("summary")).to_have_text(re.compile(r"^Thought for [\d.]+ m?s$"))
    expect(answer.locator(".thoughts")).to_be_hidden()
    expect(answer.locator(".markdown")).to_have_text("218 + 34 = 252")
    answer.locator("summary").click()
    expect(answer.locator(".thoughts")).to_contain_text("carry 1")


def test_a_tool_is_called_and_its_result_goes_back(page: Page) -> None:
    set_up(page, tools=json.dumps(TOOLS))
    call = ask(page, "What is the weather in Lisbon?").locator(".tool-call")
    expect(call.locator("strong")).to_have_text("get_weather")
    expect(call.locator("pre").first).to_have_text('{\n  "city": "Lisbon"\n}')
    expect(page.get_by_label("Paste the tool")).to_be_focused()
    page.keyboard.type('{"temperature": 21, "sky": "sunny"}')
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_have_count(2)
    expect(ended(page).locator(".markdown")).to_have_text("It is 21 degrees and sunny in Lisbon.")
    expect(page.locator(".tool-result")).to_contain_text('"sky": "sunny"')
    page.reload()
    expect(page.locator(".tool-result")).to_contain_text('"sky": "sunny"')


def test_a_system_prompt_and_sampling_reach_the_server(page: Page) -> None:
    set_up(page, system="Answer in capital letters.", max_tokens="3")
    answer = ask(page, "What is the capital of Spain?")
    expect(answer.locator(".stats")).to_contain_text("3 tokens")
    expect(answer.locator(".stats")).to_contain_text("Cut off at the most tokens")
    text = answer.locator(".markdown").inner_text()
    assert text == text.upper() != ""


def test_regenerate_and_edit(page: Page) -> None:
    ask(page, "What is the capital of France?")
    page.get_by_role("button", name="Regenerate").click()
    expect(ended(page).locator(".markdown")).to_have_text("The capital of France is Paris.")
    expect(page.locator(".answer")).to_have_count(1)
    ask(page, "What is the opposite of hot?")
    page.locator(".question").last.hover()
    page.locator(".last-question .edit").click()
    box = page.locator(".edit-form textarea")
    expect(box).to_be_focused()
    box.fill("Which day comes after Monday?")
    page.keyboard.press("Enter")
    expect(ended(page).locator(".markdown")).to_have_text("Tuesday comes after Monday.")
    expect(page.locator(".question-text")).to_have_text(
        ["What is the capital of France?", "Which day comes after Monday?"]
    )


def test_copy_gives_the_answers_markdown(open_page: Callable[..., Page], url: str) -> None:
    page = open_page(url, permissions=["clipboard-read", "clipboard-write"])
    answer = ask(page, "What is the capital of France?")
    answer.get_by_role("button", name="Copy the answer").click()
    expect(answer.get_by_role("button", name="Copy the answer")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "The capital of France is Paris."


def test_conversations_outlive_a_reload(page: Page) -> None:
    ask(page, "What is the capital of France?")
    page.keyboard.press("Control+k")
    expect(page.locator("#welcome")).to_be_visible()
    ask(page, "What is the opposite of hot?")
    page.reload()
    expect(last(page).locator(".markdown")).to_have_text("The opposite of hot is cold.")
    assert titles(page) == ["What is the opposite of hot?", "What is the capital of France?"]
    page.get_by_role("button", name="What is the capital of France?", exact=True).click()
    expect(last(page).locator(".markdown")).to_have_text("The capital of France is Paris.")


def test_rename_search_delete_and_undo(page: Page) -> None:
    ask(page, "What is the capital of France?")
    page.locator("#new").click()
    ask(page, "What is the opposite of hot?")
    page.locator("#conversations li").last.hover()
    page.get_by_role("button", name="Rename What is the capital of France?").click()
    page.get_by_label("New title").fill("Paris <b>")
    page.keyboard.press("Enter")
    assert titles(page) == ["What is the opposite of hot?", "Paris <b>"]
    page.get_by_label("Search conversations by title").fill("PARIS")
    assert titles(page) == ["Paris <b>"]
    page.locator("#conversations li").hover()
    page.get_by_role("button", name="Delete Paris <b>").click()
    expect(page.locator("#no-conversations")).to_have_text("No title has that in it.")
    page.get_by_role("button", name="Undo").click()
    assert titles(page) == ["Paris <b>"]
    expect(last(page).locator(".markdown")).to_have_text("The capital of France is Paris.")


def test_an_answer_goes_on_while_another_conversation_is_open(page: Page) -> None:
    begin(page, LONG)
    page.keyboard.press("Control+k")
    expect(page.locator("#stop")).to_be_hidden()
    expect(ask(page, "What is the opposite of hot?")).to_contain_text("cold")
    page.get_by_role("button", name=re.compile("^Tell me a story")).first.click()
    expect(ended(page)).to_contain_text("dinner")


def test_export_and_import(open_page: Callable[..., Page], url: str, tmp_path: Path) -> None:
    page = open_page(url)
    ask(page, "What is the capital of France?")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "conversations.json"
    download.value.save_as(file)
    assert json.loads(file.read_text())["conversations"][0]["title"] == "What is the capital of France?"

    other = open_page(url)
    other.locator("#import-file").set_input_files(file)
    expect(other.locator(".notice")).to_contain_text("1 conversation was imported")
    other.locator("#conversations .open").click()
    expect(last(other).locator(".markdown")).to_have_text("The capital of France is Paris.")
    other.locator("#import-file").set_input_files(Path(__file__))
    expect(other.locator(".notice")).to_contain_text("no JSON")
    assert titles(other) == ["What is the capital of France?"]
