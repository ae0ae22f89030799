"""The oracle must name what is wrong: histories, tabs and processes are broken in each way on purpose."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fleet.campaign import Campaign
from tests.fleet.load import Load, Sizes
from tests.fleet.oracle import DELTAS, Evidence, Row, judge
from tests.fleet.tab import Follow, Frame, History, Tab, checksum
from tests.fleet.traces import Effects, Said

RUN, USER, CANARY, OTHER = "run_1", "usr_1", "~ca:00000000000a~", "~ca:00000000000b~"


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def evidence() -> Evidence:
    """Return what is known of a run that went well: a message, a tool, a thought, its end."""
    text, thought = f"{CANARY}<run 0>[0 a][1 b]", f"{CANARY}<run 1> hm"
    tool = {"call": "c1", "step": "effect:1", "try": 1, "name": "effect"}
    plan: list[tuple[str, int, dict[str, Any]]] = [
        ("user_message", 0, {"message": "m0", "content": f"{CANARY} tools seed=1"}),
        ("agent_started", 1, {"agent": "tools", "message": "m0"}),
        ("message_started", 1, {"message": "m1", "role": "assistant"}),
        ("text_delta", 1, {"message": "m1", "offset": 0, "text": text}),
        ("message_completed", 1, {"message": "m1", "content": text, "complete": True}),
        ("tool_executing", 1, {**tool, "args": {}}),
        ("tool_completed", 1, {**tool, "ok": True, "final": True, "result": {"n": 1, "token": "t"}}),
        ("agent_thinking", 1, {"text": thought}),
        ("agent_completed", 1, {"output": {"done": CANARY}, "duration_ms": 1}),
    ]
    rows = [Row(n, kind, attempt, 1, msgspec.json.encode(data), "") for n, (kind, attempt, data) in enumerate(plan, 1)]
    pairs = [(row.seq, checksum(row.type, row.attempt, row.data)) for row in rows]
    short = [pair for pair, row in zip(pairs, rows, strict=True) if row.type not in DELTAS]
    said = Said(1, {USER}, {("run", 0): {_sum(text)}, ("run", 1): {_sum(thought)}})
    said.effects["effect:1"] = Effects(1, {"t"})
    tabs: dict[str, Any] = {
        "tab0.0": ("all", History("th_1", list(pairs), True)),
        "tab0.1": ("lifecycle", History("th_1", short, True)),
    }
    return Evidence(RUN, USER, CANARY.encode(), "tools", rows, tabs, said, seq=1)


def shown(found: Evidence, tab: str = "tab0.0") -> list[tuple[int, int]]:
    return found.tabs[tab][1].events


def _twice_in_the_log(found: Evidence) -> None:
    found.rows.insert(8, Row(9, "agent_thinking", 1, 1, found.rows[7].data, ""))
    found.rows[9] = Row(10, "agent_completed", 1, 1, found.rows[9].data, "")


def _swap(events: list[tuple[int, int]]) -> None:
    events[3], events[4] = events[4], events[3]


def _replace(found: Evidence, at: int, old: str, new: str) -> None:
    row = found.rows[at]
    found.rows[at] = Row(row.seq, row.type, row.attempt, row.ts, row.data.replace(old.encode(), new.encode()), "")


def _try_again(found: Evidence) -> None:
    again = [
        Row(n, r.type, 1, 1, r.data.replace(b'"try":1', b'"try":2'), "")
        for n, r in ((8, found.rows[5]), (9, found.rows[6]))
    ]
    found.rows[7:7] = again


def _end_twice(found: Evidence) -> None:
    found.rows.append(Row(10, "agent_completed", 1, 1, found.rows[-1].data, ""))


def _go_on(found: Evidence) -> None:
    found.rows.append(Row(10, "agent_thinking", 1, 1, found.rows[7].data, ""))


def _execute_again(found: Evidence) -> None:
    found.said.effects["effect:1"].begun = 2


def _forget_cancellation(found: Evidence) -> None:
    found.agent, found.is_cancelled = "endless", True


def _say_more(found: Evidence) -> None:
    found.said.sayings["run", 2] = {"0"}


BROKEN: dict[str, tuple[Callable[[Evidence], Any], str]] = {
    "a tab lost an event": (lambda found: shown(found).pop(4), "lost"),
    "a tab lost the last event": (lambda found: shown(found, "tab0.1").pop(), "lost"),
    "a tab applied an event twice": (lambda found: shown(found).insert(4, shown(found)[3]), "doubled"),
    "a tab applied events in another order": (lambda found: _swap(shown(found)), "out of order"),
    "a tab was shown other bytes": (lambda found: shown(found).__setitem__(4, (5, 7)), "changed"),
    "a tab was shown what no log has": (lambda found: shown(found).append((70, 7)), "changed"),
    "the log has a saying twice": (_twice_in_the_log, "doubled"),
    "the log lost a saying": (lambda found: found.rows.pop(7), "lost"),
    "the log lost the last saying": (_say_more, "lost"),
    "the log has another text": (lambda found: _replace(found, 7, "hm", "ha"), "changed"),
    "the log has somebody else's": (lambda found: _replace(found, 7, CANARY, OTHER), "crossed"),
    "it was executed for somebody else": (lambda found: found.said.users.add("usr_2"), "crossed"),
    "it has no end": (lambda found: found.rows.pop(), "no terminal"),
    "it has two ends": (_end_twice, "terminals"),
    "it goes on after its end": (_go_on, "after terminal"),
    "a finished step was tried again": (_try_again, "side effect"),
    "a side effect came twice": (_execute_again, "side effect"),
    "a result is nobody's": (lambda found: found.said.effects["effect:1"].tokens.clear(), "changed"),
    "a cancellation was forgotten": (_forget_cancellation, "lost"),
    "a former owner wrote late": (
        lambda found: found.rows.__setitem__(3, Row(4, "text_delta", 2, 1, found.rows[3].data, "")),
        "shape",
    ),
}


def test_a_run_that_went_well_is_not_blamed() -> None:
    assert judge(evidence()) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_is_named(name: str) -> None:
    found = evidence()
    breaks, kind = BROKEN[name]
    breaks(found)
    assert kind in {fault.kind for fault in judge(found)}


# ── what a tab sees while it happens ────────────────────────────────────────────────────────────────────────


class Recording:
    """Remembers what a tab tells."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.seen: list[int] = []

    def saw(self, tab: Tab, frame: Frame, now_s: float) -> None:
        self.seen.append(frame.seq)

    def broke(self, kind: str, detail: str, run: str) -> None:
        self.kinds.append(kind)

    def online(self, tab: Tab, is_online: bool) -> None: ...


