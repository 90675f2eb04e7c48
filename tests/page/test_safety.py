"""The page speaks to its own server only, and what a model writes stays text."""

import json

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Page, expect

from python_layer.server.chat_page import FOLDER, add_chat_page
from tests.page.scripted_server import ScriptedServer, text
from tests.page.steps import ask

HOSTILE = """<script>window.hacked = 1</script> <img src=x onerror="window.hacked = 2">

[click](javascript:window.hacked=3) [data](data:text/html,<script>window.hacked=4</script>)
[spaced]( java\tscript:window.hacked=5) <javascript:window.hacked=6> [entity](&#106;avascript:window.hacked=7)
![picture](https://evil.example/pixel.png) [quoted](https://evil.example/"onmouseover="window.hacked=8)

# <svg onload=window.hacked=9>

| <b onclick="window.hacked=10">cell</b> |
|---|
| <iframe src="javascript:window.hacked=11"></iframe> |

```html"><script>window.hacked=12</script>
</code></pre><script>window.hacked = 13</script>
```

```__proto__
x
```

<style>body { display: none }</style> <a href="javascript:window.hacked=14">raw</a>
"""


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    add_chat_page(app)
    return TestClient(app)


def test_every_file_comes_with_the_policy(client: TestClient) -> None:
    files = sorted(path.name for path in FOLDER.iterdir())
    assert {"index.html", "style.css", "app.js"} <= set(files)
    for path in ["/", *(f"/page/{name}" for name in files)]:
        answer = client.get(path)
        assert answer.status_code == 200, path
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy.pop("default-src") == "'none'"
        assert set(policy.values()) <= {"'self'", "'none'"}, path
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.head("/").status_code == 200
    assert client.get("/page/app.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("path", ["/page/../api.py", "/page/%2e%2e/api.py", "/page/..%2fapi.py", "/page/nothing.js"])
def test_nothing_but_the_page_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.[hjc]*")), ids=lambda path: path.name)
def test_no_file_names_another_host_or_parses_html(path: object) -> None:
    source = path.read_text()  # type: ignore[attr-defined]
    outside = source.replace("http://www.w3.org/2000/svg", "").replace("http://192.168.0.7", "")
    assert "://" not in outside.replace("https?:\\/\\/", "")
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert forbidden not in source


def test_hostile_markdown_is_text(scripted_page: Page, scripted: ScriptedServer) -> None:
    scripted.answers = [text(*HOSTILE), text("Still here.")]
    answer = ask(scripted_page, HOSTILE)
    found = answer.locator(".markdown").evaluate(
        """(root) => {
          const nodes = [...root.querySelectorAll("*")];
          return {
            tags: [...new Set(nodes.map((node) => node.localName))],
            handlers: nodes.filter((node) => [...node.attributes].some(({ name }) => name.startsWith("on"))).length,
            links: nodes.filter((node) => node.href).map((node) => [new URL(node.href).protocol, node.rel]),
          };
        }"""
    )
    assert set(found["tags"]).isdisjoint({"script", "img", "iframe", "svg", "style", "b"})
    assert found["handlers"] == 0
    assert found["links"] and all(link == ["https:", "noopener noreferrer nofollow"] for link in found["links"])
    for node in answer.locator(".markdown :is(span, a, td, th, code)").all():
        node.dispatch_event("click")
        node.dispatch_event("mouseover")
    assert scripted_page.evaluate("window.hacked") is None
    expect(answer.locator(".markdown")).to_contain_text("<script>window.hacked = 1</script>")
    expect(ask(scripted_page, "Hello").locator(".markdown")).to_have_text("Still here.")


def test_hostile_titles_names_and_errors_are_text(scripted_page: Page, scripted: ScriptedServer) -> None:
    bad = "<img src=x onerror=window.hacked=1>"
    call = {"index": 0, "id": "a", "function": {"name": bad, "arguments": json.dumps({"x": bad})}}
    chunk = {"choices": [{"index": 0, "delta": {"reasoning_content": bad, "tool_calls": [call]}}]}
    scripted.answers = [[chunk, {"error": {"message": bad, "code": "internal_error"}}]]
    answer = ask(scripted_page, bad)
    expect(answer.locator(".tool-call strong")).to_have_text(bad)
    expect(answer.get_by_role("alert")).to_contain_text(bad)
    assert scripted_page.evaluate("window.hacked") is None
    expect(scripted_page.locator("#thread img, #sidebar li img")).to_have_count(0)


def test_the_browser_refuses_what_the_policy_forbids(scripted: ScriptedServer, browser: object) -> None:
    """On a page that is not watched, since this one breaks the rules on purpose."""
    context = browser.new_context()  # type: ignore[attr-defined]
    page = context.new_page()
    page.goto(scripted.url)
    refused = page.evaluate(
        """async () => {
          const refused = [];
          document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
          await fetch("https://example.com/").catch(() => {});
          const script = document.createElement("script");
          script.textContent = "window.hacked = 1";
          const image = document.createElement("img");
          image.src = "https://example.com/pixel.png";
          document.body.append(script, image);
          await new Promise((resolve) => setTimeout(resolve, 300));
          return [refused.sort(), window.hacked ?? null];
        }"""
    )
    context.close()
    assert refused == [["connect-src", "img-src", "script-src-elem"], None]
