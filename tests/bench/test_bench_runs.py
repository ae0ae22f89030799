"""The bench on real servers, as small as it goes: it must not rot between two releases."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.figures import Faulty
from bench.process import ROOT
from bench.servers.shape import EVENT_BYTES
from bench.stand import Missing, Stand, command

from bench import page

_HEAD_BYTES = 4  # of a WebSocket frame of that size


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with Stand(tmp_path, rounds=1, is_quick=True, against=("U",), say=lambda _: None) as stand:
        yield stand


def test_the_quickest_row_runs_from_end_to_end(tmp_path: Path) -> None:
    words = ["-m", "bench", "--only", "burst", "--against", "N", "--rounds", "1", "--quick", "--folder", str(tmp_path)]
    before = page.PAGE.read_bytes()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| R: Runwire.* \| \d+\.\d \|", done.stdout, re.MULTILINE)
    assert re.search(r"^\| N: FastAPI.* \| \d+\.\d+ × \|$", done.stdout, re.MULTILINE)
    assert "| Burst, durable, against L | ≥ 0.7 × L (aim 1) | – | not measured: left out |" in done.stdout
    assert page.PAGE.read_bytes() == before, "only a whole run writes the page"
    assert not list(tmp_path.iterdir()), "databases are left behind"


def test_an_unknown_row_is_a_usage_error() -> None:
    words = [sys.executable, "-m", "bench", "--only", "bursts"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "no row bursts" in done.stderr


def test_every_event_has_the_same_size_whoever_sends_it(stand: Stand) -> None:
    bare = stand.ask(stand.server("U"), connections=2, events=50)
    assert bare.events == 100
    assert bare.received_bytes == 100 * (EVENT_BYTES + _HEAD_BYTES)
    ours = stand.ask(stand.server("R"), connections=1, events=203, agent_pause_s=0.002)
    assert ours.events == 203
    # Its numbers grow, some frames come as one message, and three of its events are the run's own.
    assert ours.received_bytes / 203 == pytest.approx(EVENT_BYTES + _HEAD_BYTES, abs=8)


def test_the_client_waits_for_no_event_for_ever(stand: Stand) -> None:
    server = stand.server("U")
    says = command(3, pause_s=0.0, kind="custom")
    with pytest.raises(Faulty, match="3 of 4 events came within 1 s"):
        stand.load(server, connections=1, command=says, events=4, ends=4, deadline_s=1.0)


def test_no_event_at_all_is_an_error(stand: Stand) -> None:
    server = stand.server("U")
    with pytest.raises(Faulty, match="0 of 1 events came within 1 s"):
        stand.load(server, connections=1, command=command(0, pause_s=0.0, kind="custom"), deadline_s=1.0)


def test_a_baseline_that_was_left_out_is_named(stand: Stand) -> None:
    assert stand.present(["N", "U"]) == ["U"]
    assert stand.why_not("N") == "left out"
    with pytest.raises(Missing):
        stand.server("N")


def test_the_conditions_name_no_host_and_no_path(stand: Stand) -> None:
    text = "\n".join(page.describe(stand))
    assert socket.gethostname() not in text
    assert str(stand.folder) not in text
    assert str(ROOT) not in text
    assert "cores" in text
