"""Known failures of systems like this one: each row of that list is a test here, or elsewhere, or waits for its stage.

`ROWS` says which test proves which row; the first test checks that what it names exists.
"""

from __future__ import annotations

import ast
import asyncio
import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import websockets
from tests.mission_critical.deployment import AGENTS, Deployment
from tests.outside import TERMINAL, Dismissed, Outside, assert_one_run, http

ROOT = Path(__file__).resolve().parents[2]
FAULTY = AGENTS.with_name("known_failures.py")


@dataclass(frozen=True)
class Row:
    """What proves a row: tests of this file by name, others as `folder/file.py::name`; and what of it comes later."""

    tests: tuple[str, ...] = ()
    later: str = ""


_MC = "mission_critical"
_BASIC = f"{_MC}/test_websocket_basic_events.py"
_AUTH = "unit/auth/test_service.py"
_CLIENT = "unit/auth/test_client.py"
ROWS: dict[int, Row] = {
    2: Row(
        (
            f"{_BASIC}::test_an_agent_without_tools_has_no_tool_events",
            "conformance/test_own_server.py::test_agents_that_use_no_tools_or_fail_are_in_order_too",
        )
    ),
    3: Row(("test_however_a_run_ends_it_has_one_beginning_one_end_and_nothing_after_it",)),
    4: Row(
        (
            f"{_BASIC}::test_a_raising_tool_is_closed_once_and_the_agent_goes_on",
            "unit/runtime/test_run.py::test_three_tools_in_a_row_have_a_beginning_and_an_end_each",
            "unit/runtime/test_run.py::test_parallel_tools_in_a_task_group_fail_the_run_with_what_to_do",
            "unit/runtime/test_branches.py::test_branches_run_at_once_and_their_results_come_in_order",
        ),
    ),
    5: Row((f"{_MC}/test_promises.py::test_a_run_without_any_listener_is_whole_and_no_slower",)),
    6: Row((f"{_BASIC}::test_a_cut_at_every_frame_while_the_run_is_live",), later="on another node: the cluster"),
    7: Row(("test_1200_events_emitted_while_nobody_listens_are_all_there_in_order",)),
    8: Row(("test_events_of_every_kind_come_in_the_order_in_which_they_were_emitted",)),
    9: Row(
        (
            f"{_MC}/test_isolation.py::test_two_users_with_50_runs_each_see_only_their_own",
            "hostile/test_openapi.py::test_on_every_route_a_foreign_id_is_answered_as_an_unknown_one",
        )
    ),
    10: Row(("test_a_third_tab_that_comes_and_leaves_costs_the_other_two_nothing",)),
    11: Row((f"{_BASIC}::test_five_events_arrive_in_order_and_carry_what_the_agent_did",)),
    12: Row(("contract/test_event_log.py::test_unknown_and_queued_runs_are_fenced",)),
    13: Row((f"{_MC}/test_refusals.py::test_a_wrong_object_is_refused_by_name_and_starts_nothing",)),
    15: Row(("test_who_connects_while_the_server_starts_is_served_soon_after_it_is_ready",)),
    16: Row(
        (
            f"{_MC}/test_refusals.py::test_hello_subprotocol_and_ticket_sign_in_as_the_header_does",
            f"{_MC}/test_refusals.py::test_a_wrong_token_is_told_so_after_the_upgrade",
        )
    ),
    17: Row(("test_without_the_header_ticket_and_subprotocol_work_and_no_log_has_them",)),
    18: Row(
        (
            f"{_MC}/test_promises.py::test_disabling_a_user_closes_its_sockets_in_a_second_and_nobody_elses",
            f"{_CLIENT}::test_the_corpus_is_refused_through_the_client_with_one_answer",
            "unit/gateway/test_sockets.py::test_an_expired_token_is_4005_and_a_refreshed_one_goes_on",
            "unit/gateway/test_sockets.py::test_identity_failures_are_told_after_the_upgrade",
        )
    ),
    19: Row(("test_a_signed_out_session_is_dead_at_once_and_after_a_kill",), later="two instances: the cluster"),
    20: Row(
        (
            f"{_CLIENT}::test_a_dead_service_stops_neither_tokens_nor_revocation",
            f"{_CLIENT}::test_a_view_that_cannot_be_confirmed_goes_stale_then_expires_and_heals",
            "unit/gateway/test_sockets.py::test_an_identity_that_cannot_be_decided_is_4013",
            f"{_AUTH}::test_a_store_that_does_not_answer_is_503_with_a_time_to_come_back",
        )
    ),
    21: Row(
        (
            f"{_AUTH}::test_introspection_needs_a_service_secret_and_two_are_valid_at_once",
            f"{_AUTH}::test_without_service_secrets_nobody_introspects",
        )
    ),
    22: Row(later="sign-up over two databases: the auth role of the cluster; here a user is one write of one file"),
    23: Row(later="OIDC"),
    24: Row(
        (f"{_CLIENT}::test_a_wrong_service_secret_is_named_at_the_check_and_not_shown",),
        later="other versions: the auth role of the cluster; here both halves are one program",
    ),
    25: Row(
        (
            "test_a_hanging_and_a_silent_agent_end_with_their_cause",
            f"{_MC}/test_kill9.py::test_twelve_kills_under_twenty_runs_lose_and_double_nothing",
        )
    ),
    26: Row(("test_a_blocked_agent_loop_delays_neither_heartbeats_nor_commands_of_20_others",)),
    27: Row((f"{_MC}/test_promises.py::test_cancel_stops_the_code_while_the_same_socket_streams",)),
    28: Row(("test_the_limit_of_active_runs_holds_over_sockets_and_after_a_kill",), later="over nodes: the cluster"),
    30: Row(later="breakers"),
    31: Row(later="breakers"),
    32: Row(
        (
            "test_whatever_an_agent_emits_is_shown_or_refused_and_the_stream_goes_on",
            "test_a_payload_that_is_no_json_fails_the_run_with_a_typed_error",
        )
    ),
    34: Row(later="PostgreSQL and Redis"),
    35: Row(
        (
            "test_production_does_not_start_with_a_weak_secret_and_knows_no_demo",
            f"{_MC}/test_command_line.py::test_faults_of_configuration_are_all_named_and_exit_78",
        )
    ),
    36: Row(
        (
            "e2e/test_page.py::test_a_reload_shows_the_same_and_nothing_twice",
            "e2e/test_page_survives.py::test_a_reload_in_mid_run",
            "unit/console/test_client_js.py::test_the_module_and_the_pages_pure_parts_keep_the_rules",
        )
    ),
    37: Row(
        (
            "e2e/test_page.py::test_a_newcomer_signs_in_by_link_asks_and_sees_the_run",
            "e2e/test_page.py::test_escape_cancels_and_says_so",
            "unit/console/test_client_js.py::test_the_module_and_the_pages_pure_parts_keep_the_rules",
        )
    ),
    38: Row(("test_rows_without_title_and_metadata_are_listed_and_opened_and_foreign_ones_are_not_found",)),
    40: Row(
        (
            "runner/test_unified_test_runner.py::test_an_unknown_category_is_an_error_that_names_the_known",
            "runner/test_unified_test_runner.py::test_a_failure_fails_and_fast_fail_stops_there",
            "runner/test_unified_test_runner.py::test_the_workers_are_as_many_as_asked_for",
        )
    ),
    41: Row((f"{_MC}/test_promises.py::test_sigterm_tells_clients_to_come_back_and_the_run_goes_on",)),
}
NUMBERS = [*range(2, 14), *range(15, 29), 30, 31, 32, *range(34, 39), 40, 41]  # of the list


