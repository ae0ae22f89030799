"""A started server and a real browser. Without Chromium these tests do not run, and say so; in CI that is a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright

from runwire.testing.server import ServerProcess

ARGUMENTS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if os.environ.get("CI"):  # noqa: TID251 - CI promises a browser
        pytest.fail("CI has no Chromium: .ci/run installs it")
    pytest.skip("not run: no Chromium")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        await started.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    opened = await browser.new_page(viewport={"width": 1200, "height": 900})
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    # Chromium writes a line of its own for each connection that is refused while the server is down.
    assert [text for text in complaints if "ERR_CONNECTION" not in text and "WebSocket connection" not in text] == []


@pytest.fixture
async def demo(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with ServerProcess("runwire.guide:agent", data_dir=tmp_path / "data") as server:
        yield server
