"""Takes the pictures of docs/images: ``make screenshots``."""

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.integration.server import running_server
from tests.page.browser import running_browser
from tests.page.scripted_server import scripted_server, text
from tests.page.steps import ask, ended, set_up

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
WIDE = {"width": 1180, "height": 760}
PHONE = {"width": 390, "height": 780}
EARLIER = ("What is a KV cache?", "Which day comes after Monday?", "What is the opposite of hot?")
MARKDOWN = """A **KV cache** keeps the keys and values of every earlier token, so that each step computes one row only.

| | without | with |
|---|---:|---:|
| rows computed for token 100 | 100 | 1 |
| memory | none | grows with the context |

```python
def step(cache, token):
    # Only the new token's row is computed.
    query, key, value = project(token)
    cache.append(key, value)
    return attention(query, cache.keys, cache.values)
```

It costs memory, which is why it is kept in *pages* that requests with the same beginning share."""


def take(browser: Browser, url: str, name: str, steps: Callable[[Page], None], **options: object) -> None:
    """Opens the page, does something, and keeps what is to be seen."""
    context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
    page = context.new_page()
    page.goto(url)
    steps(page)
    page.mouse.move(640, 5)
    page.locator(".notice").evaluate_all("notices => notices.forEach((notice) => notice.remove())")
    path = IMAGES / f"chat-{name}.png"
    page.screenshot(path=path)
    context.close()
    print(f"{path.relative_to(IMAGES.parents[1])}: {path.stat().st_size // 1024} KiB")


def conversations(page: Page) -> None:
    """A list at the side, and a conversation."""
    for question in EARLIER:
        ask(page, question)
        page.locator("#new").click()
    ask(page, "What is the capital of France?")
    ask(page, "Sort these numbers: 41, 7, 93, 20")
    ask(page, "Tell me a story that begins with: There once was a curious fox named Nora.")


def thinking(page: Page) -> None:
    """Thoughts, unfolded."""
    set_up(page, thinking="on")
    ask(page, "What is 218 + 34?")
    page.locator(".thinking summary").click()


def tools(page: Page) -> None:
    """A call, its result, and another call that waits."""
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Insert an example").click()
    page.get_by_role("button", name="Save").click()
    ask(page, "What is the weather in Lisbon?")
    page.locator(".tool-call textarea").fill('{"temperature": 21, "sky": "sunny"}')
    page.get_by_role("button", name="Send the result").click()
    ended(page)
    ask(page, "How is the weather in Oslo today?")


def main() -> None:
    """All of them."""
    IMAGES.mkdir(exist_ok=True)
    with running_browser() as browser:
        with running_server() as url:
            take(browser, url, "light", conversations, color_scheme="light")
            take(browser, url, "thinking", thinking, color_scheme="light")
            take(browser, url, "tools", tools, color_scheme="light")
            take(browser, url, "phone", lambda page: None, viewport=PHONE, color_scheme="light")
        with scripted_server() as scripted:
            # What the small model can't write: how Markdown looks.
            chunks = text(*(f"{word} " for word in MARKDOWN.split(" ")))
            scripted.answers = [[step for chunk in chunks for step in (chunk, 0.02)]]
            take(browser, scripted.url, "dark", lambda page: void(ask(page, "Why a KV cache?")), color_scheme="dark")


def void(_: object) -> None:
    """Nothing."""


if __name__ == "__main__":
    main()