def _tests_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name


def test_every_row_of_the_list_has_a_test_that_exists_or_says_when_it_comes() -> None:
    assert list(ROWS) == NUMBERS
    for number, row in ROWS.items():
        assert row.tests or row.later, number
        for name in row.tests:
            file, _, test = name.rpartition("::")
            path = ROOT / "tests" / file if file else Path(__file__)
            assert test in _tests_of(path), (number, name)
    named = {name for row in ROWS.values() for name in row.tests}
    own = set(_tests_of(Path(__file__))) - {"test_every_row_of_the_list_has_a_test_that_exists_or_says_when_it_comes"}
    assert own <= named, "a test of this file proves no row"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    server = Deployment(
        tmp_path_factory.mktemp("faulty"), agents=FAULTY, deadline_s=3.0, ping_s=1.0, pong_s=4.0, blocked_warn_s=0.5
    )
    asyncio.run(server.start())
    yield server
    asyncio.run(server.kill9())


async def test_however_a_run_ends_it_has_one_beginning_one_end_and_nothing_after_it(faulty: Deployment) -> None:
    """Row 3: success, failure, deadline, cancel."""
    ann = Outside(faulty.url, await faulty.key("row3"))
    ends = {
        "plain": "agent_completed",
        "unforgiving": "agent_failed",
        "hangs": "agent_failed",
        "beats": "agent_cancelled",
    }
    async with ann.connected():
        sents = {agent: await ann.send("go", agent=agent) for agent in ends}
        await ann.command("cancel", run=sents["beats"]["run"])
        open_runs = {sent["run"] for sent in sents.values()}
        for events in ann.events.values():
            open_runs -= {event["run"] for event in events if event["type"] in TERMINAL}
        while open_runs:
            got = await ann.until(lambda event: event["type"] in TERMINAL)
            open_runs.discard(got[-1]["run"])
    for agent, sent in sents.items():
        path = f"/v1/threads/{sent['thread']}/events"
        events = (await asyncio.to_thread(ann.http, "GET", path))[1]["events"]
        if agent != "beats" or any(event["type"] == "agent_started" for event in events):
            assert_one_run(events, sent["run"])  # a run that was cancelled while queued has only its end
        assert events[-1]["type"] == ends[agent], (agent, events[-1])
        assert [event["type"] for event in events].count(ends[agent]) == 1


