"""The agents of the minimal server that a check asks for by name; each is given the run, and says by `emit`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.conformance.minimal_run import Emit, Failed, Frame, Run, say, with_tool

Named = Callable[["Breakers", Run, Emit], Awaitable[Any]]


class Breakers:
    """Whether what `check_provider` asks is away, by its name; ten failures open."""

    OPEN_S = 0.02

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self.until: dict[str, float] = {}

    async def ask(self, how: str, name: str) -> str:
        now = asyncio.get_running_loop().time()
        if self.failures.get(name, 0) >= 10 and now < self.until[name]:
            raise Failed("circuit_open", retry_after_s=self.OPEN_S)
        if how == "fail":
            self.failures[name] = self.failures.get(name, 0) + 1
            self.until[name] = now + self.OPEN_S
            raise Failed("agent_error")
        self.failures[name] = 0
        return name


async def check_plain(_: Breakers, run: Run, emit: Emit) -> str:
    return await say(f"You said: {run.content}", emit)


async def check_tool(_: Breakers, run: Run, emit: Emit) -> str:
    return await with_tool(run.content, emit)


async def check_slow(_: Breakers, run: Run, emit: Emit) -> str:
    await emit("agent_thinking", {"text": "This takes a while."})
    await asyncio.sleep(60)
    return "done"


async def check_fails(_: Breakers, run: Run, emit: Emit) -> str:
    raise Failed("agent_error")


async def check_deadline(_: Breakers, run: Run, emit: Emit) -> str:
    raise Failed("deadline_exceeded")


async def check_steps(_: Breakers, run: Run, emit: Emit) -> str:
    for number in range(6):
        await emit("agent_thinking", {"text": f"step {number}"})
        await asyncio.sleep(0.02)
    return "done"


async def check_asks(_: Breakers, run: Run, emit: Emit) -> str:
    wait: Frame = {"wait": f"wait_{run.run[4:]}", "kind": "input", "by": None}
    run.waits.append(wait)
    await emit("agent_waiting", {"wait": wait["wait"], "kind": "input", "prompt": "What?"})
    await run.answered.wait()
    return f"You answered: {wait['value']}"


async def check_provider(breakers: Breakers, run: Run, emit: Emit) -> str:
    how, _, name = run.content.partition(" ")
    return await breakers.ask(how, name)


NAMED: dict[str, Named] = {
    each.__name__: each
    for each in (
        check_plain,
        check_tool,
        check_slow,
        check_fails,
        check_deadline,
        check_steps,
        check_asks,
        check_provider,
    )
}
