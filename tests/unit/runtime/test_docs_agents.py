"""Every agent on the pages about the Context is run as it stands there, by people who answer."""

from __future__ import annotations

import asyncio
import re
import sys
from types import ModuleType
from typing import Any

import pytest
from tests.unit.runtime.bench import QUICK, Bench, bench

from runwire.guide import docs_root
from runwire.protocol.events import decode_data
from runwire.storage.base import CancelRequest, Wake

PAGES = ("reference/agent-api.md", "how-to/ask-a-person.md")
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    (f"{page}:{text.count(chr(10), 0, found.start()) + 1}", found.group(1))
    for page in PAGES
    for text in [(docs_root() / page).read_text(encoding="utf-8")]
    for found in FENCE.finditer(text)
    if "async def agent(" in found.group(1)
]


@pytest.mark.parametrize(("place", "code"), BLOCKS, ids=[place for place, _ in BLOCKS])
async def test_an_agent_of_the_documentation_does_what_it_says(
    place: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("shown")
    monkeypatch.setitem(sys.modules, "shown", module)  # dataclasses look their module up
    exec(compile(code, place, "exec"), module.__dict__)
    async with bench(module.agent, settings=QUICK) as b:
        run = await b.send("Good morning")
        async with asyncio.TaskGroup() as tasks:
            answering = tasks.create_task(_answer(b, run, ["two", "2"] if "WrongAnswer" in code else ["2"]))
            events = await b.ended(run)
            answering.cancel()
    sleeps_for_days = "days=" in code
    assert events[-1].type == ("agent_cancelled" if sleeps_for_days else "agent_completed"), events[-1]


async def _answer(b: Bench, run: str, answers: list[str]) -> None:
    """Approve everything, give these answers and the last one again and again, and do not wait for days."""
    seen: dict[str, Any] = {}

    async def is_asked() -> bool:
        waits = [decode_data(event) for event in await b.events(run) if event.type == "agent_waiting"]
        for each in waits:
            if each.wait in seen:
                continue
            seen[each.wait] = each
            if each.kind != "timer":
                value = True if each.kind == "approval" else answers.pop(0) if len(answers) > 1 else answers[0]
                await b.storage.runs.answer("usr_ann", run, each.wait, value)
                b.bus.publish(Wake(topic="signals"))
            elif each.due_at > 60_000 + (await b.row(run)).created_at:
                await b.storage.runs.cancel("usr_ann", run, CancelRequest(by="user"))
        return False

    await b.until(is_asked)


def test_there_are_agents_to_run() -> None:
    assert len(BLOCKS) >= 12
