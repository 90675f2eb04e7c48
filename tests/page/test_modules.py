"""The page's modules one by one, in the browser."""

from typing import Any

import pytest
from playwright.sync_api import Page

from tests.page.scripted_server import ScriptedServer, scripted_server, text
from tests.page.steps import ask


@pytest.fixture(scope="module")
def blank(browser: Any) -> Any:
    with scripted_server() as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        yield page
        context.close()


def html(page: Page, markdown: str) -> str:
    """What Markdown becomes; that of code is only its text."""
    return page.evaluate(
        """async (text) => {
          const { MarkdownView } = await import("/page/markdown.js");
          const view = new MarkdownView();
          view.show(text);
          for (const code of view.node.querySelectorAll("pre code")) code.textContent = code.textContent;
          for (const bar of view.node.querySelectorAll(".code-bar")) bar.remove();
          for (const node of view.node.querySelectorAll("*")) {
            const dropped = [...node.attributes].filter(({ name }) => !["href", "start"].includes(name));
            for (const { name } of dropped) node.removeAttribute(name);
          }
          return view.node.innerHTML.replaceAll("<br>", "\\n");
        }""",
        markdown,
    )


CASES = {
    "plain": ("a < b & c", "<p>a &lt; b &amp; c</p>"),
    "emphasis": (
        "*a* **b** ***c*** ~~d~~",
        "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <del>d</del></p>",
    ),
    "nested emphasis": ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
    "underscores": ("_a_ snake_case_name __b__", "<p><em>a</em> snake_case_name <strong>b</strong></p>"),
    "lone stars": ("2 * 3 * 4 and **open", "<p>2 * 3 * 4 and **open</p>"),
    "crossed": ("*a **b* c**", "<p><em>a <em><em>b</em> c</em></em></p>"),
    "escapes": (r"\*a\* \[b\] \\", r"<p>*a* [b] \</p>"),
    "code span": ("`a*b*` `` x`y `` `open", "<p><code>a*b*</code> <code>x`y</code> `open</p>"),
    "heading": ("# One\n## Two ##\n#no", "<h3>One</h3><h4>Two</h4><p>#no</p>"),
    "lines": ("a\nb\n\nc", "<p>a\nb</p><p>c</p>"),
    "rule": ("a\n\n---\n\n* * *", "<p>a</p><hr><hr>"),
    "quote": ("> a\n> > b\nc", "<blockquote><p>a</p><blockquote><p>b\nc</p></blockquote></blockquote>"),
    "list": ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
    "numbers": ("3. a\n4. b\n   - c", '<ol start="3"><li>a</li><li>b<ul><li>c</li></ul></li></ol>'),
    "shallow nesting": ("1. a\n  - b\n2. c", '<ol start="1"><li>a<ul><li>b</li></ul></li><li>c</li></ol>'),
    "loose list": ("- a\n\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"),
    "list with code": (
        "1. a\n   ```\n   x\n   ```\n2. b",
        '<ol start="1"><li>a<div><pre><code>x</code></pre></div></li><li>b</li></ol>',
    ),
    "two lists": ("- a\n* b", "<ul><li>a</li></ul><ul><li>b</li></ul>"),
    "a number is no list": ("252.", "<p>252.</p>"),
    "a year is no list": ("It was in\n1986. A year", "<p>It was in\n1986. A year</p>"),
    "table": (
        "| a | b |\n|:-:|--:|\n| `x\\|y` | *2* |\n| 3 |\nend",
        "<div><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td><code>x|y</code></td>"
        "<td><em>2</em></td></tr><tr><td>3</td><td></td></tr></tbody></table></div><p>end</p>",
    ),
    "no table": ("a | b\nc | d", "<p>a | b\nc | d</p>"),
    "fence": ("```python\nx = 1 < 2\n\ny\n```\nz", "<div><pre><code>x = 1 &lt; 2\n\ny</code></pre></div><p>z</p>"),
    "open fence": ("~~~\n# a", "<div><pre><code># a</code></pre></div>"),
    "fence in fence": ("````\n```\n````", "<div><pre><code>```</code></pre></div>"),
    "link": ('[a *b*](https://x.y/(z) "t")', '<p><a href="https://x.y/(z)">a <em>b</em></a></p>'),
    "mail": ("<mailto:a@b.c>", '<p><a href="mailto:a@b.c">mailto:a@b.c</a></p>'),
    "bare link": ("see https://x.y/z_a_b.", '<p>see <a href="https://x.y/z_a_b">https://x.y/z_a_b</a>.</p>'),
    "script link": ("[a](javascript:x) [b](vbscript:y) [c](/d)", "<p><span>a</span> <span>b</span> <span>c</span></p>"),
    "picture": ("![a](https://x.y/z.png)", '<p><a href="https://x.y/z.png">a</a></p>'),
    "picture in a link": ("[![a](https://x.y/z)](https://q.r)", '<p><a href="https://q.r">a</a></p>'),
    "brackets": ("[a] [b [c](d e", "<p>[a] [b [c](d e</p>"),
    "emphasis stays in its link": ("*a [b*](https://x.y)", '<p>*a <a href="https://x.y">b*</a></p>'),
}


