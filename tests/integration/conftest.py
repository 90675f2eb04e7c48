"""The server with the model that comes along, for the files that ask it nothing unusual."""

from collections.abc import Iterator

import openai
import pytest

from tests.integration.server import running_server


@pytest.fixture(scope="package")
def url() -> Iterator[str]:
    with running_server() as address:
        yield address


@pytest.fixture(scope="package")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="package")
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id
