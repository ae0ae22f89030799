"""The page at `/` in a real browser: sign in by link, ask, watch, reload, reconnect, pull the plug."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from playwright.async_api import Browser, Page, Route, expect

from runwire.testing.server import ServerProcess

QUESTION = "How does a client resume after a lost connection?"
JOURNEY = Path(__file__).resolve().parent.parent / "agents" / "golden.py"

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]


async def _ask(page: Page, text: str) -> None:
    await page.locator("#message").fill(text)
    await page.locator("#message").press("Enter")


async def _shown(page: Page) -> str:
    """Return the text of the whole timeline, without the times it took."""
    return str(await page.locator("#timeline .prose, #timeline .said, #timeline .tool-name").all_inner_texts())


async def test_a_newcomer_signs_in_by_link_asks_and_sees_the_run(page: Page, demo: ServerProcess) -> None:
    await page.goto(demo.sign_in_link)
    await expect(page.locator("#status")).to_have_attribute("data-state", "live")
    assert "link=" not in page.url
    await _ask(page, QUESTION)
    await expect(page.locator(".row-end")).to_contain_text("Completed", timeout=20_000)
    await expect(page.locator("#earlier")).to_be_hidden()
    await expect(page.locator(".row-thinking").first).to_be_visible()
    tools = await page.locator(".row-tool .tool-name").all_inner_texts()
    assert tools[0] == "search_docs"
    assert "read_section" in tools
    answer = page.locator(".row-message .prose").last
    await expect(answer).to_contain_text("after")
    link = await answer.locator("a").first.get_attribute("href")
    assert link is not None
    page_of_docs = await page.context.request.get(urljoin(demo.url, link))
    assert page_of_docs.status == 200


async def test_a_reload_shows_the_same_and_nothing_twice(page: Page, demo: ServerProcess) -> None:
    await page.goto(demo.sign_in_link)
    await _ask(page, QUESTION)
    await expect(page.locator(".row-end")).to_contain_text("Completed", timeout=20_000)
    before = await _shown(page)
    await page.reload()
    await expect(page.locator(".row-end")).to_contain_text("Completed", timeout=20_000)
    assert await _shown(page) == before
    assert await page.locator(".row-user").count() == 1


async def test_kill_9_in_mid_answer_is_caught_up_with_nothing_lost_or_doubled(page: Page, tmp_path: Path) -> None:
    async with ServerProcess(f"{JOURNEY}:journey", data_dir=tmp_path / "data", cwd=tmp_path) as server:
        await page.goto(server.sign_in_link)
        await _ask(page, "a trip")
        await expect(page.locator(".row-message").nth(2)).to_be_visible(timeout=20_000)
        await server.kill9()
        await expect(page.locator("#status")).to_have_attribute("data-state", "reconnecting", timeout=20_000)
        await server.start()
        await expect(page.locator(".row-end")).to_contain_text("Completed", timeout=40_000)
        texts = [text.strip() for text in await page.locator(".row-message .prose").all_inner_texts()]
        assert texts == ["".join(f"[{part}.{n}]" for n in range(10)) for part in range(24)]
        assert await page.locator(".row-thinking").count() == 24
        # The page's own history is the log's: the snapshot over HTTP has the same messages.
        key = await server.create_token("developer")
        snapshot = await _get(page, f"{server.url}/v1/threads", key)
        thread = snapshot["items"][0]["thread"]
        stored = await _get(page, f"{server.url}/v1/threads/{thread}", key)
        assert [m["content"] for m in stored["messages"] if m["role"] == "assistant"] == texts


async def _get(page: Page, url: str, key: str) -> Any:
    answer = await page.context.request.get(url, headers={"Authorization": f"Bearer {key}"})
    assert answer.status == 200
    return json.loads(await answer.body())


async def test_two_tabs_signed_in_by_password_show_the_same_run(browser: Browser, demo: ServerProcess) -> None:
    await demo.create_user("ann", password="correct horse battery staple")
    tabs = [await browser.new_page() for _ in range(2)]
    for tab in tabs:
        await tab.goto(demo.url)
        await tab.locator("#user").fill("ann")
        await tab.locator("#password").fill("correct horse battery staple")
        await tab.locator("#password").press("Enter")
        await expect(tab.locator("#status")).to_have_attribute("data-state", "live")
    await _ask(tabs[0], "What is a thread?")
    await expect(tabs[0].locator(".row-user")).to_be_visible()
    await tabs[1].goto(tabs[0].url)
    for tab in tabs:
        await expect(tab.locator(".row-end")).to_contain_text("Completed", timeout=20_000)
    assert await _shown(tabs[1]) == await _shown(tabs[0])


async def test_a_message_typed_before_the_sign_in_is_through_is_shown(page: Page, demo: ServerProcess) -> None:
    async def slow(route: Route) -> None:
        await page.locator("#message").fill("What is a thread?")
        await page.locator("#message").press("Enter")
        await route.continue_()

    await page.route("**/auth/sessions", slow)
    await page.goto(demo.sign_in_link)
    await expect(page.locator(".row-end")).to_contain_text("Completed", timeout=20_000)
    await expect(page.locator(".row-user")).to_have_count(1)


async def test_escape_cancels_and_says_so(page: Page, tmp_path: Path) -> None:
    async with ServerProcess(f"{JOURNEY}:steady", data_dir=tmp_path / "data", cwd=tmp_path) as server:
        await page.goto(server.sign_in_link)
        await _ask(page, "go on and on")
        await expect(page.locator(".row-message .prose")).to_contain_text("3 4 5", timeout=20_000)
        await page.keyboard.press("Escape")
        await expect(page.locator(".row-end")).to_contain_text("Cancelled by you", timeout=10_000)


async def test_escape_ends_the_run_that_goes_on_and_each_run_stays_below_its_message(
    page: Page, tmp_path: Path
) -> None:
    async with ServerProcess(f"{JOURNEY}:steady", data_dir=tmp_path / "data", cwd=tmp_path) as server:
        await page.goto(server.sign_in_link)
        await _ask(page, "first")
        await expect(page.locator(".row-message .prose")).to_contain_text("3 4 5", timeout=20_000)
        await _ask(page, "second")
        await _ask(page, "third")
        waiting = page.locator(".is-waiting")
        await expect(waiting).to_have_count(2)
        await expect(waiting.first).to_contain_text("Waits for its turn")
        await expect(page.locator("#hint")).to_have_text("Stop (Esc) ends “first”; 2 more wait")

        await waiting.nth(1).get_by_role("button", name="Cancel").click()
        await page.keyboard.press("Escape")

        await expect(page.locator(".row-end")).to_have_count(2, timeout=10_000)
        await expect(page.locator(".row-message")).to_have_count(2, timeout=10_000)
        rows = page.locator("#timeline > .row-user, #timeline > .row-run, #timeline > .row-end")
        shown = [text.replace("\n", " ") for text in await rows.locator(".body").all_inner_texts()]
        assert [text.replace("You ", "").strip() for text in shown] == [
            *("first", "steady started", "Cancelled by you"),
            *("second", "steady started"),
            *("third", "Cancelled by you"),
        ]
        await page.keyboard.press("Escape")
        await expect(page.locator(".row-end")).to_have_count(3, timeout=10_000)


_AT_END = """() => {
  const box = document.getElementById("scroll");
  return box.scrollHeight > box.clientHeight && box.scrollHeight - box.scrollTop - box.clientHeight < 2;
}"""


async def test_the_end_stays_in_sight_when_the_view_gets_another_size(page: Page, demo: ServerProcess) -> None:
    await page.goto(demo.sign_in_link)
    for count, question in enumerate((QUESTION, "Which settings are there?"), start=1):
        await _ask(page, question)
        await expect(page.locator(".row-end")).to_have_count(count, timeout=20_000)
    await page.wait_for_function(_AT_END)
    await page.locator("#events-toggle").click()
    await page.wait_for_function(_AT_END)
    await page.locator("#events-close").click()
    for width, height in ((1200, 500), (390, 700), (1200, 900)):
        await page.set_viewport_size({"width": width, "height": height})
        await page.wait_for_function(_AT_END)
        await expect(page.locator("#jump")).to_be_hidden()


async def test_the_way_to_the_end_covers_no_text(page: Page, demo: ServerProcess) -> None:
    await page.set_viewport_size({"width": 390, "height": 700})
    await page.goto(demo.sign_in_link)
    await _ask(page, QUESTION)
    await expect(page.locator(".row-end")).to_contain_text("Completed", timeout=20_000)
    await page.wait_for_function(_AT_END)
    await page.locator("#scroll").hover()
    await page.mouse.wheel(0, -600)
    await expect(page.locator("#jump")).to_be_visible()
    text, jump, composer = [await page.locator(name).bounding_box() for name in ("#scroll", "#jump", "#composer")]
    assert text
    assert jump
    assert composer
    assert text["y"] + text["height"] <= jump["y"]
    assert jump["y"] + jump["height"] <= composer["y"]
    await page.locator("#jump").click()
    await page.wait_for_function(_AT_END)


async def test_threads_of_other_clients_are_named_by_their_first_message(page: Page, demo: ServerProcess) -> None:
    headers = {"Authorization": f"Bearer {await demo.create_token('developer')}"}
    for text in ("What is a thread?", "How does a client\nresume?"):
        made = await page.context.request.post(f"{demo.url}/v1/threads", headers=headers, data={})
        thread = json.loads(await made.body())["thread"]
        await page.context.request.post(
            f"{demo.url}/v1/threads/{thread}/messages", headers=headers, data={"content": text}
        )
    await page.goto(demo.sign_in_link)
    await expect(page.locator("#threads a")).to_have_text(["How does a client resume?", "What is a thread?"])


async def test_the_documentation_has_a_menu_on_a_narrow_screen_and_a_page_for_what_is_not_there(
    browser: Browser, demo: ServerProcess
) -> None:
    page = await browser.new_page(viewport={"width": 390, "height": 700})
    answer = await page.goto(f"{demo.url}/docs/delivery")
    assert answer is not None
    assert answer.status == 404
    await expect(page.locator("#text")).to_contain_text("No such page")
    await page.locator("#text a", has_text="Delivery").click()
    await expect(page.locator("#text h2")).to_have_text("Delivery: what is guaranteed")
    menu = page.locator("#nav")
    await expect(menu).to_be_hidden()
    await page.locator("#menu").click()
    await expect(menu.locator("[aria-current]")).to_be_in_viewport()
    await menu.get_by_text("Glossary").click()
    await expect(page.locator("#text h2")).to_have_text("Glossary")
    await expect(menu).to_be_hidden()
