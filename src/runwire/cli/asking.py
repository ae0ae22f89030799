"""What a run waits for, asked in the terminal that started it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

from rich.markup import escape

from runwire.cli.screen import Screen, Tree
from runwire.client import Client, Event
from runwire.errors import RunwireError
from runwire.protocol.events import TERMINAL_TYPES, EventType

__all__ = ["Asker", "Questions", "Silent", "Teller", "questions", "value_of"]

_LINE_BYTES: Final = 65_536  # as much as an answer may have; a terminal gives at most a line of 4 KiB
_YES: Final = frozenset({"y", "yes"})
_NO: Final = frozenset({"n", "no"})


class Questions(Protocol):
    """Who takes care of the waits of the runs on the screen."""

    def heard(self, event: Event) -> None:
        """Take note of an event that is on the screen."""
        ...


class Silent:
    """Nobody asks: the screen shows the waits."""

    def heard(self, event: Event) -> None:
        """Leave it to others."""


class Teller:
    """Say on standard error how a wait is answered, where nobody can be asked; the run waits on."""

    def heard(self, event: Event) -> None:
        """Say it once for each wait."""
        if event.type == EventType.AGENT_WAITING and event.data.get("kind") != "timer":
            value = "true|false" if event.data.get("kind") == "approval" else "TEXT"
            print(f"waits for you: runwire answer {event.run} {event.data.get('wait')} {value}", file=sys.stderr)


class Asker:
    """Ask for open waits at a terminal, one after the other, oldest first.

    A wait that is answered elsewhere meanwhile, or whose time is over, is asked for no more. It keeps the waits that
    the events on the screen left open: as many as the run has.

    Args:
        client: gives the answers.
        screen: where it asks.
    """

    def __init__(self, client: Client, screen: Tree) -> None:
        self._client = client
        self._screen = screen
        self._open: dict[str, Event] = {}
        self._changed = asyncio.Event()
        self._reading: tuple[str, asyncio.Task[bool]] | None = None  # the wait whose answer is being typed

    def heard(self, event: Event) -> None:
        """Take note of a wait that begins or ends."""
        wait = str(event.data.get("wait"))
        if event.type == EventType.AGENT_WAITING and event.data.get("kind") != "timer":
            self._open[wait] = event
        elif event.type == EventType.AGENT_RESUMED:
            self._drop(wait)
        elif event.type in TERMINAL_TYPES:
            for each in [each for each, opened in self._open.items() if opened.run == event.run]:
                self._drop(each)
        self._changed.set()

    def _drop(self, wait: str) -> None:
        self._open.pop(wait, None)
        if self._reading and self._reading[0] == wait:
            self._reading[1].cancel()

    async def run(self) -> None:
        """Ask until cancelled. At the end of the input there is nobody to ask: it says how to answer from then on."""
        is_there = True
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._changed.wait()
                self._changed.clear()
                while self._open:
                    wait, event = next(iter(self._open.items()))
                    if is_there:
                        asking = tasks.create_task(self._ask(wait, event))
                        self._reading = (wait, asking)
                        await asyncio.wait([asking])
                        is_there = asking.cancelled() or asking.result()
                    if not is_there:
                        Teller().heard(event)
                    self._open.pop(wait, None)

    async def _ask(self, wait: str, event: Event) -> bool:
        """Ask until an answer is taken; False: the input has ended. Cancelled when there is no need any more."""
        is_approval = event.data.get("kind") == "approval"
        while True:
            self._screen.question("  [bold]approve? \\[y/n][/] " if is_approval else "  [bold]answer:[/] ")
            line = await _line()
            if line is None:
                self._screen.close()
                return False
            self._screen.typed()
            given = value_of(line, is_approval=is_approval)
            if given is None:
                continue
            asking, self._reading = self._reading, None  # what is said now is not cut off by its own event
            try:
                await self._client.answer(event.run, wait, given)
            except RunwireError as error:
                self._screen.remark(f"  [yellow]{escape(error.message)}[/]")
                if error.code != "bad_request":
                    return True
            else:
                return True
            self._reading = asking


def value_of(line: str, *, is_approval: bool) -> Any:
    """Return what a typed line says: yes or no, an object or array if it is one, else the text; None: nothing."""
    text = line.strip()
    if is_approval:
        return True if text.lower() in _YES else False if text.lower() in _NO else None
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            pass  # text that looks like it
    return text or None


@asynccontextmanager
async def questions(client: Client, screen: Screen) -> AsyncIterator[Questions]:
    """Give who takes care of waits: somebody who asks if there is a terminal, else somebody who says how."""
    if not isinstance(screen, Tree) or not sys.stdin.isatty() or not sys.stdout.isatty():
        yield Teller()
        return
    asker = Asker(client, screen)
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(asker.run())
        yield asker
        asking.cancel()


async def _line() -> str | None:
    """Read a line of standard input without keeping a thread; None at its end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    number = sys.stdin.fileno()

    def is_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(number, is_ready)
    try:
        await ready
    finally:
        loop.remove_reader(number)
    said = os.read(number, _LINE_BYTES)  # a terminal gives whole lines
    return said.decode(errors="replace") if said else None
