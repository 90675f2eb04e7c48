"""What the page does when the server says no, says it late, or says nothing."""

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.page.scripted_server import CUT, Refusal, ScriptedServer, delta, end, text
from tests.page.steps import ask, begin, ended, last, set_up


def test_the_servers_own_message_is_shown_with_a_retry(page: Page) -> None:
    set_up(page, max_tokens="1000000")
    answer = ask(page, "What is the capital of France?")
    expect(answer.get_by_role("alert")).to_contain_text("exceed the model's context of 2048 tokens")
    set_up(page, max_tokens="")
    answer.get_by_role("button", name="Retry").click()
    expect(ended(page).locator(".markdown")).to_have_text("The capital of France is Paris.")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_an_error_in_the_midst_keeps_what_came_before(scripted_page: Page, scripted: ScriptedServer) -> None:
    error = {"error": {"message": "the engine has failed", "type": "server_error", "code": "internal_error"}}
    scripted.answers = [[delta(content="Half an "), 0.05, error], text("A whole answer.")]
    answer = ask(scripted_page, "Hello")
    expect(answer.locator(".markdown")).to_have_text("Half an")
    expect(answer.get_by_role("alert")).to_contain_text("the engine has failed")
    scripted_page.reload()
    expect(last(scripted_page).get_by_role("alert")).to_contain_text("the engine has failed")
    scripted_page.get_by_role("button", name="Retry").click()
    expect(ended(scripted_page).locator(".markdown")).to_have_text("A whole answer.")
    assert scripted.bodies[1]["messages"] == [{"role": "user", "content": "Hello"}]


def test_a_connection_that_is_cut(scripted_page: Page, scripted: ScriptedServer) -> None:
    scripted.answers = [[delta(content="Half an "), 0.05, CUT]]
    answer = ask(scripted_page, "Hello")
    expect(answer.get_by_role("alert")).to_contain_text("The connection to the server was lost")
    expect(answer.locator(".markdown")).to_have_text("Half an")


def test_a_stream_that_ends_without_its_end(scripted_page: Page, scripted: ScriptedServer) -> None:
    scripted_page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body='data: {"choices": []}\n\n'),
    )
    expect(ask(scripted_page, "Hello").get_by_role("alert")).to_contain_text("was lost")


def test_a_server_that_is_gone(scripted_page: Page) -> None:
    scripted_page.context.set_offline(True)
    answer = ask(scripted_page, "Hello")
    expect(answer.get_by_role("alert")).to_contain_text("The server can't be reached")
    expect(scripted_page.locator("#model-name")).to_have_text("No connection")
    scripted_page.context.set_offline(False)
    expect(scripted_page.locator("#model-name")).to_have_text("example")


