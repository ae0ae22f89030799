"""The engines of the bench on real databases, as small as it goes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.engine import Engine
from bench.figures import Faulty
from bench.process import ROOT

_OURS = "bench.engines.runwire"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine("runwire", _OURS, f"sqlite:///{tmp_path}/runs.db", folder=tmp_path, core=None) as engine:
        yield engine


def test_a_row_of_durable_runs_goes_from_end_to_end_on_both_databases(tmp_path: Path) -> None:
    words = ["-m", "bench", "--only", "step", "--rounds", "1", "--quick", "--folder", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stderr
    for kind in ("PostgreSQL", "SQLite"):
        assert re.search(rf"^\| {kind} \| runwire \| 1 \| \d+\.\d+ \|", done.stdout, re.MULTILINE)
        assert re.search(rf"^\| Journalled step, {kind}, wall \| ≤ 0", done.stdout, re.MULTILINE)
    assert not list(tmp_path.iterdir()), "databases are left behind"


def test_what_is_ordered_is_done_and_recorded(engine: Engine) -> None:
    assert engine.order("durability") == {"found": "wal 2"}
    assert engine.order("steps", count=3)["recorded"] == 3
    spent = engine.measured("runs", count=20, users=5)
    assert spent.said["recorded"] == 20
    assert 0 < spent.said["took_ns"] <= spent.wall_ns
    assert spent.engine_ns > 0
    assert engine.order("sleepers", count=3, users=2)["sleeping"] == 3


def test_what_is_replayed_is_not_called_again_and_what_is_called_is_counted(engine: Engine) -> None:
    assert engine.order("journal", steps=7)["executed"] == 7
    assert engine.order("replay")["executed"] == 7
    assert engine.order("journal", steps=2)["executed"] == 2


def test_an_order_that_fails_is_no_figure(engine: Engine) -> None:
    with pytest.raises(Faulty, match="runwire: replay: NotFound"):
        engine.order("replay")  # there is no journal


def test_parked_runs_are_asked_for_in_the_database(engine: Engine) -> None:
    assert engine.order("park", count=4, users=2)["parked"] == 4
    assert engine.order("collect")["objects"] > 0


def test_an_engine_that_is_gone_is_no_figure(engine: Engine) -> None:
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(Faulty, match="runwire: steps: "):
        engine.order("steps", count=1)


def test_an_engine_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Faulty, match="A database URL is"):
        Engine("runwire", _OURS, "mysql://nowhere", folder=tmp_path, core=None)
