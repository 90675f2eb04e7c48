"""Dark and light, narrow and wide, and all of it without a mouse."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.page.scripted_server import ScriptedServer, text
from tests.page.steps import ask, begin, ended

BACKGROUND = "getComputedStyle(document.body).backgroundColor"
WIDE_CONTENT = [
    "word" * 200 + "\n\n",
    "`" + "code" * 100 + "`\n\n",
    "```python\n" + "x = " + "1 + " * 200 + "1\n```\n\n",
    "| " + " | ".join(f"column {i}" for i in range(20)) + " |\n" + "|---" * 20 + "|\n",
    "https://example.com/" + "path/" * 60,
]

# The colours of texts that differ less from what is behind them than WCAG's AA asks for.
LOW_CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = (color) => {
    const [red, green, blue] = color.map((value) => linear(value / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
  };
  const contrast = (node) => {
    const [less, more] = [parse(getComputedStyle(node).color), behind(node)].map(luminance).sort((a, b) => a - b);
    return (more + 0.05) / (less + 0.05);
  };
  const hasText = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  return [...document.querySelectorAll("body *")]
    .filter((node) => node.checkVisibility() && hasText(node) && contrast(node) < 4.5)
    .map((node) => [node.outerHTML.slice(0, 60), contrast(node)]);
}"""


def brightness(page: Page) -> int:
    return sum(int(part) for part in page.evaluate(BACKGROUND).removeprefix("rgb(").rstrip(")").split(","))


def overflows(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > innerWidth || scroller.scrollWidth > innerWidth")


@pytest.mark.parametrize(("scheme", "dark"), [("dark", True), ("light", False)])
def test_the_systems_scheme_counts(
    open_page: Callable[..., Page], scripted: ScriptedServer, scheme: str, dark: bool
) -> None:
    assert (brightness(open_page(scripted.url, color_scheme=scheme)) < 200) == dark


def test_the_switch_outranks_the_system_and_is_kept(open_page: Callable[..., Page], scripted: ScriptedServer) -> None:
    page = open_page(scripted.url, color_scheme="light")
    switch = page.locator("#theme")
    for label, dark in [("light", False), ("dark", True)]:
        switch.click()
        expect(switch).to_have_attribute("title", f"Theme: {label}")
        assert (brightness(page) < 200) == dark
    page.reload()
    assert brightness(page) < 200
    switch.click()
    assert brightness(page) > 600


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(open_page: Callable[..., Page], scripted: ScriptedServer, scheme: str) -> None:
    """The contrasts that WCAG's AA asks for."""
    scripted.answers = [
        text("Some `code` and a [link](https://example.com).\n\n```python\n# comment\nreturn 'x', 1\n```")
    ]
    page = open_page(scripted.url, color_scheme=scheme)
    ask(page, "Hello")
    low = page.evaluate(LOW_CONTRASTS)
    assert low == []


def test_no_sideways_scrolling_on_a_phone(open_page: Callable[..., Page], scripted: ScriptedServer) -> None:
    scripted.answers = [text(*WIDE_CONTENT)]
    page = open_page(scripted.url, viewport={"width": 360, "height": 740})
    assert not overflows(page)
    ask(page, "long" * 100)
    assert not overflows(page)
    page.get_by_role("button", name="Settings").click()
    assert not overflows(page)
    box = page.locator("#settings").bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_the_drawer_of_a_phone(open_page: Callable[..., Page], scripted: ScriptedServer) -> None:
    scripted.answers = [text("Hello to you.")]
    page = open_page(scripted.url, viewport={"width": 360, "height": 740})
    expect(page.locator("#sidebar")).to_be_hidden()
    ask(page, "Hello")
    page.get_by_role("button", name="Conversations", exact=True).click()
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#sidebar")).to_be_hidden()
    expect(page.locator("#welcome")).to_be_visible()
    page.get_by_role("button", name="Conversations", exact=True).click()
    page.get_by_role("button", name="Hello", exact=True).click()
    expect(page.locator("#thread").get_by_text("Hello to you.")).to_be_in_viewport()
    page.get_by_role("button", name="Conversations", exact=True).click()
    page.keyboard.press("Escape")
    expect(page.locator("#sidebar")).to_be_hidden()
    expect(page.get_by_role("button", name="Conversations", exact=True)).to_be_focused()


def test_a_conversation_without_a_mouse(scripted_page: Page, scripted: ScriptedServer) -> None:
    page, keys = scripted_page, scripted_page.keyboard
    scripted.answers = [text("One."), text("Two."), text("Three.")]
    expect(page.get_by_label("Your question")).to_be_focused()
    keys.type("first line")
    keys.press("Shift+Enter")
    keys.type("second line")
    keys.press("Enter")
    expect(ended(page).locator(".markdown")).to_have_text("One.")
    assert scripted.bodies[0]["messages"][0]["content"] == "first line\nsecond line"
    keys.press("ArrowUp")
    keys.press("Control+a")
    keys.type("changed")
    keys.press("Enter")
    expect(ended(page).locator(".markdown")).to_have_text("Two.")
    expect(page.locator(".question-text")).to_have_text("changed")
    keys.press("Control+k")
    expect(page.locator("#welcome")).to_be_visible()
    keys.type("new")
    keys.press("Enter")
    expect(ended(page).locator(".markdown")).to_have_text("Three.")
    expect(page.locator("#conversations li")).to_have_count(2)
    keys.press("Control+/")
    expect(page.get_by_role("heading", name="Keyboard shortcuts")).to_be_visible()
    keys.press("Escape")
    keys.press("Control+,")
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    keys.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()
    keys.press("Control+b")
    expect(page.locator("#sidebar")).to_be_hidden()


def test_all_that_can_be_reached_shows_its_focus(scripted_page: Page) -> None:
    scripted_page.get_by_label("Your question").blur()
    seen = set()
    for _ in range(40):
        scripted_page.keyboard.press("Tab")
        name, outline, ring = scripted_page.evaluate(
            """() => {
              const at = document.activeElement;
              const style = getComputedStyle(at.id === "question" ? composer : at);
              return [at.id || at.className, style.outlineStyle, style.borderColor];
            }"""
        )
        if name == "question":
            assert ring != scripted_page.evaluate("getComputedStyle(search).borderColor")
        elif name:
            assert outline != "none", name
        seen.add(name)
    assert {"new", "search", "export", "import", "shortcuts-button", "theme", "settings-button", "question"} <= seen


def test_all_controls_have_names_and_the_answer_is_announced(scripted_page: Page, scripted: ScriptedServer) -> None:
    scripted.answers = [text("Hello to you.")]
    ask(scripted_page, "Hello")
    expect(scripted_page.locator("#announcer")).to_have_text("Hello to you.")
    nameless = scripted_page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, select")]
          .filter((node) => !(node.textContent.trim() || node.ariaLabel || node.labels?.length))
          .map((node) => node.outerHTML)"""
    )
    assert nameless == []
    for landmark in ("navigation", "main", "banner", "contentinfo"):
        expect(scripted_page.get_by_role(landmark)).to_have_count(1)


def test_a_question_that_comes_too_early_is_kept(scripted_page: Page, scripted: ScriptedServer) -> None:
    scripted.answers = [[1.0, *text("One.")]]
    begin(scripted_page, "Hello")
    begin(scripted_page, "And now?")
    expect(scripted_page.locator(".notice")).to_contain_text("Wait for the answer")
    expect(scripted_page.get_by_label("Your question")).to_have_value("And now?")
    ended(scripted_page)
    assert len(scripted.bodies) == 1
