"""Somebody who is over a limit sees so on the page, and when to try again; what was typed is not lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from runwire.testing.server import ServerProcess

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]

_AGENT = Path(__file__).resolve().parent.parent / "agents" / "thrifty.py"


async def test_who_is_over_a_limit_reads_when_to_try_again_and_keeps_what_was_typed(page: Page, tmp_path: Path) -> None:
    (tmp_path / "runwire.toml").write_text("user_messages_per_minute = 1\ndefault_agent = 'plain'\n", encoding="utf-8")
    async with ServerProcess(str(_AGENT), data_dir=tmp_path / "data", cwd=tmp_path) as server:
        await page.goto(server.sign_in_link)
        await expect(page.locator("#status")).to_have_attribute("data-state", "live")
        await page.locator("#message").fill("first")
        await page.locator("#message").press("Enter")
        await expect(page.locator(".row-end")).to_contain_text("Completed", timeout=20_000)
        await page.locator("#message").fill("second")
        await page.locator("#message").press("Enter")
        said = page.get_by_text(re.compile(r"You may send 1 messages a minute; try again in \d+ s\."))
        await expect(said).to_be_visible(timeout=20_000)
        await expect(page.locator("#message")).to_have_value("second")
