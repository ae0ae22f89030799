"""Random histories through `view.py` and the JavaScript client: the promises hold after every input.

`world.World` loses, repeats and swaps frames, cuts the socket, compacts, trims, restores and deletes the log, and
asserts what PROTOCOL promises after each input. The recorded inputs then go through `clients/js`, which must do the
same and show the same after each. A history is a pure function of its seed; a failure names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from tests.histories import node
from tests.histories.rows import ROWS
from tests.histories.world import SEED, World, play

from runwire.protocol.events import CLIENT_TYPES, DELTA_TYPES

HISTORIES = 800  # the campaign has 50,000
PARTS = 2

# Seeds that failed when this was written: add yours. A generator that has changed since makes other histories of them,
# so what was wrong is kept as inputs in vectors/regressions.jsonl.
FAILED_ONCE = (2, 34, 74, 106, 112, 194, 226, 452, 771, 3120, 3580, 3843, 9699)


def agree(worlds: Iterable[World]) -> None:
    recordings = [world.recording(str(number)) for number, world in enumerate(worlds)]
    differences = node.differences(node.play(recordings))
    assert not differences, f"{len(differences)} histories: the JavaScript client differs, first {differences[0]}"


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.timeout(180)
def test_each_event_is_shown_once_in_order_whatever_happens(part: int) -> None:
    each = HISTORIES // PARTS
    first = SEED + part * each
    agree(play(seed) for seed in range(first, first + each))


@pytest.mark.timeout(180)
def test_a_cut_before_every_input_costs_and_repeats_nothing() -> None:
    worlds = [world for seed in range(SEED, SEED + 3) for world in cut_everywhere(seed)]
    assert len(worlds) > 150
    agree(worlds)


def cut_everywhere(seed: int) -> Iterable[World]:
    for cut_at in range(1, len(play(seed).transcript)):
        yield play(seed, cut_at=cut_at)


def test_histories_that_failed_once() -> None:
    agree(play(seed) for seed in FAILED_ONCE)


@pytest.mark.timeout(180)
def test_the_histories_are_as_bad_as_they_are_meant_to_be() -> None:
    happened: Counter[str | None] = Counter()
    shown: set[tuple[str, str]] = set()
    for seed in range(SEED, SEED + 300):
        world = play(seed)
        happened += world.happened
        shown |= {(view, event.type) for view, event in world.ever_applied}
    assert happened.keys() >= ROWS, "every row of the apply rule"
    assert happened.keys() >= {"lost", "duplicate", "swapped", "old frame again", "late frame", "cut", "restored"}
    assert happened.keys() >= {"snapshot", "merged", "compacted", "delta that never comes"}
    assert shown >= {("all", kind) for kind in (*CLIENT_TYPES, "future")}
    assert shown >= {("lifecycle", kind) for kind in (*CLIENT_TYPES - DELTA_TYPES, "future")}
    assert not {("lifecycle", kind) for kind in DELTA_TYPES} & shown


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_campaign_of_histories() -> None:
    figures: Counter[str] = Counter()
    first = 1_000_000
    for part in range(50):
        worlds = [play(seed) for seed in range(first + part * 1_000, first + (part + 1) * 1_000)]
        if part < 10:
            worlds += cut_everywhere(first + part)
        agree(worlds)
        figures["histories"] += len(worlds)
        for world in worlds:
            figures["inputs"] += len(world.transcript)
            figures += Counter({str(what): times for what, times in world.happened.items() if times})
    print(f"seeds from {first}: {dict(figures)}")
    assert figures["histories"] >= 50_000
