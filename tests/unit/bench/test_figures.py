"""The bench's arithmetic: a wrong figure is worse than none."""

from __future__ import annotations

from itertools import pairwise

import pytest
from bench.figures import Faulty, Goal, Section, Series, Table, check_count, per_event_us, quantile, ratios
from bench.load import EVENT, Count, frame
from bench.page import goals_table, render
from bench.profile import Stacks, report
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.sampled_from([EVENT, b'"op":"', b'event"', b"x", b"}"])), st.lists(st.integers(0, 200)))
def test_marks_are_counted_wherever_the_stream_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    count = Count(EVENT)
    found = sum(count.feed(stream[begin:end]) for begin, end in pairwise(places))
    assert found == stream.count(EVENT)


def test_a_mark_is_counted_once_when_it_arrives_byte_by_byte() -> None:
    count = Count(EVENT)
    assert sum(count.feed(bytes((byte,))) for byte in EVENT * 3) == 3


def test_a_mark_with_a_brace_is_refused() -> None:
    with pytest.raises(ValueError, match="brace"):
        Count(b'"data":{}')


@pytest.mark.parametrize(("size", "head"), [(5, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)])
def test_a_client_frame_is_as_long_as_the_standard_says(size: int, head: int) -> None:
    assert len(frame(b"x" * size)) == head + size


def test_nothing_counted_is_no_figure() -> None:
    with pytest.raises(Faulty, match="No event"):
        per_event_us(1_000, 0)


@pytest.mark.parametrize("came", [0, 99, 101])
def test_another_number_of_events_than_was_said_is_no_figure(came: int) -> None:
    with pytest.raises(Faulty, match=f"sent {came} events where 100 were said"):
        check_count("N", came=came, said=100, is_merged=False)


def test_merged_events_may_be_fewer_but_never_none_and_never_more() -> None:
    check_count("R", came=7, said=100, is_merged=True)
    for came in (0, 101):
        with pytest.raises(Faulty):
            check_count("R", came=came, said=100, is_merged=True)


def test_a_server_without_cpu_time_is_no_figure() -> None:
    with pytest.raises(Faulty, match="no CPU"):
        per_event_us(0, 1_000)


def test_cost_is_microseconds_per_event() -> None:
    assert per_event_us(5_000_000, 1_000) == 5


def test_a_series_shows_its_median_and_its_spread() -> None:
    assert Series((3.0, 1.0, 10.0)).shown() == "3.0 (1.0–10.0)"
    assert Series((3.0,)).shown() == "3.0"
    with pytest.raises(Faulty):
        Series(())


def test_ratios_are_taken_within_a_round() -> None:
    # In the second round the machine was half as fast, for both.
    assert ratios(Series((20.0, 40.0)), Series((10.0, 20.0))).values == (2.0, 2.0)
    with pytest.raises(ValueError, match="zip"):
        ratios(Series((1.0, 2.0)), Series((1.0,)))


def test_quantiles_are_of_ordered_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile(values, 1.0)) == (51.0, 100.0, 100.0)
    with pytest.raises(Faulty):
        quantile([], 0.5)


@pytest.mark.parametrize(
    ("goal", "verdict", "is_met"),
    [
        (Goal(name="g", must=2.0, aim=3.0, found=Series((3.0,))), "met, and the aim", True),
        (Goal(name="g", must=2.0, aim=3.0, found=Series((2.0,))), "met", True),
        (Goal(name="g", must=2.0, found=Series((1.5,))), "**missed** by 25 %", False),
        (Goal(name="g", must=10.0, is_floor=False, found=Series((9.0, 10.0, 90.0))), "met", True),
        (Goal(name="g", must=10.0, is_floor=False, found=Series((15.0,))), "**missed** by 50 %", False),
        (Goal(name="g", must=1.0, why_not="no Node"), "not measured: no Node", False),
    ],
)
def test_a_goal_says_whether_it_is_met_or_by_how_much_not(goal: Goal, verdict: str, is_met: bool) -> None:
    assert (goal.verdict, goal.is_met) == (verdict, is_met)


def test_a_row_has_as_many_cells_as_the_head() -> None:
    table = Table(("a", "b"))
    table.add(1, 2)
    assert table.markdown() == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    with pytest.raises(Faulty):
        table.add(1)


def test_the_page_has_every_goal_every_round_and_what_people_wrote() -> None:
    raw = Table(("round", "µs"), [("1", "12.34")])
    missing = Goal(name="Burst against J", must=1.0, why_not="there is no Node here")
    section = Section(
        name="burst", title="Burst", text="…", tables=[], goals=[missing], raw=[raw], notes=["R did not keep up"]
    )
    text = render([section], conditions=["one core"], tried="Written *by hand*,\nin two lines.\n")
    for part in (
        "- one core",
        missing.verdict,
        "| 1 | 12.34 |",
        "- R did not keep up",
        "Written *by hand*,\nin two lines.",
    ):
        assert part in text
    assert goals_table([section]).rows == [("Burst against J", "≥ 1 ×", "–", "not measured: there is no Node here")]


def test_a_profile_gives_each_function_its_part_of_an_event() -> None:
    stacks = Stacks.parse(
        "thread (1);run (a.py:3);emit (b.py:7) 30\nthread (1);run (a.py:9) 10\nthread (2);wait (c.py:1) 60\n"
    )
    assert stacks.total == 100
    assert stacks.own() == {"emit (b.py)": 30, "run (a.py)": 10, "wait (c.py)": 60}
    assert stacks.inclusive()["run (a.py)"] == 40
    assert stacks.threads() == {"thread (1)": 40, "thread (2)": 60}
    assert "| `emit (b.py)` | 6.00 | 6.00 |" in report(stacks, us_per_event=20.0)
    assert "  8.00 (2.00) run (a.py)\n    6.00 (6.00) emit (b.py)" in stacks.tree(us_per_event=20.0)
