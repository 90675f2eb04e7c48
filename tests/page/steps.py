"""What users do on the page."""

from playwright.sync_api import Locator, Page, expect

expect.set_options(timeout=20_000)


def ask(page: Page, question: str) -> Locator:
    """Asks, waits for the end of the answer, and returns it."""
    begin(page, question)
    return ended(page)


def begin(page: Page, question: str) -> None:
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")


def last(page: Page) -> Locator:
    return page.locator(".answer").last


def ended(page: Page) -> Locator:
    """The last answer, once it has ended."""
    expect(page.locator("#stop")).to_be_hidden()
    answer = last(page)
    expect(answer.locator(".answer-foot")).to_be_visible()
    return answer


def set_up(page: Page, **values: str) -> None:
    """Changes settings."""
    page.get_by_role("button", name="Settings").click()
    for name, value in values.items():
        field = page.locator(f"#set-{name}")
        if name == "thinking":
            field.select_option(value)
        else:
            field.fill(value)
    page.locator("#settings").get_by_role("button", name="Save").click()
    expect(page.locator("#settings")).to_be_hidden()
