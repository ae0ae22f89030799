"""Random agents of `replay_agents` as code on the real Context; each execution notes what it said, and who said it.

Who is who is told by the program alone: the owner of a scope is the owner around it and its number in the program,
with the count of tries that raised before: `.3/0|g0.1.7/2` is the third try of step 7 in a branch of the first of 3.
What a step does to the world is noted outside of the process that runs it, as another service would.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.unit.protocol.replay_agents import Act, Agent, Await, Call, Delegate, Derive, Now, Parallel, Say
from tests.unit.protocol.replay_screen import Said

import runwire
from runwire import OutcomeUnknown, SubagentFailed, ToolFailed
from runwire.agents.context import Context

__all__ = ["DERIVED", "Execution", "Outside"]

DERIVED = "derived "  # begins what is shown of a derived value


class Outside:
    """The world outside of the worker: what steps did to it, and what is known to be committed of them."""

    def __init__(self) -> None:
        self.begun: set[str] = set()  # keys of steps of which a try has begun, by what is committed
        self.raised: Counter[str] = Counter()  # tries that raised, likewise
        self.finished: set[str] = set()  # likewise
        self.calls: Counter[str] = Counter()  # of functions, by key of the step
        self.faults: list[str] = []

    def call(self, key: str, number: int) -> int:
        """Note that the function of a step is called; return how many of its tries raised."""
        if key not in self.begun:
            self.faults.append(f"step {number} is executed before its beginning is committed")
        if key in self.finished:
            self.faults.append(f"step {number} is executed again after its end was committed")
        self.calls[key] += 1
        return self.raised[key]


@dataclass(slots=True)
class _Place:
    """Where an act stands."""

    owner: str = ""
    path: str = ""  # the tries around it, counted by how many of them raised
    last: Any = "nothing"  # result
    is_writing: bool = False  # the last saying is a message that may go on
    gathers: int = 0


@dataclass(slots=True)
class Execution:
    """One attempt's execution of an agent."""

    agent: Agent
    attempt: int
    chance: random.Random  # when others have their turn
    outside: Outside
    said: dict[str, list[Said]] = field(default_factory=dict)  # by owner
    entered: set[str] = field(default_factory=set)  # owners that it has come to
    has_lost: bool = False  # a step that is not tried again after a crash: the agent goes another way than uncrashed
    _executed: Counter[tuple[str, int]] = field(default_factory=Counter)  # key of a step and how many tries raised

    async def run(self, ctx: Context) -> Any:
        self._enter("")
        await self._perform(ctx, self.agent.acts, _Place())
        if self.agent.end == "raises":
            raise RuntimeError("the agent's own")
        return {"end": True}

    async def _perform(self, ctx: Context, acts: Sequence[Act], place: _Place) -> None:
        for act in acts:
            match act:
                case Say():
                    await self._say(ctx, act, place)
                case Now():
                    await ctx.now()
                case Derive():
                    derived = f"{DERIVED}{ctx.uuid()} {ctx.random()}"
                    self._note(place, "custom", derived)
                    await ctx.custom("show", derived)
                case Call():
                    place.is_writing = False
                    place.last = await self._call(ctx, act, place)
                case Delegate():
                    place.is_writing = False
                    place.last = await self._delegate(ctx, act, place)
                case Parallel():
                    place.is_writing = False
                    await self._gather(ctx, act, place)
                case Await():
                    place.is_writing = False
                    await self._wait(ctx, act, place)
            await self._pause()

    async def _pause(self) -> None:
        """Let others have their turn, sometimes for so long that what was said is committed."""
        drawn = self.chance.random()
        if drawn < 0.3:
            await asyncio.sleep(0.003 if drawn < 0.08 else 0)

    # what it says

    def _note(self, place: _Place, kind: str, what: Any) -> None:
        said = self.said[place.owner]
        if kind == "write":
            if place.is_writing:
                said[-1] = ("message", said[-1][1] + what)
            else:
                said.append(("message", what))
            place.is_writing = True
        else:
            said.append((kind, what))
            place.is_writing = False

    async def _say(self, ctx: Context, act: Say, place: _Place) -> None:
        text = act.text.replace("{last}", str(place.last)).replace("@", f"@{place.path}")
        cuts = (0, *(min(cut, len(text)) for cut in act.cuts), len(text))
        chunks = [text[at:to] for at, to in pairwise(cuts)]
        self._note(place, act.kind, text)
        match act.kind:
            case "thought":
                await ctx.thinking(text)
            case "custom":
                await ctx.custom("show", text)
            case "message":
                await ctx.message(self._streamed(chunks) if act.cuts else text)
            case "stream":
                await ctx.thinking(self._streamed(chunks))
            case "write":
                for chunk in chunks:
                    await ctx.write(chunk)
                    await self._pause()

    async def _streamed(self, chunks: Sequence[str]) -> AsyncIterator[str]:
        for chunk in chunks:
            yield chunk
            await self._pause()

    # what it begins

    def _enter(self, owner: str) -> None:
        self.entered.add(owner)
        self.said[owner] = []

    def _forget(self, owner: str) -> None:
        """Take back what a try said that raised; what finished inside of it stands."""
        for each in [each for each in self.said if re.fullmatch(rf"{re.escape(owner)}(\|g\d+\.\d+)*", each)]:
            del self.said[each]

    def _result(self, number: int) -> str:
        return f"r{number}.{self.attempt}" if self.agent.has_fresh_results else f"r{number}"

    async def _call(self, ctx: Context, act: Call, place: _Place) -> str:
        given: dict[str, Any] = {"number": act.number, "q": [1.0, "x"]}
        try:
            if act.kind == "tool":
                marked = runwire.tool(name=act.name, retry=act.raises + 1, on_crash=act.on_crash)
                return str(await ctx.tool(marked(self._function(ctx, act, place)), **given))
            function = self._function(ctx, act, place)
            retry = act.raises + 1
            return str(await ctx.step(act.name, function, given, retry=retry, on_crash=act.on_crash))
        except OutcomeUnknown:
            self.has_lost = True
            return "unknown"
        except ToolFailed:
            return "failed"

    def _function(self, ctx: Context, act: Call, place: _Place) -> Callable[..., Coroutine[Any, Any, str] | str]:
        owner, path = f"{place.owner}.{act.number}", place.path

        def begin() -> int:
            key = ctx.idempotency_key
            raised = self.outside.call(key, act.number)
            self._executed[key, raised] += 1
            if self._executed[key, raised] > 1:
                self.outside.faults.append(f"a try of step {act.number} is executed twice in one attempt")
            self._forget(f"{owner}/{raised - 1}")
            self._enter(f"{owner}/{raised}")
            return raised

        def end(raised: int) -> str:
            if raised < act.raises or not act.is_ok:
                raise ConnectionError("the tool's own")
            return self._result(act.number)

        async def work(*_args: Any, **_named: Any) -> str:
            raised = begin()
            await self._pause()
            await self._perform(ctx, act.body, _Place(f"{owner}/{raised}", f"{path}/{raised}"))
            return end(raised)

        def blocking_work(*_args: Any, **_named: Any) -> str:
            return end(begin())

        return work if act.body or act.number % 3 else blocking_work

    async def _delegate(self, ctx: Context, act: Delegate, place: _Place) -> str:
        owner = f"{place.owner}.{act.number}"

        async def agent(ctx: Context, _message: Any) -> str:
            self._enter(owner)
            await self._perform(ctx, act.body, _Place(owner, place.path))
            if not act.is_ok:
                raise ConnectionError("the sub-agent's own")
            return self._result(act.number)

        try:
            return str(await ctx.subagent(agent, {"number": act.number}, name=act.agent))
        except SubagentFailed:
            return "failed"

    async def _gather(self, ctx: Context, act: Parallel, place: _Place) -> None:
        async def branch(owner: str, acts: Sequence[Act]) -> None:
            await self._perform(ctx, acts, _Place(owner, place.path, place.last))

        owners = [f"{place.owner}|g{place.gathers}.{index}" for index in range(len(act.branches))]
        place.gathers += 1
        for owner in owners:
            self._enter(owner)
        await ctx.gather(*(branch(owner, acts) for owner, acts in zip(owners, act.branches, strict=True)))
        place.last = "gathered"

    async def _wait(self, ctx: Context, act: Await, place: _Place) -> None:
        prompt = {"number": act.number, "left": act.is_left}
        if act.is_left:
            try:
                async with asyncio.timeout(0):
                    await ctx.ask(prompt)
            except TimeoutError:
                pass
        elif act.kind == "timer":
            await ctx.sleep(0.005 * (act.number % 5))
            place.last = None
        elif act.kind == "approval":
            place.last = await ctx.approve(prompt)
        else:
            place.last = await ctx.ask(prompt)
