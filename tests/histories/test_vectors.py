"""The committed vector files are those that the seeds make, and one wrong value in them is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.histories import node, vectors


@pytest.mark.timeout(120)
def test_the_vectors_are_as_the_seeds_make_them() -> None:
    is_same = vectors.make() == vectors.MADE.read_bytes()
    assert is_same, "the histories have changed: run `python -m tests.histories vectors --write`"


def another_position(history: dict[str, Any]) -> None:
    next(step for step in history["steps"] if "at" in step)["at"][1] += 1


def another_value(history: dict[str, Any]) -> None:
    next(step for step in history["steps"] if step.get("view"))["view"][0][2]["run"] = "other"


def an_entry_too_many(history: dict[str, Any]) -> None:
    next(step for step in history["steps"] if step.get("view"))["view"].append(["args", "c", {"run": "r0", "text": ""}])


def another_order(history: dict[str, Any]) -> None:
    next(step for step in history["steps"] if _new_messages(step) > 1)["view"].reverse()


def _new_messages(step: dict[str, Any]) -> int:
    return sum(kind == "messages" and value is not None for kind, _, value in step.get("view", ()))


def nothing_done(history: dict[str, Any]) -> None:
    del next(step for step in history["steps"] if "did" in step)["did"]


def nothing_sent(history: dict[str, Any]) -> None:
    del next(step for step in history["steps"] if "send" in step)["send"]


@pytest.mark.parametrize(
    "falsify", [another_position, another_value, an_entry_too_many, another_order, nothing_done, nothing_sent]
)
def test_both_players_see_a_vector_with(falsify: Callable[[dict[str, Any]], None]) -> None:
    history = next(h for h in map(msgspec.json.decode, vectors.lines()) if any(map(_is_whole_snapshot, h["steps"])))
    falsify(history)
    with pytest.raises(AssertionError):
        play(history)
    assert node.differences(node.play([msgspec.json.encode(history)]))


def play(history: dict[str, Any]) -> None:
    player = vectors.Player(history)
    for step in history["steps"]:
        player.play(step)


def _is_whole_snapshot(step: dict[str, Any]) -> bool:
    return "snapshot" in step and _new_messages(step) > 1
