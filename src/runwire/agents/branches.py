"""`ctx.gather`: several coroutines of one agent at once, each a branch with a place of its own."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from runwire.agents.attempt import Attempt, Place
from runwire.agents.options import refused
from runwire.agents.steps import unwinds
from runwire.protocol.replay import Replay

__all__ = ["MAX_BRANCHES", "close_all", "gather"]

MAX_BRANCHES: Final = 1000


@dataclass(slots=True, kw_only=True)
class _Branch:
    """How a branch ended."""

    scope: str
    work: Awaitable[Any]
    value: Any = None
    raised: BaseException | None = None
    is_unwound: bool = False  # what it raised is about the run, and no result


async def gather(attempt: Attempt, place: Place, works: Sequence[Awaitable[Any]], *, return_exceptions: bool) -> Any:
    """Run the coroutines as branches; return their results in order once all have ended.

    Raises:
        PayloadError: something else than coroutines, too many, or one twice.
        BaseException: what the first branch, in their order, raised.
    """
    _check(works)
    place.open_bytes = 0
    scope = place.scope
    begun = await attempt.begin(lambda replay: replay.begin_gather(scope, len(works)))
    branches = [_Branch(scope=each, work=work) for each, work in zip(begun.scopes, works, strict=True)]
    if branches:
        async with asyncio.TaskGroup() as tasks:
            # None runs before all have a place: they are tasks, and nothing is awaited in between.
            attempt.fork(
                {
                    tasks.create_task(_run(attempt, each)): Place(scope=each.scope, depth=place.depth)
                    for each in branches
                }
            )
    try:
        for each in branches:
            # In the order of the branches and not of time, or a replay, which has no time, would raise another one.
            if each.raised is not None and (each.is_unwound or not return_exceptions or not _is_result(each.raised)):
                raise each.raised
        return [each.value if each.raised is None else each.raised for each in branches]
    finally:
        # What was raised knows the frames it went through, and they know the branches: the ended run would wait for
        # the collector with all that it has read.
        for each in branches:
            each.raised = None


def close_all(works: Sequence[object]) -> None:
    """Close the coroutines that were never awaited, which would warn of it; nothing happens to the others."""
    for work in works:
        if inspect.iscoroutine(work):
            with contextlib.suppress(RuntimeError, ValueError):  # one that ignores it, or is executing
                work.close()


async def _run(attempt: Attempt, branch: _Branch) -> None:
    """Run a branch; raises nothing but its cancellation, so that the others go on to their ends."""
    try:
        try:
            branch.value = await branch.work
        except BaseException as raised:  # the user's code; its failure belongs to the branch alone
            if isinstance(raised, asyncio.CancelledError | GeneratorExit) and unwinds(attempt, raised):
                raise
            branch.raised, branch.is_unwound = raised, unwinds(attempt, raised)
        if not branch.is_unwound:
            await _end(attempt, branch)
    except asyncio.CancelledError:
        attempt.cut(lambda replay: replay.end_scope(branch.scope))
        raise


async def _end(attempt: Attempt, branch: _Branch) -> None:
    try:
        await attempt.say(Replay.end_scope, branch.scope)
    except Exception as raised:  # the run is over, or fails
        branch.raised, branch.is_unwound = branch.raised or raised, True


def _is_result(raised: BaseException) -> bool:
    return isinstance(raised, Exception | asyncio.CancelledError)


def _check(works: Sequence[object]) -> None:
    if len(works) > MAX_BRANCHES:
        raise refused("gather", f"takes up to {MAX_BRANCHES} coroutines, not {len(works)}; work through them in parts")
    for number, work in enumerate(works, start=1):
        if not inspect.isawaitable(work):
            raise refused("gather", f"takes coroutines, and argument {number} is {_called(work)}")
    if len({id(work) for work in works}) < len(works):
        raise refused("gather", "was given the same coroutine twice; call the function once for each branch")


def _called(work: object) -> str:
    kind = f"of type {type(work).__name__}"
    if isinstance(work, list | tuple | set) or inspect.isgenerator(work):
        return f"{kind}: write `ctx.gather(*coroutines)`, with an asterisk"
    if inspect.isasyncgen(work):
        return "an async generator: gather `async def` functions that return, or ctx.subagent for an agent that yields"
    if callable(work):
        return f"{kind}: call it, as in `ctx.gather(work(1), work(2))`"
    return f"{kind}; write `ctx.gather(work(1), work(2))`"
