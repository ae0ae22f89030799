"""The checker is checked: every wrong server is named, the right one never."""

from __future__ import annotations

import asyncio
import socket

import pytest
from tests.conformance.faulty_servers import FAULTS, Drains, Fault, Refuses
from tests.conformance.minimal_server import MinimalServer, with_tool, without_tools

from runwire.conformance import Report, as_json, as_markdown, as_text, check
from runwire.errors import ConfigurationError

TIMEOUT_S = 1.5  # a faulty server is waited for that long


def check_server(server: MinimalServer, **options: object) -> Report:
    async def run() -> Report:
        async with server.running() as url:
            return await check(
                url, "good-token", **{"timeout_s": TIMEOUT_S, "categories": ("golden_path", "resume"), **options}
            )  # type: ignore[arg-type]

    return asyncio.run(run())


def broken(report: Report) -> tuple[str, ...]:
    return tuple(result.case for result in report.of("broken"))


@pytest.mark.parametrize("fault", FAULTS["golden_path"], ids=lambda f: f"{f.server.__name__}-{f.names[0]}")
def test_golden_path_names_the_fault_with_evidence(fault: Fault) -> None:
    report = check_server(fault.server(fault.agent), categories=["golden_path"], expect="five")
    assert broken(report) == fault.names, as_text(report)
    assert report.exit_code == 1
    assert_has_evidence(report)


@pytest.mark.parametrize("fault", FAULTS["resume"], ids=lambda f: f"{f.server.__name__}-{f.names[0]}")
def test_resume_names_the_fault_with_evidence(fault: Fault) -> None:
    report = check_server(fault.server(fault.agent, ping_s=0.1), categories=["resume"])
    assert broken(report) == fault.names, as_text(report)
    assert report.exit_code == 1
    assert_has_evidence(report)


def assert_has_evidence(report: Report) -> None:
    for result in report.of("broken"):
        assert result.evidence
        for evidence in result.evidence:
            assert evidence.expected
            assert evidence.seen


def test_evidence_says_where_and_shows_the_frames() -> None:
    lost = next(fault for fault in FAULTS["golden_path"] if fault.names == ("no_hole",))
    evidence = check_server(lost.server(), categories=["golden_path"]).of("broken")[0].evidence[0]
    assert evidence.position == 5
    assert "from seq 4 to seq 4 are missing" in evidence.seen
    assert any('"seq":5' in frame for frame in evidence.frames)


def test_a_correct_server_passes_twenty_times() -> None:
    for _ in range(20):
        report = check_server(MinimalServer(ping_s=0.1), expect="five")
        assert report.exit_code == 0, as_text(report)
        assert not report.of("not_checked")


def test_a_correct_server_under_its_own_pace_passes() -> None:
    report = check_server(MinimalServer(pace_s=0.01), expect="five", timeout_s=10)
    assert report.exit_code == 0, as_text(report)


def test_without_tools_five_is_never_passed_and_any_is() -> None:
    assert broken(check_server(MinimalServer(without_tools), expect="five")) == ("five",)
    report = check_server(MinimalServer(without_tools), expect="any")
    assert report.exit_code == 0, as_text(report)
    assert [result.case for result in report.of("not_checked")] == ["five", "position_frame"]


def test_a_dead_host_could_not_be_checked() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        report = asyncio.run(check(f"http://127.0.0.1:{taken.getsockname()[1]}", "t", timeout_s=TIMEOUT_S))
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


def test_zero_checks_are_no_success() -> None:
    report = asyncio.run(check("http://127.0.0.1:9", "t", categories=[]))
    assert report.exit_code == 2


def test_an_unknown_category_is_an_error_that_names_the_known() -> None:
    with pytest.raises(ConfigurationError, match="golden_path, ordering"):
        asyncio.run(check("http://127.0.0.1:9", "t", categories=["golden"]))


def test_each_result_is_told_at_once_and_in_order() -> None:
    told: list[str] = []
    report = check_server(MinimalServer(), on_result=lambda result: told.append(result.case))
    assert told == [result.case for result in report.results]


def test_reports_show_promise_evidence_and_verdict() -> None:
    lost = next(fault for fault in FAULTS["golden_path"] if fault.names == ("no_hole",))
    report = check_server(lost.server(with_tool), categories=["golden_path"])
    for text in (as_text(report), as_markdown(report), as_json(report)):
        assert "no_hole" in text
        assert "Promises are broken" in text
        assert "seq 4" in text
    assert '"exit_code": 1' in as_json(report)
    assert "good-token" not in as_json(report)
