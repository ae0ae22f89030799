"""`runwire run`, `tail`, `replay`, `answer` and `retry`: a run in the terminal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from runwire.cli.accounts import DataDir
from runwire.cli.asking import Questions, Silent, questions, value_of
from runwire.cli.place import TokenOption, UrlOption, connected
from runwire.cli.screen import JsonLines, Screen, Tree
from runwire.client import Client, Event
from runwire.errors import NotFound, ProtocolError
from runwire.protocol.events import TERMINAL_TYPES, EventType

__all__ = ["answer", "replay", "retry", "run", "tail"]

_Json = Annotated[bool, typer.Option("--json", help="One JSON object per event.")]
_PROGRESS_AFTER_S: Final = 1.0
_APPROVALS: Final = {"true": True, "false": False, "yes": True, "no": False, "y": True, "n": False}


def run(
    message: Annotated[str, typer.Argument(help="What to say.")],
    agent: Annotated[str | None, typer.Option(help="To whom; default: the server's.")] = None,
    thread: Annotated[str | None, typer.Option(help="In this thread; default: a new one.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="Agent to load if no server runs; default: \\[tool.runwire] of pyproject.toml."),
    ] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    data_dir: DataDir = None,
    as_json: _Json = False,
) -> None:
    """Run an agent once and watch it; exit status 0 if it completed. At a terminal you are asked what it asks."""

    async def talk() -> int:
        async with connected(url, token, data_dir, targets=tuple(target or ())) as client:
            started = await client.send(message, agent=agent, thread=thread)
            return await _attend(client, started.events(), as_json)

    _exit(talk())


def retry(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Which run; it has ended.")],
    url: UrlOption = None,
    token: TokenOption = None,
    data_dir: DataDir = None,
    as_json: _Json = False,
) -> None:
    """Start a new run with the message of one that has ended, and watch it like `run`."""

    async def again() -> int:
        async with connected(url, token, data_dir) as client:
            started = await client.retry(run_id)
            return await _attend(client, started.events(), as_json)

    _exit(again())


def answer(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Which run.")],
    wait: Annotated[str, typer.Argument(metavar="WAIT", help="What it waits for, as `run` and `tail` show it.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="true or false for an approval; text, or JSON.")],
    url: UrlOption = None,
    token: TokenOption = None,
    data_dir: DataDir = None,
) -> None:
    """Answer what a run waits for; the first answer wins."""

    async def give() -> int:
        async with connected(url, token, data_dir) as client:
            asked = {each["wait"]: each for each in (await client.http.run(run_id))["waits"]}
            is_approval = asked.get(wait, {}).get("kind") == "approval"
            given = _APPROVALS.get(value.lower()) if is_approval else value_of(value, is_approval=False)
            if is_approval and given is None:
                raise ProtocolError("An approval is answered with true or false.", field="VALUE")
            await client.answer(run_id, wait, "" if given is None else given)
            return 0

    _exit(give())


def tail(
    of: Annotated[str | None, typer.Argument(metavar="[THREAD|RUN]", help="Default: the newest thread.")] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    data_dir: DataDir = None,
    as_json: _Json = False,
) -> None:
    """Follow a thread, or one run to its end; goes on by itself after a lost connection."""

    async def follow() -> int:
        async with connected(url, token, data_dir) as client:
            thread, only = await _find(client, of)
            return await _show(_of_run(client.events(thread), only), _screen(as_json), Silent())

    _exit(follow())


def replay(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Which run.")],
    speed: Annotated[float, typer.Option(min=0, help="1: as it was; 10: ten times as fast; 0: at once.")] = 1.0,
    url: UrlOption = None,
    token: TokenOption = None,
    data_dir: DataDir = None,
    as_json: _Json = False,
) -> None:
    """Show a run again, at its own pace. Nothing is executed."""

    async def play() -> int:
        async with connected(url, token, data_dir) as client:
            thread = (await client.http.run(run_id))["thread"]
            return await _show(_paced(_of_run(client.events(thread), run_id), speed), _screen(as_json), Silent())

    _exit(play())


async def _find(client: Client, of: str | None) -> tuple[str, str | None]:
    if of is None:
        newest = (await client.http.threads(limit=1))["items"]
        if not newest:
            raise NotFound("There is no thread yet; `runwire run` makes one.")
        return newest[0]["thread"], None
    if of.startswith("run_"):
        return (await client.http.run(of))["thread"], of
    return of, None


async def _of_run(items: Any, only: str | None) -> AsyncIterator[Any]:
    """Give the items of one run up to its terminal event; with None all, without end."""
    async with aclosing(items):
        async for item in items:
            if only is None or (isinstance(item, Event) and item.run == only):
                yield item
                if only is not None and item.type in TERMINAL_TYPES:
                    return


async def _paced(items: AsyncIterator[Any], speed: float) -> AsyncIterator[Any]:
    before: int | None = None
    async for item in items:
        if isinstance(item, Event):
            if before is not None and speed > 0:
                await asyncio.sleep(max(0, item.ts - before) / 1000 / speed)
            before = item.ts
        yield item


async def _attend(client: Client, items: Any, as_json: bool) -> int:
    """Show a run that this person has started, and ask what it asks."""
    screen = _screen(as_json)
    async with questions(client, screen) as asked:
        return await _show(items, screen, asked)


async def _show(items: Any, screen: Screen, asked: Questions) -> int:
    """Show the items; the exit status says how the last run ended."""
    last: Event | None = None
    try:
        async with _progress() as heard:
            async for item in items:
                heard()
                screen.show(item)
                if isinstance(item, Event):
                    asked.heard(item)
                    last = item
    finally:
        screen.close()
    return 1 if last and last.type in TERMINAL_TYPES and last.type != EventType.AGENT_COMPLETED else 0


@asynccontextmanager
async def _progress() -> AsyncIterator[Any]:
    """Say on standard error that we wait, once nothing has come for a second; never in a pipe."""
    status = Console(stderr=True).status("waiting for the agent…")
    timer = asyncio.get_running_loop().call_later(_PROGRESS_AFTER_S, status.start)

    def heard() -> None:
        timer.cancel()
        status.stop()

    try:
        yield heard
    finally:
        heard()


def _screen(as_json: bool) -> Screen:
    return JsonLines() if as_json else Tree()


def _exit(work: Coroutine[Any, Any, int]) -> None:
    raise typer.Exit(asyncio.run(work))
