"""`runwire bench`: a server that keeps its promises under cuts, and small wrong ones that must be named."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.faulty_commands import Broadcasts
from tests.conformance.faulty_servers import DoublesOne, LosesOne, LosesTheEnd, SwapsTwo, TwoTerminals
from tests.conformance.minimal_run import Emit, Failed, Frame, Run
from tests.conformance.minimal_server import Connection, MinimalServer

from runwire.conformance.load import shown
from runwire.conformance.load.drive import Load, Plan
from runwire.conformance.load.histogram import Histogram


async def _bench(*words: str, cwd: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runwire", "bench", *words),
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "NO_COLOR": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(100):
        out, _ = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in out.decode()
    return process.returncode, out.decode()


@pytest.mark.timeout(120)
async def test_a_server_of_our_own_loses_nothing_under_cuts_and_a_kill_and_the_reports_say_so(tmp_path: Path) -> None:
    status, out = await _bench(
        *("local", "--users", "6", "--rate", "15", "--duration", "3", "--cuts", "240", "--gap-ms", "10"),
        *("--kills", "30"),
        *("--report", "json", "a.json", "--report", "html", "b", "--report", "c.md"),
        cwd=tmp_path,
    )
    assert status == 0, out
    report = json.loads((tmp_path / "a.json").read_bytes())
    figures = report["figures"]
    assert (figures["sent"], figures["completed"]) == (45, 45)
    assert figures["kills"] == 1
    assert figures["cuts"] > 0
    assert figures["resumes"] > 0
    assert sum(bar["runs"] for bar in report["histogram"]) == 45
    page = (tmp_path / "b").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
    assert "http" not in page.replace("http://127.0.0.1", "")  # it works without network
    assert (tmp_path / "c.md").read_text("utf-8").startswith("## Runwire bench")
    assert "each came once, in order, to the right user" in out


COUNTERS: dict[type[MinimalServer], str | None] = {
    MinimalServer: None,
    LosesOne: "lost",
    DoublesOne: "doubled",
    TwoTerminals: "doubled",
    SwapsTwo: "out of order",
    Broadcasts: "crossed",
    LosesTheEnd: "without an end",
}


@pytest.fixture(scope="module")
def loads() -> dict[type[MinimalServer], Load]:
    """Put load on all of them at once: most of it is waiting."""

    async def all_of_them() -> dict[type[MinimalServer], Load]:
        plan = Plan(users=2, rate=20, duration_s=0.5, timeout_s=2)
        async with asyncio.TaskGroup() as tasks:
            found = {server: tasks.create_task(_loaded(server(), plan)) for server in COUNTERS}
        return {server: task.result() for server, task in found.items()}

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("server", COUNTERS, ids=lambda server: server.__name__)
@pytest.mark.timeout(60)
def test_a_wrong_server_is_named_by_its_counter(
    loads: dict[type[MinimalServer], Load], server: type[MinimalServer]
) -> None:
    load, counter = loads[server], COUNTERS[server]
    figures = shown.figures(load)
    assert figures["sent"] == 10
    assert shown.exit_code(load) == (0 if counter is None else 1), load.tally.notes
    if counter is not None:
        assert figures[counter] > 0, load.tally.notes
        assert f"{figures[counter]} {counter}" in shown.verdict(load)


async def _loaded(server: MinimalServer, plan: Plan, *keys: str, **options: Any) -> Load:
    async with server.running() as url:
        load = Load(url, list(keys or ("good-token", "other-token")), plan, **options)
        await load.run()
    return load


class FailsEachSecond(MinimalServer):
    """Ends each second run as failed."""

    async def ask(self, run: Run, emit: Emit) -> Any:
        if len(self.runs) % 2:
            raise Failed("worker_lost")
        return await super().ask(run, emit)


class RefusesEachSecond(MinimalServer):
    """Has no room for each second message."""

    count = 0

    def send(self, connection: Connection, frame: Frame) -> None:
        self.count += 1
        if self.count % 2:
            self.refuse(connection, frame, "rate_limited")
        else:
            super().send(connection, frame)


@pytest.mark.parametrize(
    ("server", "code"), [(FailsEachSecond, "worker_lost"), (RefusesEachSecond, "rate_limited")], ids=lambda v: str(v)
)
async def test_runs_that_fail_are_no_success_unless_they_may(server: type[MinimalServer], code: str) -> None:
    plans = [Plan(users=2, rate=20, duration_s=0.5, timeout_s=5, may_fail=may_fail) for may_fail in (False, True)]
    async with asyncio.TaskGroup() as tasks:
        loads = [tasks.create_task(_loaded(server(), plan)) for plan in plans]
    for load, status in zip((one.result() for one in loads), (1, 0), strict=True):
        assert load.tally.completed, load.tally.notes
        assert shown.exit_code(load) == status
        assert f"× {code}" in shown.verdict(load)
        assert "--may-fail" in shown.verdict(load)


class SendsLists(MinimalServer):
    """Has data that are no objects, in events and in replies."""

    def append(self, run: Run, kind: str, data: Frame, *, attempt: int | None = None) -> None:
        super().append(run, kind, data if kind != "agent_completed" else ["x"], attempt=attempt)  # type: ignore[arg-type]  # what it is for


class RepliesLists(MinimalServer):
    """Answers each message with a list."""

    def reply(self, connection: Connection, frame: Frame, data: Frame) -> None:
        super().reply(connection, frame, data if frame["op"] != "send" else ["x"])  # type: ignore[arg-type]  # what it is for


@pytest.mark.parametrize("server", [SendsLists, RepliesLists])
async def test_data_that_are_no_object_are_a_fault_and_no_crash(server: type[MinimalServer]) -> None:
    load = await _loaded(server(), Plan(users=2, rate=10, duration_s=0.3, timeout_s=1))
    assert load.tally.wrong > 0
    assert any("no object" in note or "not of the form" in note for note in load.tally.notes)
    assert shown.exit_code(load) == 1


async def test_a_kill_happens_within_a_short_load_too() -> None:
    kills = []

    async def kill() -> None:
        kills.append(asyncio.get_running_loop().time())

    load = await _loaded(MinimalServer(), Plan(users=1, rate=10, duration_s=0.4, timeout_s=5), kill=kill)
    assert len(kills) == load.tally.kills == 1


async def test_a_kill_that_has_begun_is_done_when_the_load_is_over() -> None:
    done = []

    async def kill() -> None:
        await asyncio.sleep(1.0)  # longer than what is left of the load
        done.append(1)

    await _loaded(MinimalServer(), Plan(users=1, rate=10, duration_s=0.4, timeout_s=5), kill=kill)
    assert done == [1]


class Stalls(MinimalServer):
    """Does nothing of any run for its first moments."""

    stall_s = 0.8
    until_s = 0.0

    async def turn(self, run: Run) -> None:
        now_s = asyncio.get_running_loop().time()
        self.until_s = self.until_s or now_s + self.stall_s
        await asyncio.sleep(max(0.0, self.until_s - now_s))
        await super().turn(run)


class Freezes(Stalls):
    """Holds up the loop for a moment, and with it the load, which is in the same process here."""

    async def turn(self, run: Run) -> None:
        if len(self.runs) == 1:
            time.sleep(self.stall_s)  # noqa: ASYNC251 - what it is for
        await MinimalServer.turn(self, run)


async def test_a_stall_is_in_the_times_of_all_messages_that_were_due_in_it() -> None:
    server = Stalls()
    server.stall_s = 1.6
    load = await _loaded(server, Plan(users=1, rate=20, duration_s=2.0, timeout_s=10))
    tally = load.tally
    assert tally.sent + tally.held_back == 40
    assert sum(count for *_, count in tally.run.bars()) == 40
    # Of 40, 32 were due in the stall and 16 of those waited for a place: the 20th was due 0.65 s before its end.
    # Counted from when they were sent, more than half would be fast.
    assert tally.run.quantile_s(0.5) > 0.4
    assert tally.begun.quantile_s(0.5) > 0.4
    assert tally.run.quantile_s(0.99) > 1.4


async def test_a_load_that_is_late_itself_counts_from_when_messages_were_due() -> None:
    load = await _loaded(Freezes(), Plan(users=2, rate=40, duration_s=1.2, timeout_s=10))
    assert load.tally.sent + load.tally.held_back == 48
    # Of 48, 32 were due while the load could not send, a quarter of them more than 0.5 s before its end.
    assert load.tally.run.quantile_s(0.75) > 0.3


async def test_what_is_never_sent_counts_with_the_time_that_it_waited() -> None:
    server = Stalls()
    server.stall_s = 1.5
    load = await _loaded(server, Plan(users=1, rate=100, duration_s=1.0, timeout_s=10))
    tally = load.tally
    assert tally.held_back == 100 - tally.sent > 50
    assert sum(count for *_, count in tally.run.bars()) == 100
    assert tally.run.quantile_s(0.5) > 0.3


async def test_what_crosses_counts_for_each_account_and_one_account_proves_nothing_of_others() -> None:
    plan = Plan(users=4, rate=20, duration_s=0.5, timeout_s=2)
    async with asyncio.TaskGroup() as tasks:
        both = tasks.create_task(_loaded(Broadcasts(), plan))
        one = tasks.create_task(_loaded(Broadcasts(), plan, "good-token"))
    load, alone = both.result(), one.result()
    assert set(load.tally.crossed_to) == {1, 2}
    assert sum(load.tally.crossed_to.values()) == load.tally.crossed
    assert "of account 2" in "".join(load.tally.notes)
    assert shown.figures(alone)["accounts"] == 1
    assert "to the right user" not in shown.verdict(alone)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("http://127.0.0.1:9", "--token", "t"), "cannot be reached"),
        (("local", "--token", "t"), "`local` makes its own users"),
        (("local", "--users", "0"), "--users"),
        (("http://127.0.0.1:9", "--token", "t", "--kills", "2"), "--kill COMMAND"),
        (("local", "--report", "junit", "x"), "--report"),
        (("http://127.0.0.1:9", "http://127.0.0.1:9", "--token", "t"), "one deployment at a time"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_what_cannot_be_measured_is_no_success(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    status, out = await _bench(*words, cwd=tmp_path)
    assert status == 2, out
    assert said in " ".join(out.replace("│", " ").split())


def test_quantiles_are_within_their_buckets() -> None:
    chance = random.Random(7)
    times = sorted(chance.lognormvariate(-4, 2) for _ in range(20_000))
    histogram = Histogram()
    for each in times:
        histogram.add(each)
    for share in (0.5, 0.95, 0.99):
        assert histogram.quantile_s(share) == pytest.approx(times[int(share * len(times)) - 1], rel=0.04)
    assert histogram.quantile_s(1.0) == times[-1]
    assert sum(count for *_, count in histogram.bars()) == len(times)
