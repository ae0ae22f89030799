"""Random agents that do everything a Context offers, and other versions of them that say something else.

An agent is a tuple of acts. What it begins has a number of its own in the program, so that a test knows who is who
whatever keys the matcher gives; what it says names itself, so that nothing said twice goes unseen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

StepKind = Literal["tool", "step"]
WaitKind = Literal["approval", "input", "timer"]


@dataclass(frozen=True, slots=True)
class Say:
    kind: Literal["thought", "stream", "write", "message", "custom"]
    text: str
    cuts: tuple[int, ...] = ()  # where a stream is cut into chunks
    closes: bool = False  # of "write": the message ends here


@dataclass(frozen=True, slots=True)
class Call:
    number: int
    name: str  # of few, so that the n-th of a name matters
    body: tuple[Act, ...] = ()
    kind: StepKind = "tool"
    raises: int = 0  # so many tries raise before one ends
    is_ok: bool = True
    has_ident: bool = False
    on_crash: Literal["retry", "fail"] = "retry"


@dataclass(frozen=True, slots=True)
class Delegate:
    number: int
    agent: str
    body: tuple[Act, ...]
    is_ok: bool = True


@dataclass(frozen=True, slots=True)
class Parallel:
    branches: tuple[tuple[Act, ...], ...]


@dataclass(frozen=True, slots=True)
class Await:
    number: int
    kind: WaitKind
    is_left: bool = False  # by a time limit of the agent's own, at once


@dataclass(frozen=True, slots=True)
class Now:
    """The time: an internal step that closes nothing."""


@dataclass(frozen=True, slots=True)
class Derive:
    """Show a derived id."""


Act = Say | Call | Delegate | Parallel | Await | Now | Derive


@dataclass(frozen=True, slots=True)
class Agent:
    acts: tuple[Act, ...]
    end: Literal["returns", "raises"] = "returns"
    has_fresh_results: bool = False  # steps give another result in each attempt, and the agent says what they gave


class Author:
    """Writes random agents, and other versions of them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.passages = 0
        self.numbers = 0

    def agent(self) -> Agent:
        acts = self.acts(self.chance.randint(2, 5), depth=0)
        end = self.chance.choice(("returns", "returns", "raises"))
        return Agent(acts, end, has_fresh_results=self.chance.random() < 0.3)  # type: ignore[arg-type]  # of choice

    def acts(self, count: int, *, depth: int) -> tuple[Act, ...]:
        return tuple(self.act(depth) for _ in range(count))

    def act(self, depth: int) -> Act:
        deeper = ("call", "call", "delegate", "parallel", "parallel") if depth < 2 else ("call",) if depth < 3 else ()
        match self.chance.choice(("say", "say", "say", "await", "small", *deeper)):
            case "say":
                return self.say()
            case "await":
                kind = self.chance.choice(("approval", "approval", "input", "timer"))
                is_left = kind == "input" and self.chance.random() < 0.3
                return Await(self.number(), kind, is_left)  # type: ignore[arg-type]  # of choice
            case "small":
                return self.chance.choice((Now(), Derive()))
            case "call":
                return self.call(depth)
            case "delegate":
                body = self.acts(self.chance.randint(1, 3), depth=depth + 1)
                return Delegate(self.number(), self.chance.choice("ab"), body, self.chance.random() < 0.8)
            case _:
                count = self.chance.randint(1, 3)
                return Parallel(tuple(self.acts(self.chance.randint(0, 2), depth=depth + 1) for _ in range(count)))

    def say(self) -> Say:
        kind = self.chance.choice(("thought", "stream", "write", "write", "message", "custom"))
        text = "".join(self.passage() for _ in range(self.chance.randint(1, 2)))
        return self.recut(Say(kind, text, closes=self.chance.random() < 0.3))  # type: ignore[arg-type]  # of choice

    def call(self, depth: int) -> Call:
        return Call(
            number=self.number(),
            name=self.chance.choice(("search", "fetch")),
            body=self.acts(self.chance.randint(0, 3), depth=depth + 1),
            kind=self.chance.choice(("tool", "tool", "step")),
            raises=self.chance.choice((0, 0, 0, 1, 2)),
            is_ok=self.chance.random() < 0.8,
            has_ident=self.chance.random() < 0.3,
            on_crash="fail" if self.chance.random() < 0.1 else "retry",
        )

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def passage(self) -> str:
        self.passages += 1
        return f"⟦{self.passages}@⟧{self.chance.choice(('wort', 'é😀', 'aa {last} '))}"

    def recut(self, say: Say) -> Say:
        cuts = sorted(self.chance.randint(0, len(say.text)) for _ in range(self.chance.randint(0, 2)))
        return replace(say, cuts=tuple(cuts))

    def same(self, acts: Sequence[Act]) -> tuple[Act, ...]:
        """Return acts that say the same, streamed in other chunks."""
        return tuple(self.inside(self.recut(act) if isinstance(act, Say) else act, self.same) for act in acts)

    def other(self, acts: Sequence[Act]) -> tuple[Act, ...]:
        """Return acts that begin the same things, perhaps fewer, and say something else."""
        varied: list[Act] = []
        for act in acts:
            change = self.chance.random()
            if not isinstance(act, Say):
                varied.append(self.inside(act, self.other) if change < 0.5 else act)
            elif change > 0.12:
                varied.append(replace(act, text=act.text + "!") if change < 0.25 else self.recut(act))
            if self.chance.random() < 0.08:
                varied.append(self.say())
        is_cut = self.chance.random() < 0.1
        return tuple(varied[: self.chance.randint(0, len(varied))] if is_cut else varied)

    def inside(self, act: Act, change: object) -> Act:
        assert callable(change)
        if isinstance(act, Call | Delegate):
            return replace(act, body=change(act.body))
        return Parallel(tuple(change(branch) for branch in act.branches)) if isinstance(act, Parallel) else act
