"""What may happen to the page: odd answers, a full store, a large value without a network, a reload before a send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, WebSocketRoute, expect

from runwire.testing.server import ServerProcess

AGENT = """
async def odd(ctx, message):
    if message == "headings":
        yield "# Message\\n\\n## Stop\\n\\n## Timeline\\n\\n" + ">" * 60_000 + "\\n\\n# a" + " " * 30_000 + "b"
    elif message == "script":
        yield "<img src=x onerror=alert(1)> [a](javascript:alert(1)) ![b](data:text/html,x) [c](https://h.example/)"
    elif message == "large":
        yield "word " * 20_000
    else:
        yield "said: " + message
"""

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    (tmp_path / "odd.py").write_text(AGENT, encoding="utf-8")
    async with ServerProcess(f"{tmp_path / 'odd.py'}:odd", data_dir=tmp_path / "data", cwd=tmp_path) as started:
        yield started


async def _ask(page: Page, text: str, runs: int) -> None:
    await page.locator("textarea").fill(text)
    await page.locator("textarea").press("Enter")
    await expect(page.locator(".row-end")).to_have_count(runs, timeout=20_000)


async def test_an_answer_takes_no_part_of_the_page_for_itself_and_stops_nothing(
    page: Page, server: ServerProcess
) -> None:
    await page.goto(server.sign_in_link)
    await _ask(page, "headings", 1)
    await expect(page.locator(".row-message h2").first).to_have_text("Message")
    assert await page.locator(".prose [id]").count() == 0
    await _ask(page, "again", 2)
    await expect(page.locator(".row-message").last).to_contain_text("said: again")


async def test_an_answer_runs_no_script_and_leads_nowhere_but_to_the_web(page: Page, server: ServerProcess) -> None:
    await page.goto(server.sign_in_link)
    await _ask(page, "script", 1)
    answer = page.locator(".row-message .prose")
    await expect(answer).to_contain_text("<img src=x onerror=alert(1)>")
    assert await answer.locator("img, script").count() == 0
    assert [await link.get_attribute("href") for link in await answer.locator("a").all()] == ["https://h.example/"]


async def test_a_store_that_is_full_or_forbidden_costs_nothing_but_what_a_reload_would_find(
    page: Page, server: ServerProcess
) -> None:
    await page.add_init_script("""
        const refuse = () => { throw new DOMException("full", "QuotaExceededError"); };
        for (const name of ["setItem", "getItem", "removeItem"]) Storage.prototype[name] = refuse;
    """)
    await page.goto(server.sign_in_link)
    await _ask(page, "hello", 1)
    await expect(page.locator(".row-message")).to_contain_text("said: hello")
    await expect(page.locator("#threads a").first).to_have_text("hello")


async def test_a_large_answer_that_cannot_be_had_now_may_be_asked_for_again(page: Page, server: ServerProcess) -> None:
    async def fail(route: Route) -> None:
        await route.abort("connectionrefused")

    await page.goto(server.sign_in_link)
    await _ask(page, "large", 1)
    answer = page.locator(".row-message")
    more = answer.locator("button.more")
    await expect(more).to_be_visible()
    await page.route("**/v1/blobs/*", fail)
    await more.click()
    await expect(more).to_be_enabled()
    await expect(answer).to_contain_text("word word")
    await page.unroute("**/v1/blobs/*")
    await more.click()
    await expect(more).to_have_count(0)
    assert len(await answer.locator(".prose").inner_text()) > 99_000


async def test_a_message_that_waits_for_the_connection_survives_a_reload_and_is_sent_once(
    page: Page, server: ServerProcess
) -> None:
    is_away = False

    async def pass_on(socket: WebSocketRoute) -> None:
        if is_away:
            await socket.close(code=4013)
        else:
            socket.connect_to_server()

    await page.route_web_socket("**/v1/ws", pass_on)
    await page.goto(server.sign_in_link)
    await _ask(page, "one", 1)
    is_away = True
    await page.reload()
    await expect(page.locator("#status")).to_have_attribute("data-state", "reconnecting")
    await page.locator("textarea").fill("two")
    await page.locator("textarea").press("Enter")
    await expect(page.locator("#pending")).to_contain_text("Waits for the connection")
    is_away = False
    await page.reload()
    await expect(page.locator(".row-message").last).to_contain_text("said: two", timeout=20_000)
    await expect(page.locator("#pending li")).to_have_count(0)
    await page.reload()
    await expect(page.locator(".row-end")).to_have_count(2)
    assert await page.locator(".row-user .said").all_inner_texts() == ["one", "two"]
