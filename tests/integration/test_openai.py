"""The running server through OpenAI's own client."""

import threading

import openai
import pytest

from tests.integration.test_metrics import post

MESSAGES = [{"role": "user", "content": "Hello"}]


def test_completion_and_its_stream_agree(client: openai.OpenAI, model: str) -> None:
    arguments = {"model": model, "prompt": [79, 110, 99, 101], "max_tokens": 24, "extra_body": {"ignore_eos": True}}
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
        ({"prompt": []}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "x", "n": 0}, "n"),
        ({"prompt": "x", "stop": [""]}, "stop"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"2048": 1}}, "logit_bias"),
        ({"prompt": "x", "presence_penalty": 3}, "presence_penalty"),
        ({"prompt": "x", "stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": "x", "stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"prompt": "x", "best_of": 2}, "best_of"),
        ({"prompt": ["x"] * 2000}, "prompt"),
        ({"prompt": "x", "temperature": "1"}, "temperature"),
    ],
)
def test_bad_requests_name_what_is_wrong(client: openai.OpenAI, model: str, body: dict, param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/completions", body={"model": model, **body}, cast_to=object)
    assert caught.value.body["code"] == "invalid_request"
    assert caught.value.param == param
    assert caught.value.body["message"]


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


def test_several_answers_and_seeds(client: openai.OpenAI, model: str) -> None:
    story = [{"role": "user", "content": "Go on: There once was a brave fox named Milo."}]
    arguments = {"model": model, "messages": story, "max_tokens": 60, "temperature": 1.5, "seed": 4, "n": 3}
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
    with pytest.raises(openai.BadRequestError, match="2048"):
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=5000, stream=stream)


def test_context_and_code(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=model, prompt="x", max_tokens=100000)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_tokens")
    assert "100000" in caught.value.message
    assert "2048" in caught.value.message


def test_without_max_tokens_a_long_prompt_has_the_rest_of_the_context(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt=[5] * 2040, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 8
    assert answer.choices[0].finish_reason == "length"


def test_many_prompts_in_one_request_are_answered_in_order(url: str, client: openai.OpenAI, model: str) -> None:
    prompts = ["Hello", "What is", "Once upon a time"]
    alone = [client.completions.create(model=model, prompt=p, max_tokens=6).choices[0].text for p in prompts]
    together = client.completions.create(model=model, prompt=prompts, max_tokens=6)
    assert [choice.text for choice in together.choices] == alone
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    streamed = ["", "", ""]
    for chunk in client.completions.create(model=model, prompt=prompts, max_tokens=6, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == alone
    ids = [post(url, "/tokenize", {"text": prompt})["tokens"] for prompt in prompts]
    by_ids = client.completions.create(model=model, prompt=ids, max_tokens=6, n=2, temperature=0)
    assert [choice.text for choice in by_ids.choices] == [text for text in alone for _ in range(2)]


def test_echo_repeats_the_prompt_with_its_logprobs(client: openai.OpenAI, model: str) -> None:
    arguments = {"model": model, "prompt": "What is the capital", "max_tokens": 3, "logprobs": 1}
    plain = client.completions.create(**arguments).choices[0]
    echoed = client.completions.create(**arguments, echo=True).choices[0]
    assert echoed.text == "What is the capital" + plain.text
    assert "".join(echoed.logprobs.tokens) == echoed.text
    assert echoed.logprobs.token_logprobs[0] is None
    assert echoed.logprobs.token_logprobs[-3:] == plain.logprobs.token_logprobs
    chunks = list(client.completions.create(**arguments, echo=True, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == echoed.text
