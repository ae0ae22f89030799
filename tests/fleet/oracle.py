"""The judge of one run: what its agent wrote, the rows of the database, and what each tab applied must agree.

Pure: evidence in, faults out; each fault has a name of `KINDS`.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
from tests.fleet.tab import CANARY, DELTAS, TERMINAL, History, checksum
from tests.fleet.traces import Said

__all__ = ["DELTAS", "KINDS", "Evidence", "Fault", "Row", "judge", "judge_steps", "judge_tabs", "rows_of"]

KINDS: Final = (
    "lost",  # a tab has less than the log, or the log less than its agent said
    "doubled",
    "out of order",
    "changed",  # not what was stored, or not what the agent said
    "crossed",  # somebody else's
    "after terminal",
    "no terminal",
    "terminals",  # more than one
    "side effect",  # of a finished step again, or of a call that the log does not know
    "shape",  # what the lifecycle forbids otherwise
    "forgotten",  # an acknowledged message has no run
)
_INTERNAL: Final = frozenset(("step_started", "step_completed"))
_BEGUN: Final = frozenset(("tool_executing", "step_started"))
_ENDED: Final = frozenset(("tool_completed", "step_completed"))
_OF_SAYINGS: Final = frozenset(
    ("superseded", "custom", "agent_thinking", "message_completed", "message_started", "thinking_delta")
)
_HEAD: Final = re.compile(r"~ca:[0-9a-f]{12}~<(\S+) (\d+)>")
_MAX_ATTEMPTS: Final = 5
_packed: Final = msgspec.json.Decoder(list[tuple[int, str, int, msgspec.Raw, str]]).decode


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken promise."""

    kind: str
    run: str
    detail: str


@dataclass(frozen=True, slots=True)
class Row:
    """An event as the database has it."""

    seq: int
    type: str
    attempt: int
    ts: int
    data: bytes
    scope: str


@dataclass(slots=True)
class Evidence:
    """All that is known of one run that has ended."""

    run: str
    user: str
    canary: bytes
    agent: str
    rows: list[Row]
    tabs: dict[str, tuple[Literal["all", "lifecycle"], History]]
    said: Said
    seq: int = 0  # of its message, as acknowledged
    content: str = ""
    is_cancelled: bool = False
    is_amnestied: bool = False  # it lived through a fail-over: only tabs and log are compared
    faults: list[Fault] = field(default_factory=list)

    def blame(self, kind: str, detail: str) -> None:
        self.faults.append(Fault(kind, self.run, detail[:1500]))


def rows_of(first_seq: int, attempt: int, packed: bytes) -> Iterator[Row]:
    """Yield a segment's events; written from the schema's words, not with a server's code."""
    for at, kind, ts, data, scope in _packed(packed):
        yield Row(first_seq + at, kind, attempt, ts, bytes(data), scope)


def judge(evidence: Evidence) -> list[Fault]:
    """Return what is wrong with a run."""
    _judge_order(evidence)
    judge_tabs(evidence)
    for row in evidence.rows:
        if row.data.count(CANARY) != row.data.count(evidence.canary):
            evidence.blame("crossed", f"the log has somebody else's: {row}")
    if not evidence.is_amnestied:
        _judge_sayings(evidence)
        judge_steps(evidence)
        if evidence.said.users - {evidence.user}:
            evidence.blame("crossed", f"executed for {evidence.said.users}, sent by {evidence.user}")
    return evidence.faults


