"""Waits on the page: asked once, answered from any tab, there after a reload and a kill; failed runs tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from runwire.testing.server import ServerProcess

AGENTS = Path(__file__).resolve().parent.parent / "agents" / "waiting.py"
SOON_MS = 15_000

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with ServerProcess(str(AGENTS), data_dir=tmp_path / "data", cwd=tmp_path) as started:
        yield started


async def _open(page: Page, server: ServerProcess) -> None:
    await page.goto(server.sign_in_link)
    await expect(page.locator("#status")).to_have_attribute("data-state", "live", timeout=SOON_MS)
    await expect(page.locator("#agent option").first).to_be_attached()


async def _ask(page: Page, agent: str, text: str) -> Locator:
    """Ask an agent, and return the card of what it waits for."""
    await page.locator("#agent").select_option(agent)
    await page.locator("#message").fill(text)
    await page.locator("#message").press("Enter")
    card = page.locator(".row-wait").last
    await expect(page.locator(".row-wait[data-status=open]")).to_be_visible(timeout=SOON_MS)
    return card


async def _ended(page: Page, *, count: int = 1) -> None:
    await expect(page.locator(".row-end")).to_have_count(count, timeout=SOON_MS)


def _deleted(folder: Path) -> list[str]:
    mark = folder / "deleted"
    return mark.read_text(encoding="utf-8").splitlines() if mark.exists() else []


async def test_what_an_agent_asks_is_answered_with_keys_or_buttons(
    page: Page, server: ServerProcess, tmp_path: Path
) -> None:
    await _open(page, server)
    card = await _ask(page, "approves", "<b>/srv</b>")
    region = page.get_by_role("region", name="Your approval is needed")
    await expect(region).to_contain_text("Delete everything in <b>/srv</b>?")  # as text
    await expect(page).to_have_title("● Runwire waits for you")
    await expect(page.locator("#hint")).to_contain_text("Waits for you")
    await region.get_by_role("button", name="Approve").focus()
    await page.keyboard.press("Enter")
    await expect(card).to_contain_text("You approved this.", timeout=SOON_MS)
    await expect(card.locator(".wait-outcome")).to_be_focused()
    await _ended(page)
    assert _deleted(tmp_path) == ["<b>/srv</b>"]

    card = await _ask(page, "approves", "/home")
    await card.get_by_role("button", name="Reject").click()
    await expect(card).to_contain_text("You rejected this.", timeout=SOON_MS)
    await _ended(page, count=2)
    assert len(_deleted(tmp_path)) == 1

    card = await _ask(page, "asks", "a trip")
    await expect(card).to_contain_text("in 10 min")
    await page.get_by_label("Your answer").fill("Ulm")
    await page.get_by_label("Your answer").press("Enter")
    await expect(page.locator(".row-message").last).to_contain_text("Going to Ulm.", timeout=SOON_MS)
    await expect(page).to_have_title("Runwire")
    await page.reload()
    await _ended(page, count=3)
    outcomes = [text.strip() for text in await page.locator(".wait-outcome").all_inner_texts()]
    assert outcomes == ["You approved this.", "You rejected this.", "You answered: Ulm"]


async def test_of_two_tabs_that_answer_at_once_one_wins_and_the_other_is_told(
    browser: Browser, server: ServerProcess
) -> None:
    await server.create_user("ann", password="correct horse battery staple")
    tabs = [await browser.new_page() for _ in range(2)]
    for tab in tabs:
        await tab.goto(server.url)
        await tab.locator("#user").fill("ann")
        await tab.locator("#password").fill("correct horse battery staple")
        await tab.locator("#password").press("Enter")
        await expect(tab.locator("#agent option").first).to_be_attached(timeout=SOON_MS)
    await _ask(tabs[0], "approves", "/srv")
    await tabs[1].goto(tabs[0].url)
    await expect(tabs[1].get_by_role("button", name="Reject")).to_be_visible(timeout=SOON_MS)
    async with asyncio.TaskGroup() as tasks:
        # Not a click of the mouse, which would wait: a card may close under the finger.
        for tab, name in zip(tabs, ("Approve", "Reject"), strict=True):
            tasks.create_task(tab.locator(".wait-form button", has_text=name).evaluate("(button) => button.click()"))
    told = [tab.locator("#told") for tab in tabs]
    for tab in tabs:
        await _ended(tab)
    outcomes = [await tab.locator(".wait-outcome").inner_text() for tab in tabs]
    assert outcomes[0] == outcomes[1]
    loser = told[1] if outcomes[0] == "You approved this." else told[0]
    await expect(loser).to_have_text("You have answered this otherwise, elsewhere.", timeout=SOON_MS)
    assert [await each.count() for each in told].count(1) == 1


async def test_a_card_is_there_after_a_reload_and_after_kill_9_and_what_it_asks_is_done_once(
    page: Page, server: ServerProcess, tmp_path: Path
) -> None:
    await _open(page, server)
    await _ask(page, "delegates", "clean up")
    await page.reload()
    open_card = page.locator(".row-wait[data-status=open]")
    await expect(open_card).to_contain_text("May the helper go on?", timeout=SOON_MS)
    await server.kill9()
    await expect(page.locator("#status")).to_have_attribute("data-state", "reconnecting", timeout=SOON_MS)
    await open_card.get_by_role("button", name="Approve").click()  # waits for the connection, and is not lost
    await expect(open_card).to_contain_text("Sending your answer")
    await server.start()
    await _ended(page)
    assert await page.locator(".row-wait").count() == 1
    await expect(page.locator(".row-wait")).to_contain_text("You approved this.")
    await expect(page.locator(".row-span")).to_have_attribute("data-status", "ok")
    assert await page.locator(".row-span").count() == 1
    for inside in (".row-tool", ".row-message"):
        await expect(page.locator(f"{inside}[data-depth='1']")).to_have_count(1)
    assert await page.locator(".row-message .speaker").inner_text() == "helper"
    await expect(page.locator(".row-end")).to_contain_text('"the helper": "helped"')
    assert _deleted(tmp_path) == ["tmp"]


async def test_a_failed_run_is_tried_again_and_a_sleeping_one_counts_down_and_is_stopped(
    page: Page, server: ServerProcess
) -> None:
    await _open(page, server)
    await page.locator("#agent").select_option("fails_first")
    await page.locator("#message").fill("please")
    await page.locator("#message").press("Enter")
    await page.get_by_role("button", name="Try again").click(timeout=SOON_MS)
    await _ended(page, count=2)
    await expect(page.locator(".row-message")).to_contain_text("It worked this time.")
    await expect(page.locator(".row-end").first).to_contain_text("Tried again below.")
    assert await page.locator(".row-user .said").all_inner_texts() == ["please", "please"]
    card = await _ask(page, "sleeps", "600")
    await expect(card).to_contain_text("in 10 min")
    await page.keyboard.press("Escape")
    await _ended(page, count=3)
    await expect(page.locator(".row-wait")).to_contain_text("The run ended first.")
