"""The wall clock jumps by an hour: what the design measures goes on, and order is `seq` alone.

No tool of the system is needed: the test build reads its wall clock through one seam (`tests.chaos.clock`), and the
monotonic clock is left alone, as the kernel does when somebody sets the time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.clock import CLOCKS
from tests.chaos.deployment import ROOT, ChaosServer
from tests.chaos.oracle import judge_file, stored_events
from tests.outside import Outside, assert_one_run, http

HOUR_S = 3600
REVOKED_S = 5.0  # promised: under one second


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ChaosServer]:
    server = ChaosServer(tmp_path)
    await server.start()
    yield server
    await server.kill9()


def _shift(server: ChaosServer, offset_s: float) -> None:
    scratch = server.clock.with_suffix(".new")
    scratch.write_text(str(offset_s), encoding="ascii")
    scratch.replace(server.clock)


def test_nobody_else_reads_the_wall_clock() -> None:
    """What this file moves is all there is: else a jump would be tested of a part of the server only."""
    reads = re.compile(r"\btime\.time\b|time_ns\(|datetime\.now|utcnow|localtime|gmtime")
    source = ROOT / "src" / "runwire"
    found = {
        path.relative_to(ROOT / "src").with_suffix("").as_posix().replace("/", ".")
        for path in source.rglob("*.py")
        if path.relative_to(source).parts[0] not in ("client", "conformance", "cli", "testing")
        and reads.search(re.sub(r"datetime\.(time|timedelta)\b", "", path.read_text(encoding="utf-8")))
    }
    assert found == set(CLOCKS)


async def _session(server: ChaosServer) -> dict[str, Any]:
    """Sign a person in with a password."""
    body = {"user": "ann", "password": "correct horse battery"}
    status, session = await asyncio.to_thread(http, "POST", f"{server.url}/auth/sessions", body)
    assert status == 201, session
    granted: dict[str, Any] = session
    return granted


@pytest.mark.timeout(60)
@pytest.mark.parametrize("jump_s", [pytest.param(HOUR_S, marks=pytest.mark.campaign), -HOUR_S])
async def test_a_jump_in_mid_run_disturbs_no_run_no_socket_and_no_revocation(
    server: ChaosServer, jump_s: float
) -> None:
    key = await server.create_user("ann", password="correct horse battery")
    session = await _session(server)
    by_key, by_session = Outside(server.url, key), Outside(server.url, session["access_token"])
    async with by_key.connected(), by_session.connected():
        sent = await by_key.send("a long way parts=10", agent="voyage")
        await by_session.subscribe(sent["thread"], after=0)
        await by_key.until(lambda e: e["type"] == "tool_completed")
        _shift(server, jump_s)
        # Neither socket is closed, neither has a gap, and the run meets no deadline.
        await by_key.until_end(sent["run"])
        await by_session.until_end(sent["run"])
        later = await by_session.send("and again parts=2", agent="voyage", thread=sent["thread"])
        await by_session.until_end(later["run"])
        await by_key.until_end(later["run"])
        assert by_key.events == by_session.events
        stored = await asyncio.to_thread(stored_events, by_key, sent["thread"])
        assert stored == by_key.events[sent["thread"]]
        for run in (sent["run"], later["run"]):
            assert_one_run(stored, run)
        completed = [e for e in stored if e["type"] == "agent_completed"]
        assert len(completed) == 2
        assert all(0 <= e["data"]["duration_ms"] < 60_000 for e in completed), completed  # measured, not subtracted
        moved_ms = next(e["ts"] for e in stored if e["run"] == later["run"]) - stored[0]["ts"]
        assert abs(moved_ms / 1000 - jump_s) < 60, "the clock of the test build did not move"
        # A sign-in goes on: its refresh token gives an access token that is good now.
        renewed = await _refreshed(server, session["refresh_token"])
        me = await asyncio.to_thread(http, "GET", f"{server.url}/v1/me", token=renewed["access_token"])
        assert me[0] == 200, me
        # Withdrawing access reaches open sockets as fast as ever.
        await server.cli("user", "disable", "ann")
        told_s = time.monotonic()  # from here on: how long a process takes to start is the machine's business
        for client in (by_key, by_session):
            bye = await client.frame(timeout_s=REVOKED_S)
            while bye["op"] != "bye":
                bye = await client.frame(timeout_s=REVOKED_S)
            assert bye["code"] == 4507, bye
        assert time.monotonic() - told_s < REVOKED_S


async def _refreshed(server: ChaosServer, refresh_token: str) -> dict[str, Any]:
    import urllib.parse
    import urllib.request

    form = urllib.parse.urlencode({"grant_type": "refresh_token", "refresh_token": refresh_token}).encode()

    def post() -> dict[str, Any]:
        request = urllib.request.Request(f"{server.url}/auth/token", data=form, method="POST")
        with urllib.request.urlopen(request, timeout=30) as response:
            import json

            granted: dict[str, Any] = json.loads(response.read())
            return granted

    return await asyncio.to_thread(post)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("jump_s", [HOUR_S, pytest.param(-HOUR_S, marks=pytest.mark.campaign)])
async def test_a_jump_while_the_server_is_down_costs_no_run_its_deadline(server: ChaosServer, jump_s: float) -> None:
    ann = Outside(server.url, await server.key("ann"))
    async with ann.connected():
        sent = await ann.send("a long way parts=10", agent="voyage")
        await ann.until(lambda e: e["type"] == "tool_completed")
    await server.kill9()
    _shift(server, jump_s)
    await server.start()
    async with ann.connected():
        await ann.subscribe(sent["thread"])
        await ann.until_end(sent["run"])
        later = await ann.send("and again parts=2", agent="voyage", thread=sent["thread"])
        await ann.until_end(later["run"])
    stored = await asyncio.to_thread(stored_events, ann, sent["thread"])
    assert stored == ann.events[sent["thread"]]
    assert [e["type"] for e in stored].count("agent_completed") == 2, stored[-1]
    assert_one_run(stored, sent["run"])
    await server.stop()
    await asyncio.to_thread(judge_file, server, is_over=True)


@pytest.mark.timeout(60)
async def test_who_was_revoked_stays_revoked_when_the_clock_is_put_right(server: ChaosServer) -> None:
    """A machine wakes up an hour behind, somebody signs out, the clock is corrected, the server restarts."""
    await server.create_user("ann", password="correct horse battery")
    session, other = await _session(server), await _session(server)
    _shift(server, -HOUR_S)
    renewed = await _refreshed(server, session["refresh_token"])  # the other one is not valid yet, it says
    url = f"{server.url}/auth/sessions/current"
    status, problem = await asyncio.to_thread(http, "DELETE", url, token=renewed["access_token"])
    assert status == 204, problem
    _shift(server, 0)
    await server.kill9()
    await server.start()
    url = f"{server.url}/v1/me"
    status, problem = await asyncio.to_thread(http, "GET", url, token=other["access_token"])
    assert status == 200, problem  # nobody signed out of that one
    status, problem = await asyncio.to_thread(http, "GET", url, token=session["access_token"])
    assert status == 401, problem
