"""Programs of random agents: what the simulator of replays has them say and call, and other versions of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Think:
    text: str


@dataclass(frozen=True)
class ThinkAloud:
    chunks: tuple[str, ...]


@dataclass(frozen=True)
class Write:
    chunks: tuple[str, ...]
    closes: bool = False


@dataclass(frozen=True)
class Message:
    text: str


@dataclass(frozen=True)
class Show:
    value: Any


@dataclass(frozen=True)
class Tool:
    name: str  # of few, so that the n-th of a name matters
    number: int  # unique in the program: who the tool is, whatever its key
    body: tuple[Act, ...] = ()
    ok: bool = True
    good_try: int = 1  # earlier ones raise and are repeated


Act = Think | ThinkAloud | Write | Message | Show | Tool


@dataclass(frozen=True)
class Program:
    acts: tuple[Act, ...]
    end: Literal["returns", "raises", "answers"]  # "answers": a returned string, a message if none was opened
    has_fresh_results: bool  # tools give another result in each attempt, and the agent says what they gave


class Author:
    """Writes random programs, and other versions of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.passages = 0
        self.tools = 0

    def program(self) -> Program:
        acts = self.acts(self.random.randint(2, 6), depth=0)
        end = self.random.choice(("returns", "returns", "raises", "answers"))
        return Program(acts, end, has_fresh_results=self.random.random() < 0.4)  # type: ignore[arg-type]  # of choice

    def acts(self, count: int, *, depth: int) -> tuple[Act, ...]:
        return tuple(self.act(depth) for _ in range(count))

    def act(self, depth: int) -> Act:
        kinds = ("think", "aloud", "write", "write", "message", "show", *("tool",) * (3 - depth))
        match self.random.choice(kinds):
            case "think":
                return Think(self.passage())
            case "aloud":
                return ThinkAloud(self.cut(self.passage() + self.passage()))
            case "write":
                text = "".join(self.passage() for _ in range(self.random.randint(1, 3)))
                return Write(self.cut(text), closes=self.random.random() < 0.3)
            case "message":
                return Message(self.random.choice((self.passage(), self.passage(), "")))
            case "show":
                return Show({"n": self.passage(), "k": [1, None]})
            case _:
                return self.tool(depth)

    def tool(self, depth: int) -> Tool:
        self.tools += 1
        number = self.tools
        body = self.acts(self.random.randint(0, 3), depth=depth + 1)
        is_leaf = not any(isinstance(act, Tool) for act in body)
        return Tool(
            name=self.random.choice(("search", "fetch")),
            number=number,
            body=body,
            ok=self.random.random() < 0.8,
            good_try=self.random.choice((1, 1, 1, 2)) if is_leaf else 1,
        )

    def passage(self) -> str:
        """Return text that names itself, so that nothing said twice goes unseen; not all of it in the BMP."""
        self.passages += 1
        return f"⟦{self.passages}⟧{self.random.choice(('wort', 'é😀x', '🧵', 'aa {last} '))}"

    def cut(self, text: str) -> tuple[str, ...]:
        cuts = sorted(self.random.randint(0, len(text)) for _ in range(self.random.randint(0, 3)))
        return tuple(text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True))

    def same(self, program: Program) -> Program:
        """Return a program that says the same, streamed in other chunks."""
        return replace(program, acts=tuple(self.rechunked(act) for act in program.acts))

    def rechunked(self, act: Act) -> Act:
        if isinstance(act, Tool):
            return replace(act, body=tuple(self.rechunked(inner) for inner in act.body))
        if isinstance(act, Write | ThinkAloud):
            return replace(act, chunks=self.cut("".join(act.chunks)))
        return act

    def other(self, program: Program) -> Program:
        """Return a program that calls the same tools, perhaps fewer, and says something else."""
        end = self.random.choice((program.end, "returns"))
        return replace(self.same(program), acts=self.varied(program.acts), end=end)

    def varied(self, acts: Sequence[Act]) -> tuple[Act, ...]:
        varied: list[Act] = []
        for act in acts:
            if isinstance(act, Tool):
                varied.append(replace(act, body=self.varied(act.body)) if self.random.random() < 0.4 else act)
                continue
            change = self.random.random()
            if change < 0.1:
                continue
            varied.append(self.reworded(act) if change < 0.25 else self.rechunked(act))
            if change > 0.9:
                varied.append(self.reworded(Think(self.passage())))
        if self.random.random() < 0.2:
            self.swap(varied)
        return tuple(varied[: self.random.randint(0, len(varied))] if self.random.random() < 0.15 else varied)

    def reworded(self, act: Act) -> Act:
        match act:
            case Think(text):
                return self.random.choice((Think(text + "!"), ThinkAloud((text,)), Message(text)))
            case ThinkAloud(chunks):
                return ThinkAloud((*chunks[:-1], self.random.choice(("?", ""))))
            case Write(chunks, closes):
                changed = self.random.choice((chunks[:-1], (*chunks, "…"), ("~", *chunks)))
                return Write(changed, self.random.choice((closes, not closes)))
            case Message(text):
                return self.random.choice((Message(text[:-1]), Message(text + "."), Write((text,), closes=True)))
            case Show(value):
                return Show({**value, "k": [2, None]})
            case Tool():
                return act

    def swap(self, acts: list[Act]) -> None:
        """Exchange two neighbours, but never two tools: their order is the run's."""
        pairs = [at for at in range(len(acts) - 1) if not all(isinstance(act, Tool) for act in acts[at : at + 2])]
        if pairs:
            at = self.random.choice(pairs)
            acts[at], acts[at + 1] = acts[at + 1], acts[at]
