"""The running server through OpenAI's own client."""

import json
import threading
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
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4, 24)


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


def test_a_reader_that_leaves_does_not_hold_up_the_next(url: str, client: openai.OpenAI, model: str) -> None:
    body = {"model": model, "prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.readline().startswith(b"data:")
    assert client.with_options(timeout=20).completions.create(model=model, prompt="y", max_tokens=1).choices[0].text
