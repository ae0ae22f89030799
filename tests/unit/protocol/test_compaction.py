"""Compaction shows nobody anything else: not who reads from the start, nor who stands in the middle of the deltas."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.histories.log import random_history
from tests.histories.screen import flat

from runwire.protocol.compaction import PIECE_BYTES, PIECE_EVENTS, Compaction, Condensed, Piece
from runwire.protocol.events import (
    DELTA_TYPES,
    AgentCompleted,
    AgentThinking,
    Custom,
    EventData,
    EventType,
    MessageCompleted,
    MessageStarted,
    StoredEvent,
    Superseded,
    TextDelta,
    ThinkingDelta,
    ToolArgsDelta,
    ToolExecuting,
    View,
    emitted,
    pack_stored,
    unpack,
    view_has,
)
from runwire.protocol.view import ThreadView

RUN = "run_1"


def log_of(*said: EventData) -> list[StoredEvent]:
    news = [emitted(data, ts=0) for data in said]
    return [
        StoredEvent(seq=seq, run=RUN, attempt=1, type=new.type, ts=0, data=new.data)
        for seq, new in enumerate(news, start=1)
    ]


def piece_of(events: Sequence[StoredEvent], *, flags: int = 0) -> Piece:
    first = events[0].seq
    return Piece(first, events[-1].seq, events[0].attempt, flags, pack_stored(events, first_seq=first))


def cut(events: Sequence[StoredEvent], *lengths: int) -> list[Piece]:
    pieces: list[Piece] = []
    rest = list(events)
    for length in lengths:
        pieces.append(piece_of(rest[:length]))
        rest = rest[length:]
    return [*pieces, piece_of(rest)] if rest else pieces


def read(pieces: Sequence[Piece], run: str = RUN) -> list[StoredEvent]:
    return [e for p in pieces for e in unpack(p.packed, first_seq=p.first_seq, run=run, attempt=p.attempt)]


def compacted(pieces: Sequence[Piece], *, run: str = RUN) -> Condensed:
    compaction = Compaction()
    for piece in pieces:
        compaction.survey(piece, run=run)
    return compaction.condense(pieces, run=run)


def steps_of(pieces: list[Piece], *, run: str, size: int) -> Iterator[list[Piece]]:
    """Yield what the log has of a run after each write of its compaction."""
    compaction = Compaction()
    for piece in pieces:
        compaction.survey(piece, run=run)
    for first, last, count in compaction.stretches(pieces=size, size_bytes=10**9):
        at = next(n for n, piece in enumerate(pieces) if piece.first_seq == first)
        stretch = pieces[at : at + count]
        assert stretch[-1].last_seq == last
        pieces = [*pieces[:at], *compaction.condense(stretch, run=run).pieces, *pieces[at + count :]]
        yield pieces


def shown(events: Sequence[StoredEvent], view: View = "all") -> tuple[dict[str, Any], dict[str, Any]]:
    folded = ThreadView()
    for event in events:
        if view_has(view, event.type):
            assert folded.apply(event), f"a gap at {event.seq}"
    # Whose first delta went began, for who comes now, with the next event of it.
    entries = {f"{kind} {key}": {**value, "seq": None} for kind, key, value in flat(folded)}
    return entries, folded.to_snapshot()


@settings(max_examples=60, deadline=None, database=None)
@given(seed=st.integers(0, 2**32))
def test_nobody_sees_a_difference_wherever_they_stand(seed: int) -> None:
    chance = random.Random(seed)
    full = random_history(chance, is_plain=True).events
    wanted = {view: shown(full, view) for view in ("all", "lifecycle")}
    logs: dict[str, list[Piece]] = {}
    for run, of_run in groupby(full, key=lambda event: event.run):
        logs[run] = []
        for _, of_attempt in groupby(of_run, key=lambda event: event.attempt):
            events = list(of_attempt)
            while events:
                size = chance.randrange(1, 6)
                logs[run].append(piece_of(events[:size]))
                events = events[size:]
    for run, pieces in list(logs.items()):
        for step in steps_of(pieces, run=run, size=chance.randrange(1, 8)):
            logs[run] = step
            left = [event for name, each in logs.items() for event in read(each, name)]
            spans = [(p.first_seq, p.last_seq) for each in logs.values() for p in each]
            assert [first for first, _ in spans] == [1, *(last + 1 for _, last in spans[:-1])]  # every seq is covered
            assert [e for e in left if e.type not in DELTA_TYPES] == [e for e in full if e.type not in DELTA_TYPES]
            for position in range(len(full) + 1):
                mixed = [*full[:position], *(event for event in left if event.seq > position)]
                assert shown(mixed) == wanted["all"], position
            assert shown(left, "lifecycle") == wanted["lifecycle"]
    assert not [event for event in left if event.type in DELTA_TYPES]  # all streams of these histories are complete


def test_deltas_stay_until_what_completes_them_is_in_the_log() -> None:
    said = log_of(
        MessageStarted(message="m1"),
        TextDelta(message="m1", offset=0, text="a"),
        ThinkingDelta(thinking="t1", offset=0, text="b"),
        TextDelta(message="m2", offset=0, text="c"),
        MessageCompleted(message="m1", content="a"),
        AgentThinking(text="another"),
        AgentThinking(thinking="t2", text="also another"),
    )
    left = read(compacted(cut(said, 1, 2)).pieces)
    assert [event.seq for event in left] == [1, 3, 4, 5, 6, 7]


def test_what_was_taken_back_needs_its_deltas_no_more() -> None:
    said = log_of(
        TextDelta(message="m1", offset=0, text="a"),
        ThinkingDelta(thinking="t1", offset=0, text="b"),
        ThinkingDelta(thinking="t2", offset=0, text="c"),
        Superseded(messages=["m1"], thinking=["t1"], events=[], reason="differs"),
    )
    assert [event.seq for event in read(compacted(cut(said, 2)).pieces)] == [3, 4]


@pytest.mark.parametrize("ends", [True, False])
def test_arguments_of_a_call_that_was_never_made_go_with_the_end_of_the_run(ends: bool) -> None:
    said: list[EventData] = [
        ToolArgsDelta(call="c1", offset=0, text="{"),
        ToolExecuting(call="c1", step="s", try_=1, name="n", args={}),
        ToolArgsDelta(call="c2", offset=0, text="{"),
    ]
    events = log_of(*said, *([AgentCompleted(output=None, duration_ms=1)] if ends else []))
    left = read(compacted(cut(events, 1)).pieces)
    assert [event.seq for event in left] == ([2, 4] if ends else [2, 3])


def test_stream_is_in_one_write_however_long_it_is() -> None:
    said = log_of(
        TextDelta(message="m1", offset=0, text="a"),
        TextDelta(message="m2", offset=0, text="a"),
        *(TextDelta(message="m1", offset=n, text="a") for n in range(1, 20)),
        MessageCompleted(message="m1", content="a" * 20),
        TextDelta(message="m2", offset=1, text="b"),
        MessageCompleted(message="m2", content="ab"),
        AgentThinking(text="after it"),
        AgentThinking(text="and again"),
    )
    compaction = Compaction()
    for piece in cut(said, *[1] * len(said)):
        compaction.survey(piece, run=RUN)
    # The two streams overlap up to seq 23; what follows may be cut anywhere.
    assert [(a, b) for a, b, _ in compaction.stretches(pieces=1, size_bytes=10**9)] == [
        (1, 23),
        (24, 24),
        (25, 25),
        (26, 26),
    ]
    assert [(a, b) for a, b, _ in compaction.stretches(pieces=24, size_bytes=10**9)] == [(1, 24), (25, 26)]
    assert next((a, b) for a, b, _ in compaction.stretches(pieces=99, size_bytes=1)) == (1, 23)


def test_neighbours_become_one_piece_but_not_of_two_attempts_nor_over_another_runs_message() -> None:
    said = log_of(*(AgentThinking(text=str(n)) for n in range(8)))
    of_second = [msgspec.structs.replace(event, attempt=2) for event in said[3:7]]
    pieces = [piece_of(said[:1], flags=1), piece_of(said[1:3])]
    # Seq 6 is another run's.
    pieces += [piece_of(of_second[:2]), piece_of(of_second[3:]), piece_of(said[7:], flags=2)]
    made = compacted(pieces).pieces
    assert [(p.first_seq, p.last_seq, p.attempt, p.flags) for p in made] == [
        (1, 3, 1, 1),
        (4, 5, 2, 0),
        (7, 7, 2, 0),
        (8, 8, 1, 2),
    ]


def test_whole_run_in_one_piece_is_marked_as_its_start_and_its_end() -> None:
    said = log_of(AgentThinking(text="a"), AgentThinking(text="b"), AgentThinking(text="c"))
    pieces = [piece_of(said[:1], flags=1), piece_of(said[1:2]), piece_of(said[2:], flags=2)]
    assert [piece.flags for piece in compacted(pieces).pieces] == [3]


def test_pieces_grow_to_a_page_and_no_further() -> None:
    many = log_of(*(AgentThinking(text="x") for _ in range(PIECE_EVENTS + 10)))
    assert [p.last_seq - p.first_seq + 1 for p in compacted(cut(many, *[100] * 5)).pieces] == [PIECE_EVENTS, 10]
    large = log_of(*(AgentThinking(text="x" * (PIECE_BYTES // 3)) for _ in range(4)))
    assert [p.last_seq for p in compacted(cut(large, 1, 1, 1)).pieces] == [2, 4]


def test_longer_offsets_of_merged_pieces_never_count_as_space_lost() -> None:
    pieces = cut(log_of(*(Custom(name="b", value=n) for n in range(200))), *[5] * 40)
    condensed = compacted(pieces)
    assert len(condensed.pieces) == 1
    assert condensed.freed_bytes == 0  # it grew by some digits, while 39 rows are gone


def test_nothing_to_do_changes_nothing() -> None:
    (piece,) = pieces = cut(log_of(AgentThinking(text="x")))
    assert compacted(pieces) == Condensed([piece], 0, 0)


def test_delta_of_a_newer_shape_stays() -> None:
    said = log_of(TextDelta(message="m1", offset=0, text="a"), MessageCompleted(message="m1", content="a"))
    said[0] = msgspec.structs.replace(said[0], data=msgspec.Raw(b'{"message":7}'))
    assert read(compacted(cut(said)).pieces) == said
    assert said[1].type == EventType.MESSAGE_COMPLETED
