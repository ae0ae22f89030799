"""The committed histories through both clients, as an author of a third one would use them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from tests.histories import node, vectors

from runwire.protocol.events import CLIENT_TYPES


@pytest.fixture(scope="module")
def lines() -> Sequence[bytes]:
    return list(vectors.lines())


def test_the_python_client_does_and_shows_what_the_vectors_say(lines: Sequence[bytes]) -> None:
    for line in lines:
        history = msgspec.json.decode(line)
        player = vectors.Player(history)
        for number, step in enumerate(history["steps"]):
            try:
                player.play(step)
            except AssertionError as error:
                raise AssertionError(f"{history['name']}, step {number}: {error}") from error


def test_the_javascript_client_does_and_shows_what_the_vectors_say(lines: Sequence[bytes]) -> None:
    assert node.differences(node.play(lines)) == []


def test_the_vectors_have_every_event_and_are_not_many_bytes(lines: Sequence[bytes]) -> None:
    assert len(lines) > 200
    assert sum(map(len, lines)) < 1_500_000
    types = {
        (history["view"], step["frame"].get("type"))
        for history in map(msgspec.json.decode, lines)
        for step in history["steps"]
        if "frame" in step and step.get("did") == ["apply"]
    }
    assert {event_type for _, event_type in types} >= {*CLIENT_TYPES, "future"}