def _judge_order(evidence: Evidence) -> None:
    rows = evidence.rows
    kinds = [row.type for row in rows]
    ends = [n for n, kind in enumerate(kinds) if kind in TERMINAL]
    if not ends:
        evidence.blame("no terminal", f"{kinds[-5:]}")
        return
    if len(ends) > 1:
        evidence.blame("terminals", f"{[rows[n] for n in ends]}")
    if ends[0] != len(kinds) - 1:
        evidence.blame("after terminal", f"the log goes on with {rows[ends[0] + 1]}")
    seqs = [row.seq for row in rows]
    if seqs != sorted(seqs):
        evidence.blame("out of order", "the log")
    if len(set(seqs)) != len(seqs):
        evidence.blame("doubled", f"a seq in the log: {[s for s, n in Counter(seqs).items() if n > 1][:5]}")
    attempts = [row.attempt for row in rows if row.attempt > 0]
    if attempts != sorted(attempts):
        evidence.blame("shape", "a former owner wrote after its successor")
    if kinds[0] != "user_message" or kinds.count("user_message") != 1:
        evidence.blame("shape", f"it begins with {kinds[:3]}")
    elif evidence.seq and rows[0].seq != evidence.seq:
        evidence.blame("changed", f"its message was acknowledged at {evidence.seq}, and stands at {rows[0].seq}")
    if len(kinds) > 2 and (kinds[1] != "agent_started" or kinds.count("agent_started") != 1):
        evidence.blame("shape", f"it starts with {kinds[:4]}")
    _judge_end(evidence, rows[ends[0]])


def _judge_end(evidence: Evidence, end: Row) -> None:
    data = msgspec.json.decode(end.data)
    agent = evidence.agent
    if end.type == "agent_completed":
        if agent == "breaks":
            evidence.blame("changed", "it was meant to fail")
        elif agent == "endless" and evidence.is_cancelled:
            evidence.blame("lost", "an acknowledged cancellation was forgotten")
        elif data.get("output") != {"done": evidence.canary.decode()}:
            evidence.blame("changed", f"its output is {data}")
    elif end.type == "agent_failed":
        is_meant = (agent, data["code"]) == ("breaks", "agent_error")
        if not is_meant and not (data["code"] == "worker_lost" and end.attempt > _MAX_ATTEMPTS):
            evidence.blame("shape", f"it failed: {data}")
    elif data["by"] not in ("user", "policy"):
        evidence.blame("shape", f"cancelled by {data}")


def judge_tabs(evidence: Evidence) -> None:
    """Compare what each tab has applied with the rows."""
    visible = [row for row in evidence.rows if row.type not in _INTERNAL]
    whole = [(row.seq, checksum(row.type, row.attempt, row.data)) for row in visible]
    short = [pair for pair, row in zip(whole, visible, strict=True) if row.type not in DELTAS]
    for name, (view, history) in evidence.tabs.items():
        wanted = [pair for pair in (whole if view == "all" else short) if pair[0] > history.base]
        if history.events != wanted:
            _compare(evidence, name, wanted, history.events)


def _compare(evidence: Evidence, name: str, wanted: list[tuple[int, int]], shown: list[tuple[int, int]]) -> None:
    """Name what differs, the first of each kind."""
    have, want = Counter(seq for seq, _ in shown), dict(wanted)
    at = {row.seq: row for row in evidence.rows}
    missing = [seq for seq in want if seq not in have]
    if missing:
        row = at.get(missing[0])
        evidence.blame("lost", f"{name} has {len(shown)} of {len(wanted)} events; first missing: {row}")
    twice = [seq for seq, count in have.items() if count > 1]
    if twice:
        evidence.blame("doubled", f"{name} applied {twice[:5]} more than once; first: {at.get(twice[0])}")
    unknown = [seq for seq in have if seq not in want]
    if unknown:
        evidence.blame("changed", f"{name} applied seqs that this run's log does not have: {unknown[:5]}")
    order = [seq for seq, _ in shown]
    if order != sorted(order):
        evidence.blame("out of order", f"{name}: {order[:50]}")
    other = [seq for seq, sum_ in shown if want.get(seq, sum_) != sum_]
    if other:
        evidence.blame("changed", f"{name} was shown something else than {at.get(other[0])}")


