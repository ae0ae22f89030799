"""Vector files: a compact set of histories with what must be shown after each input, for authors of clients.

    python -m tests.histories vectors --write | --check

`histories.jsonl` is made from seeds and is written anew when the generator changes. `regressions.jsonl` has what once
went wrong; it is added to by hand and never made anew. Both are described in `vectors/README.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from tests.histories.screen import Entry, flat
from tests.histories.world import SEED, World

from runwire.protocol import frames
from runwire.protocol import view as the_rule

FOLDER = Path(__file__).with_name("vectors")
MADE = FOLDER / "histories.jsonl"
REGRESSIONS = FOLDER / "regressions.jsonl"

_SEEDS = 800
_STEPS = 25  # acts of a history: short ones tell more per byte
_EACH = 6  # how often each thing must happen in the set, if it does in so many seeds
_BYTES = 1_300_000


def make() -> bytes:
    """Return the content of `histories.jsonl`: first what is rare, then whatever is short."""
    told = [_told(seed) for seed in range(SEED, SEED + _SEEDS)]
    chosen: set[int] = set()
    seen: Counter[Any] = Counter()
    for number, (_, things) in enumerate(told):
        if any(seen[thing] < _EACH for thing in things):
            chosen.add(number)
            seen.update(things)
    size = sum(len(told[number][0]) for number in chosen)
    for number in sorted(range(_SEEDS), key=lambda number: (len(told[number][0]), number)):
        if number not in chosen and size + len(told[number][0]) <= _BYTES:
            chosen.add(number)
            size += len(told[number][0])
    return b"".join(told[number][0] for number in sorted(chosen))


def _told(seed: int) -> tuple[bytes, set[Any]]:
    """Return a history as a line, and what happens in it."""
    world = World(seed)
    world.live(_STEPS)
    happened = {what for what, times in world.happened.items() if what and times}
    return world.recording(f"seed {seed}") + b"\n", happened | {(view, each.type) for view, each in world.ever_applied}


def lines() -> Iterator[bytes]:
    """Yield all histories of all files."""
    for path in (MADE, REGRESSIONS):
        yield from path.read_bytes().splitlines()


class Player:
    """Plays a recorded history through a Python rule; asserts that it does and shows what is recorded."""

    def __init__(self, history: dict[str, Any], rule: ModuleType = the_rule) -> None:
        self.rule = rule
        self.id = "unexpected"  # of the subscribe that is expected now
        self.cursor = rule.Cursor(
            history["thread"], view=history["view"], shown=rule.ThreadView(), new_id=lambda: self.id
        )
        self.expected: dict[tuple[str, str], Any] = {}
        self.at: list[Any] = [None, None]

    def play(self, step: dict[str, Any]) -> None:
        sends = [step["send"]] if "send" in step else []
        self.id = sends[0]["id"] if sends else "unexpected"
        actions = self.give(step)
        asked = [action.frame for action in actions if isinstance(action, self.rule.Ask)]
        assert [msgspec.json.decode(frames.encode(frame)) for frame in asked] == sends
        did = [_did(action) for action in actions if not isinstance(action, self.rule.Ask)]
        assert did == step.get("did", [])
        self.at = step.get("at", self.at)
        assert [self.cursor.log, self.cursor.last] == self.at
        if "restart" in step or {"reset", "deleted"} & {*did}:
            self.expected.clear()
        for kind, key, value in step.get("view", ()):
            if value is None:
                del self.expected[kind, key]
            else:
                self.expected[kind, key] = value
        self.look()

    def give(self, step: dict[str, Any]) -> tuple[Any, ...]:
        actions: tuple[Any, ...] = ()
        if "subscribe" in step:
            actions = self.cursor.subscribe(step["subscribe"])
        elif "sent" in step:
            actions = self.cursor.sent(msgspec.convert(step["sent"]["data"], frames.SendData))
        elif "disconnect" in step:
            self.cursor.disconnect()
        elif "restart" in step:
            made = self.rule.ThreadView.from_snapshot(step["snapshot"]) if "snapshot" in step else None
            self.cursor.shown = made or self.rule.ThreadView()
            actions = self.cursor.restart(**step["restart"])
        else:
            (frame,) = frames.parse_server_frames(msgspec.json.encode(step["frame"]))
            actions = self.cursor.receive(frame)
        return actions

    def look(self) -> None:
        shown = flat(self.cursor.shown)
        assert {(kind, key): value for kind, key, value in shown} == self.expected
        told = [(kind, key, value) for (kind, key), value in self.expected.items()]
        assert _ordered(shown) == _ordered(told)


def _did(action: Any) -> str:
    words = {"Apply": "apply", "DropView": "reset", "NotSubscribed": "refused"}
    return words.get(type(action).__name__) or str(action.reason)


def _ordered(entries: list[Entry]) -> dict[tuple[str, str], list[str]]:
    lists: dict[tuple[str, str], list[str]] = {}
    for kind, key, value in entries:
        lists.setdefault((kind, "" if kind in ("messages", "runs") else value["run"]), []).append(key)
    return lists
