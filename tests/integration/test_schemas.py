"""Every answer that is complete is what its JSON schema allows: the embedded model's, and one's with random weights."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from python_layer.inference.build import build_engine
from python_layer.inference.engine import InferenceEngine
from python_layer.inference.grammar import GrammarCompiler, from_json_schema
from python_layer.inference.guide import Guide
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Output, Request
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.sampling import SamplingParams
from python_layer.utils.errors import GrammarError, InvalidRequestError
from python_layer.utils.settings import load_settings
from tests.integration.schemas import IMPOSSIBLE, SCHEMAS
from tests.random_model import ensure_random_model

SAMPLES = 3


@pytest.fixture(scope="module", params=["embedded", "random"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Qwen3Model:
    if request.param == "embedded":
        return Qwen3Model.from_pretrained(DEFAULT_MODEL)
    return Qwen3Model.from_pretrained(ensure_random_model(tmp_path_factory.mktemp("models") / "random"))


@pytest.fixture(scope="module")
def engine(model: Qwen3Model) -> Iterator[InferenceEngine]:
    engine = build_engine(model, load_settings({"kv_cache_memory": 0.5, "max_running": 64}))
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def compiler(model: Qwen3Model) -> GrammarCompiler:
    assert model.tokenizer is not None
    return GrammarCompiler(model.tokenizer, model.config.vocab_size, model.config.eos_token_ids)


@pytest.fixture(scope="module")
def answers(model: Qwen3Model, engine: InferenceEngine, compiler: GrammarCompiler) -> dict[str, list[list[Output]]]:
    """For each schema its answers, all generated at once beside unconstrained ones; each as its outputs."""
    assert model.tokenizer is not None
    prompt = model.tokenizer.encode("Give me some JSON: ")
    # An answer has to come to its end: quotes, which end strings, are made likelier for models that babble.
    [quote] = model.tokenizer.encode('"')
    collected: dict[str, list[Output]] = {}
    left, done = threading.Semaphore(0), 0
    for name, schema in [*SCHEMAS.items(), *((f"free {i}", None) for i in range(10))]:
        guide = None
        if schema is not None:
            grammar = compiler.compile(from_json_schema(schema), "json")
            guide = Guide(model.config.vocab_size, model.config.eos_token_ids, grammar)
        for sample in range(SAMPLES):
            sampling = SamplingParams(1.0 if sample else 0.0, seed=sample, logit_bias={quote: 4.0})
            params = GenerationParams(sampling, max_tokens=250, guide=guide)
            outputs = collected.setdefault(f"{name}/{sample}", [])

            def sink(output: Output, outputs: list[Output] = outputs) -> None:
                outputs.append(output)
                if output.finish_reason:
                    left.release()

            engine.submit(Request(f"{name}/{sample}", prompt, params), sink)
            done += 1
    for _ in range(done):
        assert left.acquire(timeout=300)
    return {name: [collected[f"{name}/{i}"] for i in range(SAMPLES)] for name in SCHEMAS}


def test_there_are_enough() -> None:
    assert len(SCHEMAS) >= 60


@pytest.mark.parametrize("name", SCHEMAS)
def test_complete_answers_follow_the_schema(answers: dict[str, list[list[Output]]], name: str) -> None:
    for outputs in answers[name]:
        assert outputs[-1].error is None
        if outputs[-1].finish_reason == "stop":
            value: Any = json.loads("".join(output.text for output in outputs))
            # Grammars know what dates look like, not how many days a month has.
            formats = jsonschema.FormatChecker(["uuid", "ipv4", "email"])
            jsonschema.validate(value, SCHEMAS[name], format_checker=formats)


def test_most_answers_are_complete(answers: dict[str, list[list[Output]]]) -> None:
    ends = [outputs[-1].finish_reason for each in answers.values() for outputs in each]
    assert ends.count("stop") > 0.8 * len(ends)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_schemas_are_refused(compiler: GrammarCompiler, name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        compiler.compile(from_json_schema(IMPOSSIBLE[name]), "response_format")
    assert caught.value.param == "response_format"
    assert "the grammar can't be used: " in str(caught.value)


def test_oversized_schemas_are_refused(compiler: GrammarCompiler) -> None:
    with pytest.raises(InvalidRequestError, match="characters; it may have up to 262,144"):
        compiler.compile(from_json_schema({"enum": ["x" * 300_000]}), "json")
    deep = json.loads('{"items": ' * 500 + "{}" + "}" * 500)
    with pytest.raises(InvalidRequestError, match="the grammar can't be used: recursion limit"):
        compiler.compile(from_json_schema(deep), "json")


def test_a_grammar_that_becomes_too_large_ends_its_answer_alone(
    model: Qwen3Model, engine: InferenceEngine, compiler: GrammarCompiler
) -> None:
    properties: dict[str, Any] = {f"f{i}": {"type": "string"} for i in range(5000)}
    grammar = compiler.compile(from_json_schema({"type": "object", "properties": properties}), "json")
    guide = Guide(model.config.vocab_size, model.config.eos_token_ids, grammar)
    with pytest.raises(GrammarError, match=r"the answer can't go on: .* max is"):
        engine.generate_batch([[1, 2, 3]], GenerationParams(guide=guide))
    [[answer]] = engine.generate_batch([[1, 2, 3]], GenerationParams(max_tokens=3))
    assert len(answer.tokens) <= 3


def test_compiled_grammars_are_kept(compiler: GrammarCompiler) -> None:
    source = from_json_schema(SCHEMAS["order"])
    assert compiler.compile(source, "json") is compiler.compile(source, "json")