def _standing(rows: list[Row]) -> Iterator[tuple[int, str]]:
    """Yield (seq, text) of each whole saying that was not taken back, in the order of their beginnings."""
    gone: set[str | int] = set()
    begun: dict[str, int] = {}
    found: list[tuple[int, str | int, str]] = []
    for row in (row for row in rows if row.type in _OF_SAYINGS):
        data: dict[str, Any] = msgspec.json.decode(row.data)
        if row.type == "superseded":
            gone.update(data["messages"], data["thinking"], data["events"])
        elif row.type == "message_started":
            begun[data["message"]] = row.seq
        elif row.type == "thinking_delta":
            begun.setdefault(data["thinking"], row.seq)
        elif row.type == "custom":
            found.append((row.seq, row.seq, data["value"]["text"]))
        elif row.type == "agent_thinking":
            ident = data.get("thinking", "")
            found.append((begun.get(ident, row.seq), ident or row.seq, data.get("text") or ""))
        elif data["complete"]:
            found.append((begun[data["message"]], data["message"], data["content"]))
    found.sort(key=lambda saying: saying[0])
    yield from ((seq, text) for seq, ident, text in found if ident not in gone)


def _judge_sayings(evidence: Evidence) -> None:
    """Compare what stands in the log with what the agent wrote itself."""
    said, counts = evidence.said, Counter[str]()
    is_cut = evidence.rows[-1].type != "agent_completed"
    for seq, text in _standing(evidence.rows):
        head, where = _HEAD.match(text), f"seq {seq} {text[:200]!r}"
        if head is None:
            if not is_cut:
                evidence.blame("changed", f"nobody said {where}")
            continue
        scope, n = head[1], int(head[2])
        if n < counts[scope]:
            evidence.blame("doubled", f"{scope} {n} stands twice, or late: {where}")
        elif n > counts[scope] and not is_cut:
            evidence.blame("lost", f"{scope} {counts[scope]} is missing before {where}")
        counts[scope] = max(counts[scope], n + 1)
        sums = said.sayings.get((scope, n), set())
        # Of one that was cut off there is less than was to be said.
        if f"{zlib.crc32(text.encode()):08x}" not in sums and not (is_cut and sums):
            evidence.blame("changed", f"the agent did not say as {scope} {n}: {where}")
    for scope, most in said.longest().items() if not is_cut else ():
        if counts[scope] < most and not _is_tried(scope, evidence):
            evidence.blame("lost", f"of {scope} {counts[scope]} stand, and it said {most}")


def _is_tried(scope: str, evidence: Evidence) -> bool:
    """Return whether a scope is of a step that ended badly: what it said is taken back with its try."""
    return re.search(r"/t\d+$", scope) is not None and any(
        row.type == "tool_completed" and b'"ok":false' in row.data for row in evidence.rows
    )


def judge_steps(evidence: Evidence, *, is_late: bool = False) -> None:
    """Compare what the log says about steps with what they did to the world.

    Args:
        evidence: of a run.
        is_late: whether it was judged before, and only how often each step was executed is known now.
    """
    tries, final = _tries(evidence)
    for step, effects in evidence.said.effects.items():
        if effects.begun > tries[step]:
            known = f"the log has {tries[step]} tries"
            evidence.blame("side effect", f"{step} was executed {effects.begun} times, {known}")
    for step, data in final.items() if not is_late else ():
        result = data.get("result")
        if data["ok"] and isinstance(result, dict) and "token" in result:
            found = evidence.said.effects.get(step)
            if found is None or result["token"] not in found.tokens:
                evidence.blame("changed", f"{step} has a result that no call gave: {data}")


def _tries(evidence: Evidence) -> tuple[Counter[str], dict[str, dict[str, Any]]]:
    """Return how often each step was tried, and its final completion; tries must be paired."""
    tries, final = Counter[str](), dict[str, dict[str, Any]]()
    begun: dict[tuple[str, int], int] = {}
    for row in evidence.rows:
        if row.type not in _BEGUN and row.type not in _ENDED:
            continue
        data = msgspec.json.decode(row.data)
        step = data["step"]
        if row.type in _BEGUN:
            if step in final:
                evidence.blame("side effect", f"{step} has its result and was tried again at {row.seq}")
            tries[step] += 1
            begun[step, data["try"]] = row.seq
            continue
        if begun.pop((step, data["try"]), None) is None:
            evidence.blame("shape", f"{step} ended at {row.seq}, and was not begun or had ended")
        if data["final"]:
            final[step] = data
    if begun:
        evidence.blame("shape", f"begun and never ended: {begun}")
    return tries, final