async def test_1200_events_emitted_while_nobody_listens_are_all_there_in_order(faulty: Deployment) -> None:
    """Row 7."""
    ann = Outside(faulty.url, await faulty.key("row7"))
    async with ann.connected():
        sent = await ann.send("go", agent="offline")
    while (await asyncio.to_thread(ann.http, "GET", f"/v1/runs/{sent['run']}"))[1]["status"] != "completed":
        pass  # each turn is a request: the deadline is the test's
    async with ann.connected():
        await ann.subscribe(sent["thread"], after=0)
        events = await ann.until_end(sent["run"])
    assert [e["data"]["value"] for e in events if e["type"] == "custom"] == list(range(1_200))
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert_one_run(events, sent["run"])


async def test_events_of_every_kind_come_in_the_order_in_which_they_were_emitted(faulty: Deployment) -> None:
    """Row 8."""
    ann = Outside(faulty.url, await faulty.key("row8"))
    async with ann.connected():
        sent = await ann.send("go", agent="mixed")
        events = await ann.until_end(sent["run"])
    places = []
    for event in events:
        data = event["data"]
        match event["type"]:
            case "agent_thinking":
                places.append(int(data["text"]))
            case "custom":
                places.append(data["value"])
            case "tool_completed":
                places.append(data["result"])
            case "message_completed":
                places.append(int(data["content"]))
    assert places == list(range(120))


async def test_a_third_tab_that_comes_and_leaves_costs_the_other_two_nothing(faulty: Deployment) -> None:
    """Row 10: it leaves politely, and another one without a word."""
    key = await faulty.key("row10")
    first, second, third = (Outside(faulty.url, key) for _ in range(3))
    async with first.connected(), second.connected():
        sent = await first.send("go", agent="beats")
        await second.subscribe(sent["thread"], after=0)
        await first.until(lambda event: event["type"] == "text_delta")
        async with third.connected():
            await third.subscribe(sent["thread"], after=0)
            await third.until(lambda event: event["type"] == "text_delta")
            await third.command("unsubscribe", thread=sent["thread"])
        async with third.connected():
            await third.subscribe(sent["thread"])
            await third.until(lambda event: event["type"] == "text_delta")
        await first.until(lambda event: event["type"] == "text_delta", limit=5)
        await first.command("cancel", run=sent["run"])
        for tab in (first, second):
            held = tab.events.get(sent["thread"])
            if not held or held[-1]["type"] not in TERMINAL:
                await tab.until_end(sent["run"])
    assert first.events[sent["thread"]] == second.events[sent["thread"]]
    assert_one_run(first.events[sent["thread"]], sent["run"])


