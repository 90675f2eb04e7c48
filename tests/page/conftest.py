"""The browser, the servers, and a page that is watched."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.integration.server import running_server
from tests.page.browser import running_browser
from tests.page.scripted_server import ScriptedServer, scripted_server


# Not for the whole session: while it runs, no other test of this process could start an event loop.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="package")
def url(browser: Browser) -> Iterator[str]:
    """The real server, with the model that comes along."""
    with running_server() as address:
        yield address


@pytest.fixture
def scripted(browser: Browser) -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the page of a server; at the end checks that it asked nobody else and broke no rule of its own."""
    pages: list[tuple[Page, str]] = []
    asked: list[str] = []
    wrong: list[str] = []

    def open_it(url: str, ready: str = "ready|failed", **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **options})
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
        pages.append((page, url))
        page.goto(url)
        expect(page.locator("#model")).to_have_attribute("data-state", re.compile(ready))
        return page

    yield open_it
    for page, _ in pages:
        page.context.close()
    origins = (*(f"{url}/" for _, url in pages), "blob:")
    assert [address for address in asked if not address.startswith(origins)] == []
    assert wrong == []


@pytest.fixture
def page(open_page: Callable[..., Page], url: str) -> Page:
    """The page of the real server."""
    return open_page(url)


@pytest.fixture
def scripted_page(open_page: Callable[..., Page], scripted: ScriptedServer) -> Page:
    """The page of the scripted server."""
    return open_page(scripted.url)
