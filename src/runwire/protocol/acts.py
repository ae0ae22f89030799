"""What a scope begins: steps, waits, sub-agents and branches. Their keys, and what the agent's side is told of each.

Whoever says something has a scope text: "" is the run, `st_…/1` a try of a step, `sp_…` a sub-agent,
`<parent>|g<n>.<i>` the i-th branch of its parent's n-th gather. Everything begun in a scope has a key that names
that scope, what it is, and how many such it began before; so a later attempt finds it again.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, Literal

import msgspec

from runwire.protocol.events import (
    AgentResumed,
    EventData,
    EventError,
    StepCompleted,
    SubagentCompleted,
    SubagentFailed,
    ToolCompleted,
)

__all__ = [
    "RUN",
    "Emit",
    "Gather",
    "Span",
    "Step",
    "StepKind",
    "Wait",
    "WaitKind",
    "branch_scope",
    "call_id",
    "derived",
    "outer_of_branch",
    "owner_of",
    "span_id",
    "step_key",
    "try_scope",
    "wait_id",
]

StepKind = Literal["tool", "step"]  # shown to people, or internal
WaitKind = Literal["approval", "input", "timer"]

RUN: Final = ""  # the scope of the run itself


class Emit(msgspec.Struct, frozen=True, gc=False):
    """What must be appended: the shell adds `ts` and encodes."""

    data: EventData
    scope: str = RUN


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A try of a step that the agent has begun."""

    key: str
    call: str
    try_: int
    name: str
    scope: str  # of what this try says
    emits: list[Emit]  # append and commit these before the step's code is called
    kind: StepKind = "tool"
    recorded: ToolCompleted | StepCompleted | None = None  # set: do not execute, return (or raise) this
    raised: int = 0  # how many tries before this one raised; those that a crash cut off are not counted
    lost: EventError | None = None  # set: a crash cut off the last try and `on_crash` is "fail"; there is no new one


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """A wait that the agent has begun."""

    key: str
    id: str
    kind: WaitKind
    due_at: int | None  # ms, UTC; of a wait that is re-entered the logged one
    emits: list[Emit]
    recorded: AgentResumed | None = None  # set: it has ended; `by` "ended" is no answer: wait on, for one's own limit


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A sub-agent that the agent has begun."""

    key: str
    id: str
    scope: str  # of what the sub-agent says
    emits: list[Emit]
    recorded: SubagentCompleted | SubagentFailed | None = None  # set: do not execute, return (or raise) this


class Gather(msgspec.Struct, frozen=True, kw_only=True):
    """Branches that the agent has begun; they have no events of their own."""

    scopes: list[str]  # of the branches, in order; `Replay.end_scope` each when it returned or raised
    emits: list[Emit]  # the end of an open message


# ── scopes ───────────────────────────────────────────────────────────────────────────────────────────────


def try_scope(step: str, number: int) -> str:
    """Return the scope text of a try of a step: `st_…/1`."""
    return f"{step}/{number}"


def branch_scope(outer: str, gather: int, index: int) -> str:
    """Return the scope text of a branch of a scope's n-th gather, both from 0: `st_…/1|g0.2`."""
    return f"{outer}|g{gather}.{index}"


def outer_of_branch(scope: str) -> str | None:
    """Return the scope that a branch belongs to; None: it is no branch."""
    outer, bar, _ = scope.rpartition("|")
    return outer if bar else None


def owner_of(scope: str) -> str:
    """Return the run, try or sub-agent whose branch, or branch's branch, a scope is; itself if it is none."""
    return scope.partition("|")[0]


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────


def step_key(scope: str, name: str, n: int, *, kind: StepKind = "tool", ident: str | None = None) -> str:
    """Return the key of the n-th step of that name (from 0) in a scope, which names parent key and try.

    With an `ident` (a provider's id of the tool call) it is the n-th of that: mostly the only one.
    """
    which = (n,) if ident is None else (ident, n)
    return f"st_{_digest(scope, name, *which)}" if kind == "tool" else f"st_{_digest(scope, name, *which, kind)}"


def call_id(run: str, step: str, number: int) -> str:
    """Return the id of a try's call: the same for all who begin that try."""
    return f"call_{_digest(run, step, number)}"


def wait_id(run: str, scope: str, kind: WaitKind, n: int) -> tuple[str, str]:
    """Return key and id of the n-th wait of that kind in a scope."""
    key = _digest(scope, "wait", kind, n)
    return key, f"wt_{_digest(run, key)}"


def span_id(run: str, scope: str, agent: str, n: int) -> tuple[str, str]:
    """Return key and id of the n-th sub-agent of that name in a scope."""
    key = _digest(scope, "span", agent, n)
    return key, f"sp_{_digest(run, key)}"


def derived(run: str, scope: str, what: str, n: int) -> str:
    """Return 64 hex digits for the n-th of `what` in a scope: the same in each try of its step."""
    return _sha256(run, re.sub(r"/\d+", "", scope), what, n)


def _digest(*parts: str | int) -> str:
    return _sha256(*parts)[:32]  # 128 bits do for a name


def _sha256(*parts: str | int) -> str:
    # As a JSON array, so that ("a", "b1") and ("ab", "1") are not the same.
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