@pytest.mark.timeout(90)
async def test_who_connects_while_the_server_starts_is_served_soon_after_it_is_ready(tmp_path: Path) -> None:
    """Row 15: refused connections and 503 may be tried again; what opens is served; 1011 never comes."""
    server = Deployment(tmp_path)
    key = await server.key("ann")  # made without a server
    with socket.create_server(("127.0.0.1", 0)) as probe:
        server.process.port = probe.getsockname()[1]
    url = f"ws://127.0.0.1:{server.process.port}/v1/ws"
    headers = {"Authorization": f"Bearer {key}"}
    tries: list[str] = []

    async def connect_until_served() -> float:
        while True:
            try:
                async with asyncio.timeout(20), websockets.connect(url, additional_headers=headers) as opened:
                    first = json.loads(await opened.recv())
                    assert first["op"] == "welcome", first
                    return time.monotonic()
            except OSError:
                tries.append("refused")
            except websockets.InvalidStatus as answered:
                if answered.response.status_code != 503:
                    raise
                tries.append("503")
            await asyncio.sleep(0.05)  # a client's own backoff

    try:
        async with asyncio.TaskGroup() as tasks:
            served = tasks.create_task(connect_until_served())
            await server.start()
            ready_s = time.monotonic()
        assert served.result() - ready_s < 3 * 2.0
        assert tries, "it was never asked while it started"
    finally:
        await server.kill9()


async def test_without_the_header_ticket_and_subprotocol_work_and_no_log_has_them(faulty: Deployment) -> None:
    """Row 17: a proxy that strips `Authorization` is no obstacle, and no credential is ever in a log."""
    key = await faulty.key("row17")
    url = faulty.url.replace("http", "ws", 1) + "/v1/ws"
    _, made = await asyncio.to_thread(http, "POST", f"{faulty.url}/v1/ws-ticket", {}, token=key)
    protocols = [websockets.Subprotocol("runwire.v1"), websockets.Subprotocol(f"bearer.{key}")]
    for address, subprotocols in ((f"{url}?ticket={made['ticket']}", None), (url, protocols)):
        async with asyncio.timeout(10), websockets.connect(address, subprotocols=subprotocols) as opened:
            assert json.loads(await opened.recv())["op"] == "welcome"
            assert opened.subprotocol != f"bearer.{key}"
    log = faulty.process.log_path.read_text(encoding="utf-8")
    assert key not in log
    assert made["ticket"] not in log


@pytest.mark.timeout(90)
async def test_a_signed_out_session_is_dead_at_once_and_after_a_kill(own_deployment: Deployment) -> None:
    """Row 19: the access token and the refresh token, over HTTP and on a socket."""
    server = own_deployment
    link = server.process.sign_in_link.rpartition("link=")[2]
    _, session = await asyncio.to_thread(http, "POST", f"{server.url}/auth/sessions", {"link": link})
    access, refresh = session["access_token"], session["refresh_token"]
    assert (await asyncio.to_thread(http, "GET", f"{server.url}/v1/me", token=access))[0] == 200
    tab = Outside(server.url, access)
    async with tab.connected():
        done = await asyncio.to_thread(http, "DELETE", f"{server.url}/auth/sessions/current", token=access)
        assert done[0] == 204
        async with asyncio.timeout(3):
            while (frame := await tab.frame())["op"] != "bye":
                pass
        assert frame["code"] == 4507
    for _ in range(2):
        assert (await asyncio.to_thread(http, "GET", f"{server.url}/v1/me", token=access))[0] == 401
        body = {"grant_type": "refresh_token", "refresh_token": refresh}
        status, refused = await asyncio.to_thread(http, "POST", f"{server.url}/auth/token", body)
        assert (status, refused["code"]) == (400, "unauthenticated")
        with pytest.raises(Dismissed, match="4501"):
            async with tab.connected():
                pass
        await server.kill9()
        await server.start()


