"""The page over everything that happens to a laptop, a network and a server: what is on screen is the log, once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect
from tests.e2e.conftest import ARGUMENTS, chromium
from tests.e2e.wire import Wire

from runwire.testing.server import ServerProcess

AGENT = Path(__file__).with_name("voyage.py")
PARTS = ["".join(f"[{part}.{n}]" for n in range(10)) for part in range(24)]
LIFE_S = 2.0  # ping_s + pong_s below
PASSWORD = "correct horse battery staple"
END_MS = 40_000

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with Wire() as made:
        yield made


@pytest.fixture
async def server(tmp_path: Path, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ServerProcess]:
    monkeypatch.setenv("RUNWIRE_PING_S", "1")
    monkeypatch.setenv("RUNWIRE_PONG_S", "1")
    monkeypatch.setenv("RUNWIRE_ALLOWED_ORIGINS", wire.url)
    async with ServerProcess(f"{AGENT}:voyage", data_dir=tmp_path / "data", cwd=tmp_path) as started:
        wire.to_port = started.port
        monkeypatch.delenv("RUNWIRE_ALLOWED_ORIGINS")  # an http origin is for `runwire dev`, other verbs refuse it
        yield started


async def _ask(page: Page, text: str) -> None:
    await page.locator("#message").fill(text)
    await page.locator("#message").press("Enter")


async def _begin(page: Page, server: ServerProcess, *, wire: Wire | None = None) -> None:
    """Sign in by link, ask, and wait until a part of the run is on screen."""
    link = server.sign_in_link
    await page.goto(link.replace(server.url, wire.url) if wire else link)
    await expect(page.locator("#status")).to_have_attribute("data-state", "live", timeout=20_000)
    await _ask(page, "a trip")
    await expect(page.locator(".row-message").nth(3)).to_be_visible(timeout=20_000)
    await _watch(page)


async def _watch(page: Page) -> None:
    """Let the page remember each state that it shows from now on: one may be over before anybody looks."""
    await page.evaluate("""() => {
      window.statesShown = [];
      const status = document.getElementById("status");
      new MutationObserver(() => window.statesShown.push(status.dataset.state))
        .observe(status, { attributeFilter: ["data-state"] });
    }""")


async def _showed(page: Page, state: str) -> None:
    await page.wait_for_function("(state) => window.statesShown.includes(state)", arg=state, timeout=20_000)


async def _state(page: Page, *names: str) -> None:
    await expect(page.locator("#status")).to_have_attribute("data-state", re.compile("|".join(names)), timeout=20_000)


async def _get(page: Page, url: str, key: str) -> Any:
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
    answer = await page.context.request.get(url, headers=headers)
    assert answer.status == 200, await answer.text()
    return json.loads(await answer.body())


async def _log(page: Page, url: str, key: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    after = 0
    while True:
        body = await _get(page, f"{url}/events?after={after}", key)
        events += body["events"]
        if not body["events"] or body["through"] == after:
            return events
        after = body["through"]


async def _assert_the_screen_is_the_log(page: Page, server: ServerProcess, *, user: str = "developer") -> None:
    """Each word, thought, tool and event that the thread has is on screen, once, in its order, and nothing else."""
    await expect(page.locator(".row-end")).to_contain_text("Completed", timeout=END_MS)
    key = await server.create_token(user)
    thread = f"{server.url}/v1/threads/{await page.evaluate('() => location.hash.slice(1)')}"
    stored, log = await _get(page, thread, key), await _log(page, thread, key)
    said = [text.strip() for text in await page.locator(".row-message .prose").all_inner_texts()]
    assert said == [m["content"] for m in stored["messages"] if m["role"] == "assistant"] == PARTS
    asked = [text.strip() for text in await page.locator(".row-user .said").all_inner_texts()]
    assert asked == [m["content"] for m in stored["messages"] if m["role"] == "user"]
    assert await page.locator("#pending li").count() == 0
    tools = await page.locator(".row-tool .tool-status").all_inner_texts()
    steps = stored["runs"][0]["steps"]
    assert tools == ["done" if step["ok"] else "cut off, will be repeated" for step in steps]
    assert tools.count("done") == 24
    thoughts = [text.strip() for text in await page.locator(".row-thinking .thought").all_inner_texts()]
    assert thoughts == [event["data"]["text"] for event in log if event["type"] == "agent_thinking"]
    words = re.findall(r"\[\d+\.\d+\]", await page.locator("#timeline").inner_text())
    assert len(words) == len(set(words)) == 240
    # The list of raw events: every seq of the view, once.
    assert int(await page.locator("#events-count").text_content() or 0) == len(log)
    await page.locator("#events-toggle").click()
    seqs = [int(text) for text in await page.locator("#events-list .event-seq").all_text_contents()]
    assert seqs == [event["seq"] for event in log][-len(seqs) :]
    assert len(seqs) >= min(len(log), 400)


async def test_a_reload_in_mid_run(page: Page, server: ServerProcess) -> None:
    await _begin(page, server)
    for count in (8, 12):
        await page.reload()
        await expect(page.locator(".row-message").nth(count)).to_be_visible(timeout=20_000)
        assert (await page.locator(".row-message .prose").first.inner_text()).strip() == PARTS[0]
    await _assert_the_screen_is_the_log(page, server)


async def test_a_network_that_is_cut_and_comes_back(page: Page, server: ServerProcess, wire: Wire) -> None:
    await _begin(page, server, wire=wire)
    for count in (6, 9, 12):
        wire.cut()
        await expect(page.locator(".row-message").nth(count)).to_be_visible(timeout=20_000)
    await wire.block()
    wire.cut()
    await _showed(page, "reconnecting")
    await expect(page.locator("#try-now")).to_be_visible(timeout=20_000)
    await wire.unblock()
    await _assert_the_screen_is_the_log(page, server)


async def test_a_browser_that_goes_offline(page: Page, server: ServerProcess, wire: Wire) -> None:
    await _begin(page, server, wire=wire)
    await page.context.set_offline(True)
    wire.stall()  # an open socket is not told that the network went
    await _showed(page, "reconnecting")
    await page.context.set_offline(False)
    await _assert_the_screen_is_the_log(page, server)


async def test_a_network_that_swallows_everything(page: Page, server: ServerProcess, wire: Wire) -> None:
    await _begin(page, server, wire=wire)
    wire.stall()
    await _showed(page, "reconnecting")
    await _assert_the_screen_is_the_log(page, server)


async def test_words_sent_into_a_dead_network_are_said_once(page: Page, server: ServerProcess, wire: Wire) -> None:
    await page.goto(server.sign_in_link.replace(server.url, wire.url))
    await _state(page, "live")
    wire.stall(to_client=True)  # the server hears it, the reply is lost
    await _ask(page, "a trip")
    await expect(page.locator("#pending li")).to_have_count(1)
    await _assert_the_screen_is_the_log(page, server)
    assert await page.locator(".row-user").count() == 1


async def test_a_server_that_is_killed_and_started_again(page: Page, server: ServerProcess) -> None:
    await _begin(page, server)
    for count in (6, 12):
        await server.kill9()
        await _showed(page, "reconnecting")
        await server.start()
        await expect(page.locator(".row-message").nth(count)).to_be_visible(timeout=END_MS)
    await _assert_the_screen_is_the_log(page, server)


async def test_two_tabs_of_which_one_leaves_and_one_signs_out(browser: Browser, server: ServerProcess) -> None:
    await server.create_user("ann", password=PASSWORD)
    tabs = [await browser.new_page() for _ in range(3)]
    for tab in tabs:
        await tab.goto(server.url)
        await tab.locator("#user").fill("ann")
        await tab.locator("#password").fill(PASSWORD)
        await tab.locator("#password").press("Enter")
        await _state(tab, "live")
    stays, leaves, signs_out = tabs
    await _ask(stays, "a trip")
    await expect(stays.locator(".row-message").first).to_be_visible(timeout=20_000)
    for tab in (leaves, signs_out):
        await tab.goto(stays.url)
        await expect(tab.locator(".row-message").nth(2)).to_be_visible(timeout=20_000)
        assert (await tab.locator(".row-message .prose").first.inner_text()).strip() == PARTS[0]
    await leaves.close()
    await signs_out.locator("#sign-out").click()
    await expect(signs_out.locator("#sign-in")).to_be_visible()
    await expect(signs_out.locator("#timeline > *")).to_have_count(0)
    await expect(signs_out.locator("#threads > *")).to_have_count(0)
    await _assert_the_screen_is_the_log(stays, server, user="ann")
    await expect(stays.locator("#status")).not_to_have_attribute("data-state", "expired")


async def test_two_tabs_show_the_same_to_the_end(browser: Browser, server: ServerProcess) -> None:
    await server.create_user("ann", password=PASSWORD)
    tabs = [await browser.new_page() for _ in range(2)]
    for tab in tabs:
        await tab.goto(server.url)
        await tab.locator("#user").fill("ann")
        await tab.locator("#password").fill(PASSWORD)
        await tab.locator("#password").press("Enter")
        await _state(tab, "live")
    await _ask(tabs[0], "a trip")
    await expect(tabs[0].locator(".row-message").first).to_be_visible(timeout=20_000)
    await tabs[1].goto(tabs[0].url)
    for tab in tabs:
        await _assert_the_screen_is_the_log(tab, server, user="ann")


# ---- laptop sleep


def _descendants(pid: int) -> list[int]:
    """Return a process and everything that it started, from /proc."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text(encoding="utf-8")
            except OSError:
                continue  # gone meanwhile
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found


