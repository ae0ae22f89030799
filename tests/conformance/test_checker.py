"""The checker is checked: every wrong server is named, the right one never."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import pytest
from tests.conformance.faults import BUDGET, FAULTS, Fault
from tests.conformance.faulty_servers import Drains, LosesOne, Refuses
from tests.conformance.minimal_run import Run, Thread
from tests.conformance.minimal_server import Connection, Frame, MinimalServer, without_tools
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from runwire.conformance import CATEGORIES, Report, as_json, as_markdown, as_text, check
from runwire.errors import ConfigurationError

SLOW = ("timing", "crash")  # they measure, so they are not looked at beside all others
AT_ONCE = 24


async def checked(server: MinimalServer, **options: Any) -> Report:
    defaults = {
        "expect": "five",
        "timeout_s": 1.5,  # a faulty server is waited for that long
        "rounds": 1,
        "budget": BUDGET,
        "other_token": "other-token",
        "expired_token": "expired-token",
        "kill": server.die,
    }
    async with server.running() as url:
        return await check(url, "good-token", **{**defaults, **options})


def check_server(server: MinimalServer, **options: Any) -> Report:
    return asyncio.run(checked(server, **options))


def broken(report: Report) -> set[str]:
    return {result.id for result in report.of("broken")}


async def _one(fault: Fault, free: asyncio.Semaphore, **options: Any) -> Report:
    async with free:
        slow = {"timeout_s": 10.0} if fault.category in SLOW else {}
        return await checked(fault.server(fault.agent, ping_s=0.1), **{**slow, **options, **fault.options})


async def _all() -> dict[str, Report]:
    reports = {}
    for kind in (False, True):
        free = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            faults = [fault for fault in FAULTS if (fault.category in SLOW) is kind]
            found = {str(fault): tasks.create_task(_one(fault, free, categories=[fault.category])) for fault in faults}
        reports.update({name: task.result() for name, task in found.items()})
    return reports


@pytest.fixture(scope="module")
def reports() -> Mapping[str, Report]:
    """Check all wrong servers, many at once: most of a check is waiting."""
    return asyncio.run(_all())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_each_fault_is_named_with_evidence(reports: Mapping[str, Report], fault: Fault) -> None:
    report = reports[str(fault)]
    assert broken(report) == fault.cases, as_text(report)
    assert report.exit_code == 1
    for result in report.of("broken"):
        assert result.evidence
        assert all(evidence.expected and evidence.seen for evidence in result.evidence)


def test_for_each_case_there_is_a_server_that_only_it_names() -> None:
    cases = {f"{category.name}/{case.name}" for category in CATEGORIES.values() for case in category.cases}
    assert cases == {fault.case for fault in FAULTS if not fault.also and not fault.elsewhere}
    assert len({fault.server for fault in FAULTS}) >= 25


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_each_fault_is_named_by_no_case_of_any_other_category() -> None:
    async def everything() -> dict[str, Report]:
        free = asyncio.Semaphore(10)  # so what is measured on the way is no measure
        others = {"timeout_s": 6.0, "budget": {}, "skip": ("timing",)}
        async with asyncio.TaskGroup() as tasks:
            found = {str(f): tasks.create_task(_one(f, free, **others)) for f in FAULTS if f.category != "timing"}
        return {name: task.result() for name, task in found.items()}

    reports = asyncio.run(everything())
    wanted = {str(fault): {*fault.cases, *fault.elsewhere} for fault in FAULTS if str(fault) in reports}
    found = {name: broken(report) for name, report in reports.items()}
    assert {name: found[name] for name in found if found[name] != wanted[name]} == {}


def test_evidence_says_where_and_shows_the_frames(reports: Mapping[str, Report]) -> None:
    evidence = reports["LosesOne-golden_path/no_hole"].of("broken")[0].evidence[0]
    assert evidence.position == 5
    assert "the event with seq 4 is missing" in evidence.seen
    assert any('"seq":5' in frame for frame in evidence.frames)


@pytest.mark.timeout(60)
def test_a_correct_server_passes_everything() -> None:
    async def twice() -> list[Report]:
        async with asyncio.TaskGroup() as tasks:
            servers = [(MinimalServer(ping_s=0.1), workers) for workers in (1, 4)]
            found = [tasks.create_task(checked(server, timeout_s=10, workers=n)) for server, n in servers]
        return [task.result() for task in found]

    for report in asyncio.run(twice()):
        assert report.exit_code == 0, as_text(report)
        assert not report.of("not_checked")


def test_a_correct_server_passes_the_golden_path_and_resumes_five_times() -> None:
    for _ in range(5):
        report = check_server(MinimalServer(ping_s=0.1), categories=("golden_path", "resume"), timeout_s=10)
        assert report.exit_code == 0, as_text(report)
        assert not report.of("not_checked")


def test_a_correct_server_under_its_own_pace_passes() -> None:
    report = check_server(MinimalServer(pace_s=0.01), categories=("golden_path", "resume"), timeout_s=10)
    assert report.exit_code == 0, as_text(report)


class Busy(MinimalServer):
    """Has no room for some commands, and says so at once, before those that came earlier are done."""

    def subscribe(self, connection: Connection, frame: Frame) -> None:
        if frame["id"].startswith("s") and not frame["id"].endswith("again"):
            self.refuse(connection, frame, "rate_limited")
            asyncio.get_running_loop().call_later(0.1, super().subscribe, connection, {**frame, "id": "before"})
        else:
            super().subscribe(connection, frame)


def test_a_server_that_has_no_room_for_more_commands_breaks_no_promise() -> None:
    report = check_server(Busy(), categories=("slow_reader",), timeout_s=10)
    assert report.exit_code == 0, as_text(report)


def test_without_tools_five_is_never_passed_and_any_is() -> None:
    server = MinimalServer(without_tools)
    assert broken(check_server(server, categories=["golden_path"])) == {"golden_path/five"}
    report = check_server(MinimalServer(without_tools), expect="any", categories=["golden_path"])
    assert report.exit_code == 0, as_text(report)
    assert [result.case for result in report.of("not_checked")] == ["five"]


def test_what_rests_on_the_golden_path_is_not_looked_at_where_that_is_broken() -> None:
    report = check_server(LosesOne(), categories=("golden_path", "input"))
    assert broken(report) == {"golden_path/no_hole"}
    assert {r.why for r in report.results if r.category == "input"} == {"needs golden_path/no_hole, which is broken"}


def test_fail_fast_stops_at_the_first_broken_promise() -> None:
    report = check_server(LosesOne(), categories=("golden_path",), fail_fast=True)
    after = [r for r in report.results if r.status == "not_checked" and r.why == "stopped at the first broken promise"]
    assert len(report.of("broken")) == 1
    assert after


def test_priority_one_is_the_golden_path() -> None:
    report = check_server(MinimalServer(), priority="p1", timeout_s=10)
    assert report.categories == ("golden_path",)
    assert report.exit_code == 0, as_text(report)


def test_what_is_skipped_is_not_in_the_report() -> None:
    report = check_server(MinimalServer(), categories=("golden_path", "input"), skip=("golden_path",), timeout_s=10)
    assert report.categories == ("input",)


def test_a_dead_host_could_not_be_checked() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        report = asyncio.run(check(f"http://127.0.0.1:{taken.getsockname()[1]}", "t", timeout_s=1.5))
    assert report.exit_code == 2
    assert report.problem
    assert "cannot be reached" in report.problem
    assert not report.of("kept")


def test_refused_credentials_could_not_be_checked() -> None:
    report = check_server(Refuses())
    assert report.exit_code == 2
    assert report.problem
    assert "credentials are refused" in report.problem


def test_a_draining_deployment_could_not_be_checked() -> None:
    report = check_server(Drains())
    assert report.exit_code == 2, as_text(report)


class LosesItsDatabase(MinimalServer):
    """Says of each message after some that it is unavailable just now."""

    def send(self, connection: Connection, frame: Frame) -> None:
        if len(self.runs) < self.most:
            super().send(connection, frame)
        else:
            self.refuse(connection, frame, "unavailable")

    most = 0


@pytest.mark.parametrize("most", [0, 4, 12])
def test_a_deployment_that_says_it_is_unavailable_could_not_be_checked(most: int) -> None:
    server = LosesItsDatabase(ping_s=0.1)
    server.most = most
    report = check_server(server, categories=("golden_path", "ordering", "resume", "concurrency"), timeout_s=10)
    assert report.exit_code == 2, as_text(report)
    assert report.problem
    assert "unavailable" in report.problem


class CannotCancelNow(MinimalServer):
    """Says of each cancel that it is unavailable just now."""

    def cancel(self, connection: Connection, frame: Frame) -> None:
        self.refuse(connection, frame, "unavailable")


class DropsSockets(MinimalServer):
    """Loses a connection in mid-run, as one that is killed does."""

    def emitted(self, run: Run, kind: str, data: Frame) -> None:
        super().emitted(run, kind, data)
        if len(self.runs) > 3:
            for connection in list(self.connections):
                connection.socket.transport.abort()


class DropsAmongMany(MinimalServer):
    """Loses connections where many are open: those who send beside each other fail together."""

    def send(self, connection: Connection, frame: Frame) -> None:
        if len(self.connections) > 3:
            connection.socket.transport.abort()
        else:
            super().send(connection, frame)


class HistoryAway(MinimalServer):
    """Has its database away for what was said, and tells more of the request than it should."""

    async def thread_route(self, thread: Thread, rest: list[str], query: dict[str, str], headers: Headers) -> Response:
        said = headers["Authorization"]
        return self.problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", detail=f"asked with {said}")


class HangsUp(MinimalServer):
    """Ends a request without an answer, as a process that is killed does."""

    async def http(self, socket: ServerConnection, request: Request) -> Response | None:
        if "/threads/" in request.path:
            socket.transport.abort()
        return await super().http(socket, request)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (CannotCancelNow, "said that it is unavailable"),
        (DropsSockets, "A connection was lost"),
        (DropsAmongMany, "A connection was lost"),
        (HistoryAway, "503"),
        (HangsUp, "no answer"),
    ],
)
def test_what_is_away_for_now_in_the_middle_of_a_case_could_not_be_checked(
    server: type[MinimalServer], said: str
) -> None:
    report = check_server(server(ping_s=0.1), categories=("golden_path", "cancel", "concurrency"), timeout_s=10)
    assert report.exit_code == 2, as_text(report)
    assert said in (report.problem or "")
    assert "try again" in (report.problem or "")
    assert not any(result.evidence for result in report.results), "what was not checked has no evidence"
    assert "good-token" not in as_json(report)


def test_zero_checks_are_no_success() -> None:
    report = asyncio.run(check("http://127.0.0.1:9", "t", categories=[]))
    assert report.exit_code == 2


@pytest.mark.parametrize(("ended_s_ago", "is_checked"), [(-600, False), (20, False), (120, True)])
def test_a_token_that_may_still_be_good_proves_nothing(ended_s_ago: int, is_checked: bool) -> None:
    """Its end is within what clocks may differ by: a deployment that takes it is not at fault."""
    end = int(datetime.now(tz=UTC).timestamp()) - ended_s_ago
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({}, {"exp": end})
    )
    report = check_server(MinimalServer(), categories=("auth",), expired_token=f"{head}.{body}.c2lnbmVk")
    (result,) = (one for one in report.results if one.id == "auth/expired")
    assert result.status == ("kept" if is_checked else "not_checked"), as_text(report)
    assert is_checked or "--expired-token" in (result.why or "")


def test_what_needs_more_than_was_given_is_not_checked_and_says_what() -> None:
    report = check_server(
        MinimalServer(), categories=("isolation", "auth", "crash"), other_token=None, expired_token=None, kill=None
    )
    whys = {result.id: result.why or "" for result in report.of("not_checked")}
    assert "--other-token" in whys["isolation/lists"]
    assert "--expired-token" in whys["auth/expired"]
    assert "--kill" in whys["crash/survives"]
    assert whys["crash/is_told"] == whys["crash/survives"], "what needs another case has its reason"
    assert report.exit_code == 0, as_text(report)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"categories": ["golden"]}, "golden_path, ordering"), ({"budget": {"replies_ms": 1.0}}, "reply_ms")],
)
def test_an_unknown_name_is_an_error_that_says_the_known(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        asyncio.run(check("http://127.0.0.1:9", "t", **options))


def test_each_result_is_told_at_once_and_in_order() -> None:
    told: list[str] = []
    report = check_server(
        MinimalServer(),
        on_result=lambda result: told.append(result.case),
        categories=("golden_path", "ordering"),
        timeout_s=10,
    )
    assert told == [result.case for result in report.results]


def test_reports_show_promise_evidence_and_verdict_and_no_secret(reports: Mapping[str, Report]) -> None:
    report = reports["LosesOne-golden_path/no_hole"]
    for text in (as_text(report), as_markdown(report), as_json(report)):
        assert "no_hole" in text
        assert "Promises are broken" in text
        assert "seq 4" in text
    assert '"exit_code": 1' in as_json(report)
    for each in reports.values():
        for secret in ("good-token", "other-token", "expired-token"):
            assert secret not in as_json(each)