async def test_a_hanging_and_a_silent_agent_end_with_their_cause(faulty: Deployment) -> None:
    """Row 25: the deadline is 3 s here; the page learns of it soon after, and the record says the same."""
    ann = Outside(faulty.url, await faulty.key("row25"))
    async with ann.connected():
        for agent, code in (("hangs", "deadline_exceeded"), ("nothing", "no_result")):
            began_s = time.monotonic()
            sent = await ann.send("go", agent=agent)
            end = (await ann.until_end(sent["run"]))[-1]
            assert (end["type"], end["data"]["code"]) == ("agent_failed", code)
            assert time.monotonic() - began_s < 3 * 3.0
            status, shown = await asyncio.to_thread(ann.http, "GET", f"/v1/runs/{sent['run']}")
            assert (status, shown["status"], shown["error"]["code"]) == (200, "failed", code)


@pytest.mark.timeout(90)
async def test_a_blocked_agent_loop_delays_neither_heartbeats_nor_commands_of_20_others(faulty: Deployment) -> None:
    """Row 26: each of the 20 has its commands answered and its pings, while the loop of the agents stands."""
    blocker = Outside(faulty.url, await faulty.key("row26"))
    keys = [await faulty.key(f"row26-{n}") for n in range(5)]
    others = [Outside(faulty.url, keys[n % 5]) for n in range(20)]
    longest_s = 0.0
    async with blocker.connected(), AsyncExitStack() as stack:
        for other in others:
            await stack.enter_async_context(other.connected())
        sent = await blocker.send("2.5", agent="blocks")
        await blocker.until(lambda event: event["type"] == "agent_started")
        until_s = time.monotonic() + 2.0
        rounds = 0
        while time.monotonic() < until_s:
            for other in others:
                asked_s = time.monotonic()
                assert (await other.command("unsubscribe", thread="th_0"))["op"] == "unsubscribed"
                longest_s = max(longest_s, time.monotonic() - asked_s)
            rounds += 1
        end = (await blocker.until_end(sent["run"]))[-1]
        assert rounds > 0
    assert end["type"] in ("agent_completed", "agent_failed"), end
    assert longest_s < 1.0, f"an answer took {longest_s:.2f} s while an agent blocked"


@pytest.mark.timeout(90)
async def test_the_limit_of_active_runs_holds_over_sockets_and_after_a_kill(tmp_path: Path) -> None:
    """Row 28: two at a time for one user, from five sockets; the others are queued, and take their turn."""
    server = Deployment(tmp_path, agents=FAULTY, user_run_limit=2)
    await server.start()
    try:
        ann = Outside(server.url, await server.key("ann"))
        runs = []
        for _ in range(5):
            tab = Outside(server.url, ann.token)
            async with tab.connected():
                runs.append((await tab.send("go", agent="beats"))["run"])

        async def with_status(status: str) -> set[str]:
            page = (await asyncio.to_thread(ann.http, "GET", f"/v1/runs?status={status}"))[1]
            return {item["run"] for item in page["items"]}

        for _ in range(2):
            while len(await with_status("running")) < 2:
                pass  # each turn is a request: the deadline is the test's
            assert len(await with_status("queued")) == 3
            await server.kill9()
            await server.start()
        while runs:
            running = await with_status("running")
            assert len(running) <= 2
            for run in running:
                await asyncio.to_thread(ann.http, "POST", f"/v1/runs/{run}/cancel", {})
            runs = [run for run in runs if run in await with_status("queued") | await with_status("running")]
    finally:
        await server.kill9()


