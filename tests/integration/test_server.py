"""The running server through OpenAI's own client."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import openai
import pytest

from tests.integration.server import running_server

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server() as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_completion_and_its_stream_agree(client: openai.OpenAI, model: str) -> None:
    arguments = {"model": model, "prompt": "Once", "max_tokens": 24, "extra_body": {"ignore_eos": True}}
    whole = client.completions.create(**arguments)
    chunks = list(client.completions.create(**arguments, stream=True))
    assert whole.choices[0].text
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (4, 24, 28)


def test_chat_and_its_stream_agree(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=16)
    chunks = list(client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=16, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_token_ids_and_seed(client: openai.OpenAI, model: str) -> None:
    def draw(seed: int) -> str:
        answer = client.completions.create(model=model, prompt=[5, 6, 7], max_tokens=16, temperature=1.5, seed=seed)
        return answer.choices[0].text

    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "temperature": -1}, "temperature"),
        ({"prompt": "x", "max_tokens": 100000}, "max_tokens"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "x", "n": 0}, "n"),
        ({"prompt": "x", "stop": [""]}, "stop"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"320": 1}}, "logit_bias"),
        ({"prompt": "x", "presence_penalty": 3}, "presence_penalty"),
        ({"prompt": "x", "stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_bad_requests_name_what_is_wrong(client: openai.OpenAI, model: str, body: dict, param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/completions", body={"model": model, **body}, cast_to=object)
    assert caught.value.body["code"] == "invalid_request"
    assert caught.value.param == param
    assert caught.value.body["message"]


def test_text_that_is_no_unicode_is_refused(url: str) -> None:
    request = urllib.request.Request(
        f"{url}/v1/completions", rb'{"prompt": "\ud800"}', {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 400
    assert json.load(caught.value)["error"]["param"] == "prompt"


def test_other_models_are_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-nothing"):
        client.chat.completions.create(model="gpt-nothing", messages=MESSAGES)


def test_requests_at_once_all_get_their_own_answer(client: openai.OpenAI, model: str) -> None:
    prompts = [[i, i + 1, i + 2] for i in range(8)]
    alone = [client.completions.create(model=model, prompt=p, max_tokens=12).choices[0].text for p in prompts]
    together: dict[int, str] = {}

    def ask(i: int) -> None:
        together[i] = client.completions.create(model=model, prompt=prompts[i], max_tokens=12).choices[0].text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in range(8)] == alone


def test_a_reader_that_leaves_frees_its_pages(url: str, client: openai.OpenAI, model: str) -> None:
    body = {"model": model, "prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True}
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


def health(url: str) -> dict:
    with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
        return json.load(response)


def test_several_answers_and_seeds(client: openai.OpenAI, model: str) -> None:
    arguments = {"model": model, "messages": MESSAGES, "max_tokens": 12, "temperature": 1.5, "seed": 4, "n": 3}
    whole = client.chat.completions.create(**arguments)
    texts = [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**arguments, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_stop_strings_cut_the_text(client: openai.OpenAI, model: str) -> None:
    arguments = {"model": model, "prompt": [9, 8, 7], "max_tokens": 40, "temperature": 1.0, "seed": 1}
    arguments["extra_body"] = {"ignore_eos": True}
    text = client.completions.create(**arguments).choices[0].text
    stop = text[10:12]
    stopped = client.completions.create(**arguments, stop=[stop, "never"])
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    chunks = client.completions.create(**arguments, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == stopped.choices[0].text


def test_logprobs(client: openai.OpenAI, model: str) -> None:
    chat = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=3)
    for entry in chat.choices[0].logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == entry.logprob
    completion = client.completions.create(model=model, prompt="x", max_tokens=4, logprobs=2)
    assert len(completion.choices[0].logprobs.token_logprobs) == 4


def test_usage_in_a_stream_counts_cached_tokens(client: openai.OpenAI, model: str) -> None:
    arguments = {"model": model, "prompt": list(range(100)), "max_tokens": 3, "stream": True}
    arguments |= {"stream_options": {"include_usage": True}, "extra_body": {"ignore_eos": True}}
    list(client.completions.create(**arguments))
    *_, last = client.completions.create(**arguments)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (100, 3)
    assert last.usage.prompt_tokens_details.cached_tokens == 96


def test_logit_bias_and_penalties(client: openai.OpenAI, model: str) -> None:
    forced = client.completions.create(model=model, prompt="x", max_tokens=5, logit_bias={"32": 100}, logprobs=0)
    assert len(set(forced.choices[0].logprobs.tokens)) == 1
    varied = client.completions.create(
        model=model, prompt="x", max_tokens=5, logit_bias={"32": 4}, frequency_penalty=2, logprobs=0
    )
    assert len(set(varied.choices[0].logprobs.tokens)) > 1


@pytest.mark.parametrize("stream", [True, False])
def test_refusals_have_a_status_with_streams_too(client: openai.OpenAI, model: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="4096"):
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=5000, stream=stream)