def test_an_answer_that_is_no_json(scripted_page: Page) -> None:
    scripted_page.route("**/v1/chat/completions", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    expect(ask(scripted_page, "Hello").get_by_role("alert")).to_contain_text("The server answered with status 502.")


def test_a_model_that_loads_is_waited_for(scripted_page: Page, scripted: ScriptedServer) -> None:
    loading = Refusal(503, "the model is loading, 25 % of the weights so far", "model_not_loaded")
    scripted.answers = [loading, loading, text("Here I am.")]
    begin(scripted_page, "Hello")
    expect(last(scripted_page).locator(".waiting")).to_contain_text("The model is loading, 25 %")
    expect(ended(scripted_page).locator(".markdown")).to_have_text("Here I am.")
    assert len(scripted.bodies) == 3


def test_the_top_tells_the_servers_state(open_page: Callable[..., Page], scripted: ScriptedServer) -> None:
    scripted.models = Refusal(503, "the model is loading, 25 % of the weights so far", "model_not_loaded")
    page = open_page(scripted.url, ready="loading")
    expect(page.locator("#model-name")).to_have_text("Loading, 25 %")
    scripted.models = None
    expect(page.locator("#model-name")).to_have_text("example")


def test_a_key_that_is_missing_is_asked_for(open_page: Callable[..., Page], scripted: ScriptedServer) -> None:
    scripted.models = Refusal(401, "the API key is missing.", "invalid_api_key")
    scripted.answers = [scripted.models]
    page = open_page(scripted.url)
    expect(page.locator("#model-name")).to_have_text("API key needed")
    expect(ask(page, "Hello").get_by_role("alert")).to_contain_text("Give the API key in the settings.")
    scripted.models = None
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("API key").fill("secret")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#model-name")).to_have_text("example")


def test_a_call_that_was_passed_over_asks_for_nothing(scripted_page: Page, scripted: ScriptedServer) -> None:
    call = {"index": 0, "id": "a", "function": {"name": "one", "arguments": "{}"}}
    scripted.answers = [[delta(tool_calls=[call]), end(5, "tool_calls")], text("Never mind.")]
    ask(scripted_page, "Hello")
    expect(scripted_page.get_by_label("Paste the tool")).to_be_visible()
    ask(scripted_page, "Leave it")
    expect(scripted_page.locator(".tool-call")).to_be_visible()
    expect(scripted_page.get_by_label("Paste the tool")).to_be_hidden()
    expect(scripted_page.get_by_role("button", name="Send the result")).to_be_hidden()


def test_waiting_for_a_model_can_be_stopped(scripted_page: Page, scripted: ScriptedServer) -> None:
    scripted.answers = [Refusal(503, "the model is loading", "model_not_loaded")]
    begin(scripted_page, "Hello")
    expect(last(scripted_page).locator(".waiting")).to_contain_text("loading")
    scripted_page.keyboard.press("Escape")
    expect(ended(scripted_page)).to_have_attribute("data-state", "stopped")
    assert len(scripted.bodies) == 1


def test_stopping_leaves_the_stream(scripted_page: Page, scripted: ScriptedServer) -> None:
    scripted.answers = [[delta(content="On and on"), 60.0]]
    begin(scripted_page, "Hello")
    expect(last(scripted_page).locator(".markdown")).to_have_text("On and on")
    scripted_page.keyboard.press("Escape")
    expect(ended(scripted_page)).to_have_attribute("data-state", "stopped")
    for _ in range(100):
        if scripted.left:
            break
        scripted_page.wait_for_timeout(50)
    assert scripted.left == 1


def test_thinking_shows_while_it_lasts(scripted_page: Page, scripted: ScriptedServer) -> None:
    thoughts = [delta(reasoning_content="Let me see."), 1.2, delta(reasoning_content=" Yes.")]
    scripted.answers = [[*thoughts, delta(content="It is."), end(3)]]
    begin(scripted_page, "Hello")
    expect(last(scripted_page).locator("summary")).to_have_text("Thinking …")
    answer = ended(scripted_page)
    expect(answer.locator("summary")).to_have_text(re.compile(r"^Thought for 1\.\d s$|^Thought for \d+(\.\d)? s$"))
    expect(answer.locator(".thoughts")).to_have_text("Let me see. Yes.")
    expect(answer.locator(".markdown")).to_have_text("It is.")


def test_several_tool_calls_each_get_their_result(scripted_page: Page, scripted: ScriptedServer) -> None:
    def call(index: int, **fields: object) -> dict:
        return delta(tool_calls=[{"index": index, **fields}])

    scripted.answers = [
        [
            delta(content="I ask both."),
            call(0, id="a", type="function", function={"name": "one", "arguments": ""}),
            call(0, function={"arguments": '{"x"'}),
            call(0, function={"arguments": ": 1}"}),
            call(1, id="b", type="function", function={"name": "two", "arguments": "not json"}),
            end(9, "tool_calls"),
        ],
        text("Done."),
    ]
    answer = ask(scripted_page, "Hello")
    expect(answer.locator(".tool-call strong")).to_have_text(["one", "two"])
    expect(answer.locator(".tool-call > pre:first-of-type")).to_have_text(['{\n  "x": 1\n}', "not json"])
    boxes = answer.locator("textarea")
    boxes.nth(0).fill("first")
    boxes.nth(1).fill("second")
    answer.get_by_role("button", name="Send the results").click()
    expect(ended(scripted_page).locator(".markdown")).to_have_text("Done.")
    assert scripted.bodies[1]["messages"][1:] == [
        {
            "role": "assistant",
            "content": "I ask both.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "one", "arguments": '{"x": 1}'}},
                {"id": "b", "type": "function", "function": {"name": "two", "arguments": "not json"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "first"},
        {"role": "tool", "tool_call_id": "b", "content": "second"},
    ]


def test_what_is_sent(scripted_page: Page, scripted: ScriptedServer) -> None:
    scripted.answers = [text("a"), text("b")]
    ask(scripted_page, "Hello")
    assert scripted.bodies[0] == {
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert scripted.keys == [None]
    scripted_page.get_by_role("button", name="Settings").click()
    scripted_page.get_by_label("API key").fill("secret")
    scripted_page.get_by_role("button", name="Save").click()
    set_up(scripted_page, system="Be brief.", temperature="0.5", top_p=".9", top_k="40", max_tokens="7", seed="-3")
    set_up(scripted_page, thinking="off")
    ask(scripted_page, "Again")
    sent = scripted.bodies[1]
    assert [message["role"] for message in sent.pop("messages")] == ["system", "user", "assistant", "user"]
    assert sent == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "max_tokens": 7,
        "seed": -3,
        "chat_template_kwargs": {"enable_thinking": False},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert scripted.keys[1] == "Bearer secret"


def test_the_key_stays_in_the_window_unless_it_is_to_be_remembered(scripted_page: Page) -> None:
    def kept() -> list:
        return scripted_page.evaluate("['sessionStorage', 'localStorage'].map((s) => window[s]['mili.api-key'] ?? '')")

    scripted_page.get_by_role("button", name="Settings").click()
    scripted_page.get_by_label("API key").fill("secret")
    scripted_page.get_by_role("button", name="Save").click()
    assert kept() == ["secret", ""]
    scripted_page.get_by_role("button", name="Settings").click()
    scripted_page.get_by_label("Remember it").check()
    scripted_page.get_by_role("button", name="Save").click()
    assert kept() == ["", "secret"]


def test_wrong_settings_are_refused_where_they_stand(scripted_page: Page) -> None:
    scripted_page.get_by_role("button", name="Settings").click()
    wrong = {
        "temperature": ("5", "from 0"),
        "top_p": ("0", "above 0"),
        "top_k": ("1.5", "whole number"),
        "max_tokens": ("none", "whole number from 1"),
        "tools": ('{"type": "function"}', "Must be a list"),
    }
    for name, (value, _) in wrong.items():
        scripted_page.locator(f"#set-{name}").fill(value)
    scripted_page.get_by_role("button", name="Save").click()
    for name, (_, message) in wrong.items():
        expect(scripted_page.locator(f"#problem-{name}")).to_contain_text(message)
    expect(scripted_page.locator("#settings")).to_be_visible()
    expect(scripted_page.locator("#set-temperature")).to_be_focused()
    scripted_page.get_by_role("button", name="Reset").click()
    scripted_page.get_by_role("button", name="Insert an example").click()
    scripted_page.get_by_role("button", name="Save").click()
    expect(scripted_page.locator("#settings")).to_be_hidden()


def test_a_full_browser_is_told(scripted_page: Page, scripted: ScriptedServer) -> None:
    scripted.answers = [text("Hello to you.")]
    scripted_page.evaluate("localStorage['mili.conversation.x'] = 'x'.repeat(3_999_900)")
    answer = ask(scripted_page, "Hello")
    expect(answer.locator(".markdown")).to_have_text("Hello to you.")
    expect(scripted_page.locator(".notice")).to_contain_text("is full")


def test_the_end_is_followed_until_the_reader_scrolls_up(
    open_page: Callable[..., Page], scripted: ScriptedServer
) -> None:
    page = open_page(scripted.url)
    thread = page.locator("#thread")
    lines = [delta(content=f"Line {i}.\n\n") for i in range(40)]
    scripted.answers = [[*lines, 1.5, delta(content="More.\n\n" * 20), 0.5, end(60)]]
    begin(page, "Hello")
    expect(thread.get_by_text("Line 39.")).to_be_in_viewport()
    page.mouse.move(600, 400)
    page.mouse.wheel(0, -400)
    expect(page.locator("#to-end")).to_be_visible()
    expect(thread.get_by_text("Line 39.")).not_to_be_in_viewport()
    ended(page)
    expect(thread.get_by_text("More.").last).not_to_be_in_viewport()
    page.locator("#to-end").click()
    expect(thread.get_by_text("More.").last).to_be_in_viewport()
    expect(page.locator("#to-end")).to_be_hidden()