async def test_whatever_an_agent_emits_is_shown_or_refused_and_the_stream_goes_on(faulty: Deployment) -> None:
    """Row 32."""
    ann = Outside(faulty.url, await faulty.key("row32"))
    async with ann.connected():
        sent = await ann.send("go", agent="payloads")
        events = await ann.until_end(sent["run"])
    shown = {e["data"]["name"]: e["data"]["value"] for e in events if e["type"] == "custom"}
    refused = [e["data"]["value"]["name"] for e in events if e["type"] == "custom" and e["data"]["name"] == "refused"]
    assert shown["datetime"].startswith("2026-11-22T00:00:00")
    assert shown["enum"] == "red"
    assert shown["model"]["name"] == "ada"
    assert set(refused) >= {"NaN", "NUL", "surrogate", "object"}
    assert ("bytes" in shown) != ("bytes" in refused)
    large = shown["large"]
    assert large["bytes"] == 1_048_578  # the JSON of 1 MiB of text
    status, blob = await asyncio.to_thread(ann.http, "GET", f"/v1/blobs/{large['$ref']}")
    assert (status, blob) == (200, "x" * 1_048_576)
    assert events[-1]["type"] == "agent_completed"
    assert events[-1]["data"]["output"] == ",".join(refused)
    assert_one_run(events, sent["run"])


async def test_a_payload_that_is_no_json_fails_the_run_with_a_typed_error(faulty: Deployment) -> None:
    """Row 32: what was said before it stands."""
    ann = Outside(faulty.url, await faulty.key("row32"))
    async with ann.connected():
        sent = await ann.send("go", agent="unforgiving")
        events = await ann.until_end(sent["run"])
    assert [e["data"]["name"] for e in events if e["type"] == "custom"] == ["before"]
    assert events[-1]["type"] == "agent_failed"
    assert events[-1]["data"]["code"] == "agent_error"


def test_production_does_not_start_with_a_weak_secret_and_knows_no_demo(tmp_path: Path) -> None:
    """Row 35."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "RUNWIRE_ENVIRONMENT": "production",
        "RUNWIRE_SERVICE_SECRET": "hunter2-hunter2",
        "RUNWIRE_DEMO": "1",
        "RUNWIRE_ALLOWED_ORIGINS": "http://evil.example",
    }
    words = ["serve", str(FAULTY), "--data-dir", "data", "--port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "runwire", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 78, done.stderr
    for word in ("service_secret", "RUNWIRE_DEMO"):
        assert word in done.stderr, done.stderr
    assert "hunter2" not in done.stderr
    assert "ready" not in done.stdout


async def test_rows_without_title_and_metadata_are_listed_and_opened_and_foreign_ones_are_not_found(
    own_deployment: Deployment,
) -> None:
    """Row 38: nothing in them, null, and rows written by hand as an older version might have."""
    server = own_deployment
    ann = Outside(server.url, await server.key("ann"))
    bob = Outside(server.url, await server.key("bob"))
    async with ann.connected():
        variants: tuple[dict[str, Any], ...] = ({}, {"metadata": None}, {"metadata": {}}, {"metadata": {"a": None}})
        sents = [await ann.send("hi", agent="plain", **fields) for fields in variants]
    _, empty = await asyncio.to_thread(ann.http, "POST", "/v1/threads", {"title": None})
    database = sqlite3.connect(server.process.data_dir / "runwire.db", timeout=10)
    try:
        with database:
            database.execute("UPDATE thread SET title = NULL")
    finally:
        database.close()
    status, page = await asyncio.to_thread(ann.http, "GET", "/v1/threads")
    threads = {item["thread"] for item in page["items"]}
    assert status == 200
    assert threads == {empty["thread"], *(sent["thread"] for sent in sents)}
    for thread in threads:
        for path in (f"/v1/threads/{thread}", f"/v1/threads/{thread}/messages", f"/v1/threads/{thread}/events"):
            assert (await asyncio.to_thread(ann.http, "GET", path))[0] == 200, path
            status, refused = await asyncio.to_thread(bob.http, "GET", path)
            assert (status, refused["code"]) == (404, "not_found")
    assert (await asyncio.to_thread(bob.http, "GET", "/v1/threads"))[1]["items"] == []