def _pid_with(word: str) -> int:
    """Return the process that was started with this word and whose parent was not."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdecimal() else []
        except OSError:
            continue
        if word.encode() in words:
            found.append(int(folder.name))
    (first,) = [pid for pid in found if len({*_descendants(pid)} & {*found}) == len(found)]
    return first


@asynccontextmanager
async def _asleep(pids: list[int]) -> AsyncIterator[None]:
    """Let processes stand still; whatever happens, they go on."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
async def laptop() -> AsyncIterator[tuple[Page, Callable[[], list[int]]]]:
    """A browser whose processes are known."""
    mark = f"--runwire-laptop={uuid.uuid4().hex}"
    path = chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, mark])
        yield await browser.new_page(), lambda: _descendants(_pid_with(mark))
        await browser.close()


@pytest.mark.parametrize("who", ["laptop", "browser", "server"])
async def test_sleep_for_longer_than_a_connection_lives(
    laptop: tuple[Page, Callable[[], list[int]]], server: ServerProcess, who: str
) -> None:
    page, browser_pids = laptop
    await _begin(page, server)
    pids = browser_pids() if who != "server" else []
    assert len(pids) > 2 or who == "server", "the browser, and processes of its pages"
    if who != "browser":
        pids += _descendants(server.pid)
    async with _asleep(pids):
        await asyncio.sleep(2 * LIFE_S)  # the sleep itself is what is tested
    await _assert_the_screen_is_the_log(page, server)
    await _state(page, "live", "caught-up")