def _event(seq: int, prev: int, kind: str = "custom", canary: str = CANARY) -> dict[str, Any]:
    data = {"name": "mark", "value": canary}
    place = {"thread": "th_1", "seq": seq, "prev": prev, "run": RUN, "attempt": 1, "ts": 1}
    return {"op": "event", **place, "type": kind, "data": data}


WATCHED = {
    "nothing": ([_event(1, 0), _event(2, 1), {"op": "position", "thread": "th_1", "seq": 2}], []),
    "an event twice": ([_event(1, 0), _event(1, 0)], ["doubled"]),
    "a hole": ([_event(1, 0), _event(3, 2)], ["gap"]),
    "an end that never came": ([_event(1, 0), {"op": "position", "thread": "th_1", "seq": 2}], ["gap"]),
    "somebody else's": ([_event(1, 0, canary=OTHER)], ["crossed"]),
    "something after the end": ([_event(1, 0, "agent_completed"), _event(2, 1)], ["after terminal"]),
    "a reset": ([{"op": "reset", "thread": "th_1", "log": "x", "from": 0, "reason": "log_changed"}], ["reset"]),
    "a farewell for good": ([{"op": "bye", "code": 4507, "reconnect": False, "reason": "?"}], ["refused"]),
}


def _watching(listener: Recording) -> Tab:
    tab = Tab("tab", "", CANARY.encode(), [1], first=0, view="all", listener=listener, rng=random.Random(0))
    tab.follows["th_1"] = Follow(log="x", is_live=True)
    return tab


@pytest.mark.parametrize("name", WATCHED)
async def test_a_tab_names_what_it_should_not_see(name: str) -> None:
    frames, kinds = WATCHED[name]
    listener = Recording()
    _watching(listener)._message(msgspec.json.encode(frames))
    assert listener.kinds == kinds


async def test_a_client_that_swallows_an_event_is_seen_by_the_next() -> None:
    listener = Recording()
    tab = _watching(listener)
    tab.swallows = lambda frame: frame.seq == 2
    tab._message(msgspec.json.encode([_event(1, 0), _event(2, 1), _event(3, 2)]))
    assert (listener.seen, listener.kinds) == ([1], ["gap"])


# ── whole processes ─────────────────────────────────────────────────────────────────────────────────────────

PROCESSES = {
    ("gateway", "doubles"): {"doubled"},
    ("gateway", "loses"): {"gap", "lost"},
    ("gateway", "crosses"): {"crossed"},
    ("worker", "says otherwise"): {"changed"},
    ("worker", "forgets results"): {"side effect"},
    ("worker", "forgets runs"): {"no terminal"},
}


async def _seen(
    folder: Path, mutant: tuple[str, str] | None, prepare: Callable[[Load], None] | None = None
) -> set[str]:
    lines: list[str] = []
    campaign = Campaign(
        folder, 7, faults=8, every_s=1.0, has_redis=False, uses_disk=False, away_s=0, end_s=25,
        sizes=Sizes(users=8, tabs=20, runs_per_s=2.0, events=60), say=lines.append,
        mutant=mutant, prepare=prepare, kinds=("kill worker", "cut all"),
    )  # fmt: skip
    outcome = await campaign.run()
    return {fault.kind for fault in outcome.faults}


@pytest.mark.campaign
@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutant", PROCESSES, ids=lambda mutant: mutant[1])
async def test_a_broken_process_is_seen_by_the_campaign(tmp_path: Path, mutant: tuple[str, str]) -> None:
    assert await _seen(tmp_path, mutant) & PROCESSES[mutant]


@pytest.mark.campaign
@pytest.mark.timeout(180)
async def test_a_client_that_swallows_frames_is_seen_by_the_campaign(tmp_path: Path) -> None:
    def prepare(load: Load) -> None:
        numbers = random.Random(1)
        for tab in load.people[0].tabs:
            tab.swallows = lambda frame: frame.op == "event" and numbers.random() < 0.02

    assert "gap" in await _seen(tmp_path, None, prepare)


@pytest.mark.campaign
@pytest.mark.timeout(180)
async def test_a_sound_fleet_is_not_blamed(tmp_path: Path) -> None:
    assert await _seen(tmp_path, None) == set()