@pytest.mark.parametrize("name", CASES)
def test_markdown(blank: Page, name: str) -> None:
    markdown, wanted = CASES[name]
    assert html(blank, markdown) == wanted


def test_a_text_that_grows_looks_like_the_whole_one(blank: Page) -> None:
    """Letter by letter, and what has not changed is not made again."""
    whole = "\n\n".join(markdown for markdown, _ in CASES.values())
    result = blank.evaluate(
        """async (text) => {
          const { MarkdownView } = await import("/page/markdown.js");
          const growing = new MarkdownView();
          const whole = new MarkdownView();
          growing.show(text.slice(0, 60));
          const first = growing.node.firstChild;
          for (let end = 61; end <= text.length; end += 1) growing.show(text.slice(0, end));
          whole.show(text);
          return [growing.node.innerHTML === whole.node.innerHTML, growing.node.firstChild === first];
        }""",
        whole,
    )
    assert result == [True, True]


@pytest.mark.parametrize(
    "piece",
    [
        "*a ",
        "a* *b _c ",
        "[",
        "[a](",
        "`" * 3 + " `",
        "> ",
        "- ",
        "|",
        "<",
        "~~a ",
        "https://",
        "`a``b```c",
        "# ",
        "![",
    ],
)
def test_no_text_takes_long(blank: Page, piece: str) -> None:
    """Twice as much text may take some four times as long at most, not for ever."""
    seconds = blank.evaluate(
        """async (text) => {
          const { MarkdownView } = await import("/page/markdown.js");
          const began = performance.now();
          new MarkdownView().show(text);
          return (performance.now() - began) / 1000;
        }""",
        piece * (40_000 // len(piece)),
    )
    assert seconds < 10


@pytest.mark.parametrize(
    ("language", "code", "parts"),
    [
        ("python", "def f(): # x\n  return 'a' + 1", [["keyword", "def"], ["call", "f"], ["comment", "# x"],
                                                        ["keyword", "return"], ["string", "'a'"], ["number", "1"]]),
        ("mojo", 'fn f(): var s = """a\nb"""', [["keyword", "fn"], ["call", "f"], ["keyword", "var"],
                                                  ["string", '"""a\nb"""']]),
        ("js", "const x = `a` // b", [["keyword", "const"], ["string", "`a`"], ["comment", "// b"]]),
        ("json", '{"a": [true, 1.5]}', [["string", '"a"'], ["keyword", "true"], ["number", "1.5"]]),
        ("sh", "echo 'a' # b", [["keyword", "echo"], ["string", "'a'"], ["comment", "# b"]]),
        ("cobol", "MOVE 1 TO X.", []),
        ("constructor", "x = 1", []),
    ],
)  # fmt: skip
def test_code_is_coloured(blank: Page, language: str, code: str, parts: list) -> None:
    shown, found = blank.evaluate(
        """async ([code, language]) => {
          const { highlighted } = await import("/page/highlight.js");
          const node = document.createElement("code");
          node.append(...highlighted(code, language));
          const parts = [...node.children].map((part) => [part.className.replace("code-", ""), part.textContent]);
          return [node.textContent, parts];
        }""",
        [code, language],
    )
    assert shown == code
    assert found == parts


def test_events_are_the_same_however_the_bytes_are_cut(blank: Page) -> None:
    stream = 'data: {"a": "ä€😀"}\r\n\r\n: ping\n\ndata: one\ndata: two\n\nevent: x\ndata:[DONE]\n\ndata: unfinished'
    wrong = blank.evaluate(
        """async (text) => {
          const { eventsOf } = await import("/page/sse.js");
          const bytes = new TextEncoder().encode(text);
          const wanted = JSON.stringify(['{"a": "ä€😀"}', "one\\ntwo", "[DONE]"]);
          const read = async (...cuts) => {
            const ends = [0, ...cuts, bytes.length];
            const body = new ReadableStream({
              start(controller) {
                for (let i = 1; i < ends.length; i += 1) controller.enqueue(bytes.slice(ends[i - 1], ends[i]));
                controller.close();
              },
            });
            const events = [];
            for await (const event of eventsOf(body)) events.push(event);
            return JSON.stringify(events);
          };
          const wrong = [];
          for (let one = 0; one <= bytes.length; one += 1) {
            for (let two = one; two <= bytes.length; two += 1) {
              if ((await read(one, two)) !== wanted) wrong.push([one, two]);
            }
          }
          if ((await read(...bytes.keys())) !== wanted) wrong.push("every byte");
          return wrong;
        }""",
        stream,
    )
    assert wrong == []


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ("", None),
        ("[]", None),
        ('[{"type": "function", "function": {"name": "a", "parameters": {}}}]', None),
        ("[{", "no JSON"),
        ("{}", "list"),
        ("[1]", 'Tool 1: needs "type"'),
        ('[{"type": "function"}]', 'Tool 1: needs "function"'),
        ('[{"type": "function", "function": {"name": "a b"}}]', "Tool 1: its name"),
        ('[{"type": "function", "function": {"name": "a", "parameters": []}}]', "JSON schema"),
        (
            '[{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "a"}}]',
            "Tool 2",
        ),
    ],
)
def test_tools_are_checked(blank: Page, tools: str, problem: str | None) -> None:
    found = blank.evaluate(
        """async (tools) => {
          const { DEFAULTS, problems } = await import("/page/settings.js");
          return problems({ ...DEFAULTS, tools }).tools ?? null;
        }""",
        tools,
    )
    assert (found is None) if problem is None else (problem in found)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("x", "no JSON"),
        ("null", "no MILI conversations"),
        ('{"format": "mili-conversations", "conversations": [{"title": 1}]}', "Conversation 1"),
        (
            '{"format": "mili-conversations", "conversations": [{"title": "", "created": 1, "updated": 1, '
            '"messages": [{"role": "assistant", "content": "", "reasoning": "", "toolCalls": [], "state": "done", '
            '"tokens": "x"}]}]}',
            "Conversation 1",
        ),
    ],
)
def test_a_file_that_is_damaged_is_not_imported(blank: Page, file: str, problem: str) -> None:
    message, kept = blank.evaluate(
        """async (file) => {
          const { Store } = await import("/page/store.js");
          localStorage.clear();
          try {
            new Store(localStorage).import(file);
          } catch (error) {
            return [error.message, localStorage.length];
          }
        }""",
        file,
    )
    assert problem in message
    assert kept == 0


def test_a_browser_that_keeps_nothing_still_chats(browser: Any, scripted: ScriptedServer) -> None:
    scripted.answers = [text("Hello to you.")]
    context = browser.new_context()
    context.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } });"
    )
    page = context.new_page()
    page.goto(scripted.url)
    assert ask(page, "Hello").locator(".markdown").inner_text() == "Hello to you."
    context.close()
