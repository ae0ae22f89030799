"""How a run looks in a terminal: a tree that grows, or one JSON object per line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec
from rich.console import Console
from rich.markup import escape

from runwire.client import Event, Reset
from runwire.protocol.events import EventType

__all__ = ["JsonLines", "Screen", "Tree"]

_SHOWN_CHARS = 120  # of a tool's arguments or result on its line


class Screen(Protocol):
    """Something that shows events as they come."""

    def show(self, item: Event | Reset) -> None:
        """Show the next item."""
        ...

    def close(self) -> None:
        """End what is open on the screen."""
        ...


class JsonLines:
    """One JSON object per line, flushed: for programs."""

    def show(self, item: Event | Reset) -> None:
        """Print the item."""
        print(msgspec.json.encode(item).decode(), flush=True)

    def close(self) -> None:
        """Nothing is open."""


class Tree:
    """A line per step; the answer streams below them. Colours only on a terminal and without NO_COLOR."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._shown: dict[str, int] = {}  # message → code points on the screen
        self._waits: dict[str, str] = {}  # open waits and their kinds
        self._is_mid_line = False

    def show(self, item: Event | Reset) -> None:
        """Draw what the item adds."""
        if isinstance(item, Reset):
            self._line(f"[yellow]↺ history starts again ({item.reason})[/]")
            return
        if item.type == EventType.TEXT_DELTA:
            self._stream(str(item.data.get("message")), int(item.data.get("offset", 0)), str(item.data.get("text")))
        elif item.type == EventType.MESSAGE_COMPLETED:
            self._stream(str(item.data.get("message")), 0, _text(item.data.get("content")))
            self.close()
        elif item.type == EventType.AGENT_RESUMED:
            self._line(_resumed_line(item.data, kind=self._waits.pop(str(item.data.get("wait")), None)))
        elif line := _LINES.get(item.type):
            if item.type == EventType.AGENT_WAITING:
                self._waits[str(item.data.get("wait"))] = str(item.data.get("kind"))
            self._line(line(item.data))

    def question(self, markup: str) -> None:
        """Ask on a line of its own; what comes before the answer begins a new one."""
        self.close()
        self._console.print(markup, end="")
        self._is_mid_line = True

    def typed(self) -> None:
        """Note that a person ended the line."""
        self._is_mid_line = False

    def remark(self, markup: str) -> None:
        """Say something about what a person has typed."""
        self._line(markup)

    def close(self) -> None:
        """End an open line."""
        if self._is_mid_line:
            self._console.print()
            self._is_mid_line = False

    def _line(self, markup: str) -> None:
        self.close()
        self._console.print(markup)

    def _stream(self, message: str, offset: int, text: str) -> None:
        new = text[max(0, self._shown.get(message, 0) - offset) :]
        if new:
            self._shown[message] = offset + len(text)
            self._console.print(escape(new), end="")
            self._is_mid_line = not new.endswith("\n")


def _tool_line(data: dict[str, Any]) -> str:
    name, took = escape(str(data.get("name"))), f"[dim]{data.get('duration_ms', 0)} ms[/]"
    if data.get("ok"):
        return f"  [green]←[/] {name} {took} {escape(_short(data.get('result')))}"
    error = data.get("error") or {}
    return f"  [red]✗[/] {name} {took} {escape(str(error.get('message', '')))}"


def _waiting_line(data: dict[str, Any]) -> str:
    due_at, kind = data.get("due_at"), data.get("kind")
    until = "" if due_at is None else f" until {time.strftime('%H:%M:%S', time.localtime(due_at / 1000))}"
    if kind == "timer":
        return f"  [magenta]◷[/] sleeps{until}"
    what = "approval" if kind == "approval" else "an answer"
    asked = data.get("prompt")
    prompt = asked if isinstance(asked, str) else _text(asked) if _is_reference(asked) else _short(asked)
    return f"  [magenta]?[/] waits for {what}{until} [dim]({escape(str(data.get('wait')))})[/]: {escape(prompt)}"


def _resumed_line(data: dict[str, Any], *, kind: str | None) -> str:
    by = data.get("by")
    if by == "ended":
        return "  [dim]◷ nobody waits any more[/]"
    if by == "timer":
        return "  [magenta]◷[/] the time has come" if kind == "timer" else "  [yellow]◷ nobody answered in time[/]"
    if kind == "approval":
        return "  [green]✓[/] approved" if data.get("value") is True else "  [red]✗[/] rejected"
    return f"  [green]✓[/] answered: {escape(_short(data.get('value')))}"


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and "$ref" in value


def _text(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if _is_reference(content):
        return f"{content.get('head', '')}… ({content.get('bytes')} bytes)"
    return "" if content is None else str(content)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


_LINES: Final[Mapping[str, Callable[[dict[str, Any]], str]]] = MappingProxyType(
    {
        EventType.USER_MESSAGE: lambda data: f"[bold]›[/] {escape(_text(data.get('content')))}",
        EventType.AGENT_STARTED: lambda data: f"[cyan]●[/] {escape(str(data.get('agent')))} started",
        EventType.AGENT_RETRYING: lambda data: f"[yellow]↻ attempt {data.get('attempt')}: {data.get('reason')}[/]",
        EventType.AGENT_THINKING: lambda data: f"  [dim]✻ {escape(_text(data.get('text')))}[/]",
        EventType.TOOL_EXECUTING: lambda data: (
            f"  [blue]→[/] {escape(str(data.get('name')))}({escape(_short(data.get('args')))})"
        ),
        EventType.TOOL_COMPLETED: _tool_line,
        EventType.AGENT_WAITING: _waiting_line,
        EventType.SUBAGENT_STARTED: lambda data: f"  [cyan]⤷[/] {escape(str(data.get('agent')))} helps",
        EventType.SUBAGENT_COMPLETED: lambda _: "  [cyan]⤶[/] the helper is done",
        EventType.SUBAGENT_FAILED: lambda data: (
            f"  [red]⤶ the helper failed ({escape(str(data.get('code')))})[/]: {escape(str(data.get('message')))}"
        ),
        EventType.SUPERSEDED: lambda _: "  [yellow]↺ the last passage is said anew[/]",
        EventType.CUSTOM: lambda data: (
            f"  [dim]{escape(str(data.get('name')))}: {escape(_short(data.get('value')))}[/]"
        ),
        EventType.AGENT_COMPLETED: lambda data: f"[green]✓[/] completed in {data.get('duration_ms', 0) / 1000:.1f} s",
        EventType.AGENT_FAILED: lambda data: (
            f"[red]✗ failed ({data.get('code')})[/]: {escape(str(data.get('message')))}"
        ),
        EventType.AGENT_CANCELLED: lambda data: f"[yellow]■ cancelled by {data.get('by')}[/]",
    }
)
