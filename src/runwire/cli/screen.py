"""How a run looks in a terminal: a tree that grows, or one JSON object per line."""

from __future__ import annotations

import json
from typing import Any, Protocol

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
        self._is_mid_line = False

    def show(self, item: Event | Reset) -> None:
        """Draw what the item adds."""
        if isinstance(item, Reset):
            self._line(f"[yellow]↺ history starts again ({item.reason})[/]")
            return
        data = item.data
        match item.type:
            case EventType.USER_MESSAGE:
                self._line(f"[bold]›[/] {escape(_text(data.get('content')))}")
            case EventType.AGENT_STARTED:
                self._line(f"[cyan]●[/] {escape(str(data.get('agent')))} started")
            case EventType.AGENT_RETRYING:
                self._line(f"[yellow]↻ attempt {data.get('attempt')}: {escape(str(data.get('reason')))}[/]")
            case EventType.AGENT_THINKING:
                self._line(f"  [dim]✻ {escape(_text(data.get('text')))}[/]")
            case EventType.TOOL_EXECUTING:
                self._line(f"  [blue]→[/] {escape(str(data.get('name')))}({escape(_short(data.get('args')))})")
            case EventType.TOOL_COMPLETED:
                self._line(_tool_line(data))
            case EventType.TEXT_DELTA:
                self._stream(str(data.get("message")), int(data.get("offset", 0)), str(data.get("text")))
            case EventType.MESSAGE_COMPLETED:
                self._stream(str(data.get("message")), 0, _text(data.get("content")))
                self.close()
            case EventType.SUPERSEDED:
                self._line("  [yellow]↺ the last passage is said anew[/]")
            case EventType.CUSTOM:
                self._line(f"  [dim]{escape(str(data.get('name')))}: {escape(_short(data.get('value')))}[/]")
            case EventType.AGENT_COMPLETED:
                self._line(f"[green]✓[/] completed in {data.get('duration_ms', 0) / 1000:.1f} s")
            case EventType.AGENT_FAILED:
                self._line(f"[red]✗ failed ({data.get('code')})[/]: {escape(str(data.get('message')))}")
            case EventType.AGENT_CANCELLED:
                self._line(f"[yellow]■ cancelled by {data.get('by')}[/]")

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


def _text(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if isinstance(content, dict) and "$ref" in content:
        return f"{content.get('head', '')}… ({content.get('bytes')} bytes)"
    return "" if content is None else str(content)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
