"""How long a loop has been stuck in one callback, told from looks at it."""

from __future__ import annotations

from runwire.runtime.watchdog import Watched


def test_only_the_time_in_the_present_callback_counts() -> None:
    watch = Watched()
    looks = [(None, 0.0), ("a", 0.5), ("a", 1.0), ("b", 1.5), ("b", 2.0), ("b", 2.5)]
    stuck = [watch.look(running, blocked_s=at_s, now_s=100 + at_s) for running, at_s in looks]
    assert stuck == [0.0, 0.0, 0.5, 0.0, 0.5, 1.0]


def test_a_loop_that_changes_its_callback_with_each_look_is_never_stuck() -> None:
    watch = Watched()
    assert {watch.look(object(), blocked_s=at_s, now_s=float(at_s)) for at_s in range(1, 100)} == {0.0}


def test_an_answer_begins_the_count_anew() -> None:
    watch = Watched()
    watch.look("a", blocked_s=0.5, now_s=1.0)
    watch.is_known = True
    assert watch.look("a", blocked_s=5.0, now_s=6.0) == 5.0
    assert watch.look(None, blocked_s=0.0, now_s=7.0) == 0.0
    assert not watch.is_known
    assert watch.look("a", blocked_s=0.5, now_s=8.0) == 0.0


def test_where_callbacks_cannot_be_seen_the_whole_block_counts() -> None:
    watch = Watched()
    assert [watch.look(None, blocked_s=at_s, now_s=at_s) for at_s in (0.5, 1.0, 1.5)] == [0.0, 0.5, 1.0]
