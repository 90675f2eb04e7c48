"""MILI's own routes on the running server, and what lies beyond OpenAI's client: raw bodies, clients that leave."""

import json
import time
import urllib.error
import urllib.request

import openai
import pytest

from tests.integration.test_metrics import post

MESSAGES = [{"role": "user", "content": "Hello"}]


def health(url: str) -> dict:
    with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
        return json.load(response)


def test_text_that_is_no_unicode_is_refused(url: str) -> None:
    request = urllib.request.Request(
        f"{url}/v1/completions", rb'{"prompt": "\ud800"}', {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 400
    assert "surrogate" in json.load(caught.value)["error"]["message"]


def test_a_reader_that_leaves_frees_its_pages(url: str, model: str) -> None:
    body = {"model": model, "prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.readline().startswith(b"data:")
    deadline = time.monotonic() + 5
    while health(url)["engine"]["requests"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stats = health(url)["engine"]
    assert stats["pages_held"] == 0


def test_prompt_logprobs_are_those_of_generating_the_same_text(url: str, client: openai.OpenAI, model: str) -> None:
    written = client.completions.create(model=model, prompt="Hello", max_tokens=8, logprobs=0).choices[0]
    prompt = post(url, "/tokenize", {"text": "Hello"})["tokens"]
    ids = post(url, "/tokenize", {"text": "Hello" + written.text})["tokens"]
    body = {"model": model, "prompt": ids, "max_tokens": 1, "prompt_logprobs": 2}
    scored = post(url, "/v1/completions", body)["choices"][0]["prompt_logprobs"]
    assert scored[0] is None
    assert len(scored) == len(ids)
    if len(ids) == len(prompt) + 8:  # the text is spelled as it was generated
        values = [entry[str(token)]["logprob"] for token, entry in zip(ids, scored, strict=True) if entry]
        assert values[len(prompt) - 1 :] == written.logprobs.token_logprobs


def test_generate_and_its_stream_agree(url: str) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 9, "temperature": 0.0, "top_p": 1.0, "top_k": 0}
    whole = post(url, "/generate", body)
    assert set(whole) == {"request_id", "generated_text", "tokens", "total_tokens", "finish_reason", "latency_ms"}
    assert post(url, "/detokenize", {"tokens": whole["tokens"]})["text"].startswith(whole["generated_text"])
    request = urllib.request.Request(
        f"{url}/generate", json.dumps(body | {"stream": True}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        data = [line[6:].strip() for line in response if line.startswith(b"data: ")]
    *pieces, summary, done = data
    assert done == b"[DONE]"
    assert "".join(json.loads(piece)["text"] for piece in pieces) == whole["generated_text"]
    assert json.loads(summary)["tokens"] == whole["tokens"]


def test_tokens_and_templates_there_and_back(url: str) -> None:
    text = "Hello <|im_end|> w\u00f6rld"
    counted = post(url, "/tokenize", {"text": text})
    assert counted["count"] == len(counted["tokens"])
    assert post(url, "/detokenize", {"tokens": counted["tokens"]}) == {"text": text}
    plain = post(url, "/tokenize", {"text": text, "allow_special": False})
    assert plain["count"] > counted["count"]
    prompt = post(url, "/apply-template", {"messages": MESSAGES})["prompt"]
    assert prompt.startswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    thinking = {"messages": MESSAGES, "chat_template_kwargs": {"enable_thinking": True}}
    assert "<think>" not in post(url, "/apply-template", thinking)["prompt"]


def test_request_ids_come_back(url: str, client: openai.OpenAI, model: str) -> None:
    raw = client.with_options(default_headers={"X-Request-ID": "my-id-1"}).chat.completions.with_raw_response
    answer = raw.create(model=model, messages=MESSAGES, max_tokens=1)
    assert answer.headers["X-Request-ID"] == "my-id-1"
    assert answer.parse().id == "chatcmpl-my-id-1"
    request = urllib.request.Request(f"{url}/v1/completions", b"{}", {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert json.load(caught.value)["error"]["request_id"] == caught.value.headers["X-Request-ID"]


def test_a_client_that_leaves_a_whole_answer_frees_its_pages(url: str, client: openai.OpenAI, model: str) -> None:
    impatient = client.with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        impatient.completions.create(
            model=model, prompt="x", max_tokens=2000, n=8, seed=1, temperature=1, extra_body={"ignore_eos": True}
        )
    deadline = time.monotonic() + 5
    while health(url)["engine"]["requests"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_states(url: str) -> None:
    report = health(url)
    assert report["status"] == "healthy"
    assert report["tokenizer"] is True
    assert report["memory"]["available_bytes"] > 0
    for route in ("/ready", "/version", "/openapi.json", "/docs", "/v1/models/mili-tiny"):
        with urllib.request.urlopen(url + route, timeout=5) as response:
            assert response.status == 200


def test_the_examples_of_the_docs_work(url: str) -> None:
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=5) as response:
        described = json.load(response)
    tried = 0
    for route, operations in described["paths"].items():
        if "post" in operations:
            content = operations["post"]["requestBody"]["content"]["application/json"]
            name = content["schema"]["$ref"].rsplit("/", 1)[1]
            assert post(url, route, described["components"]["schemas"][name]["examples"][0])
            tried += 1
    assert tried == 6


def test_null_is_as_nothing(url: str, model: str) -> None:
    body = {
        "model": model,
        "messages": MESSAGES,
        "max_tokens": 3,
        "n": None,
        "stream": None,
        "stop": None,
        "user": None,
    }
    assert post(url, "/v1/chat/completions", body)["choices"][0]["message"]["content"]


def test_values_beyond_machine_numbers_do_no_harm(url: str, model: str) -> None:
    huge = {
        "model": model,
        "prompt": "x",
        "max_tokens": 2,
        "top_k": 3_000_000_000,
        "temperature": 1,
        "priority": 10**30,
    }
    assert post(url, "/v1/completions", huge)["usage"]["completion_tokens"] == 2
    assert health(url)["status"] == "healthy"


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES, "chat_template_kwargs": {"self": 1}}, "messages"),
        ("/v1/chat/completions", {"messages": MESSAGES, "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
        ("/v1/chat/completions", {"messages": MESSAGES, "top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}, None),
        ("/apply-template", {"messages": [{"role": "user", "content": "\ud800"}]}, None),
        ("/detokenize", {"tokens": [99999]}, "tokens"),
        ("/v1/completions", {"prompt": "x", "\ud800": 1}, None),
        ("/tokenize", {"text": "\ud800"}, None),
    ],
)
def test_what_is_wrong_has_a_status(url: str, route: str, body: dict, param: str | None) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url, route, body)
    assert caught.value.code == 400
    assert json.load(caught.value)["error"]["param"] == param


def test_echo_keeps_prompt_logprobs_that_were_asked_for(url: str, model: str) -> None:
    body = {"model": model, "prompt": [5, 6, 7], "echo": True, "prompt_logprobs": 1, "max_tokens": 1}
    assert len(post(url, "/v1/completions", body)["choices"][0]["prompt_logprobs"]) == 3
