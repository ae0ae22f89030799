"""What people's own projects get: a passing test out of the box, and fixtures that hold what they say."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from tests.postgres import PostgresServer
from tests.redis_server import PASSWORD, RedisServer

from runwire.client import Event
from runwire.testing import FakeModel, ServerProcess
from runwire.testing.golden import faults

TESTS = """
import asyncio, os
from runwire.errors import NotFound

async def _ask(client, text):
    run = await client.send(text, agent="plain")
    return run, await run.result()

def test_two_people_and_a_kill(two_users, kill_server):
    async def live():
        async with two_users() as (one, other):
            assert one.user != other.user
            run, said = await _ask(one, "mine")
            assert said == "echo mine"
            await kill_server()
            assert (await _ask(other, "again"))[1] == "echo again"
            try:
                await other.http.thread(run.thread)
            except NotFound:
                return "not found"
    assert asyncio.run(live()) == "not found"

async def test_the_golden_path_in_a_coroutine(golden_path):
    assert golden_path("hello", "plain").text == "echo hello"

def test_a_model_that_fails_first(fake_model, golden_path):
    fake_model.fail(status=503)
    fake_model.say("It rains.")
    run = golden_path("How is it?", "asks_a_model")
    assert run.output == "It rains."
    assert [request.path for request in fake_model.requests] == ["/v1/responses"] * 2
    assert golden_path("say this", "asks_a_model").output == "say this"

def test_a_run_that_fails_is_told_with_what_came(golden_path):
    golden_path("x", "failing")
"""
AGENTS = """
import json, os, urllib.request

async def plain(ctx, message):
    return f"echo {message}"

async def failing(ctx, message):
    raise ValueError("no")

def ask(text):
    url = os.environ["OPENAI_BASE_URL"] + "/responses"
    for _ in range(2):
        try:
            body = json.dumps({"model": "m", "input": text}).encode()
            with urllib.request.urlopen(urllib.request.Request(url, body, method="POST")) as answer:
                return json.load(answer)["output"][0]["content"][0]["text"]
        except urllib.error.HTTPError:
            pass

async def asks_a_model(ctx, message):
    return await ctx.tool(ask, text=message)

agents = {"plain": plain, "failing": failing, "asks_a_model": asks_a_model}
"""


ON_SERVICES = """
from pathlib import Path

def test_it(golden_path, runwire_server):
    assert golden_path("one two three").output.startswith("You wrote 3 words")
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = path.read_text().partition(" (")
        except OSError:  # it has ended meanwhile
            continue
        name, _, rest = rest.rpartition(") ")
        parents[int(pid)], names[int(pid)] = int(rest.split()[1]), name
    ours = sorted(names[pid] for pid, parent in parents.items() if parent == runwire_server.pid)
    Path("processes").write_text(" ".join(ours))
"""


def _runwire(*words: str, cwd: Path, timeout_s: float = 55) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runwire", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_new_project_has_a_passing_test(tmp_path: Path) -> None:
    assert _runwire("new", "demo", cwd=tmp_path).returncode == 0
    done = _runwire("test", "--category", "golden_path", "--report", "report.json", cwd=tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "demo" / "report.json").read_text(encoding="utf-8"))
    assert report["counts"] == {"passed": 1, "failed": 0, "skipped": 0, "not_run": 0}

    async def checked() -> subprocess.CompletedProcess[str]:
        # As its README says: `runwire dev agent.py` in its folder, and a check from there, with nothing else said.
        async with ServerProcess("agent.py", data_dir=tmp_path / "demo" / ".runwire", cwd=tmp_path / "demo"):
            return await asyncio.to_thread(_runwire, "check", "--timeout-s", "20", cwd=tmp_path / "demo")

    done = asyncio.run(checked())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout


@pytest.mark.timeout(150)
def test_a_new_project_is_tested_on_services_of_this_machine_and_on_those_that_are_named(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    assert _runwire("new", "demo", cwd=tmp_path).returncode == 0
    place = tmp_path / "demo"
    # The test tells which processes its server has started.
    (place / "tests" / "test_golden_path.py").write_text(ON_SERVICES, encoding="utf-8")
    done = _runwire("test", "--category", "golden_path", "--services", "auto", cwd=place, timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    started = (place / "processes").read_text(encoding="utf-8").split()
    assert "postgres" in started
    assert {"redis-server", "valkey-server"} & set(started)
    url = asyncio.run(postgres_server.create_database())
    words = ("test", "--category", "golden_path", "--services", url)
    done = _runwire(*words, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    # A second time on the same database, and with a Redis.
    redis_server = RedisServer.start(tmp_path / "redis", password=PASSWORD)
    try:
        done = _runwire(*words, "--services", redis_server.url, "--report", "report.md", cwd=place)
        with redis.Redis.from_url(redis_server.url) as client:
            commands = client.info("commandstats")
    finally:
        redis_server.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cmdstat_publish" in commands or "cmdstat_spublish" in commands, commands
    said = done.stdout + done.stderr + (place / "report.md").read_text(encoding="utf-8")
    assert said.count(f"redis://127.0.0.1:{redis_server.port}") == 2
    assert PASSWORD not in said
    (row,) = asyncio.run(postgres_server.execute(url, "SELECT count(*) AS runs FROM run"))
    assert row["runs"] == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        nobody = f"redis://127.0.0.1:{taken.getsockname()[1]}"
        done = _runwire("test", "--category", "golden_path", "--services", nobody, cwd=place)
    assert done.returncode == 2
    assert f"The service {nobody} does not answer" in done.stderr


def test_the_fixtures_hold_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AGENTS, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.runwire]\nagent = "agent.py"\n[tool.pytest.ini_options]\nasyncio_mode = "auto"\n', encoding="utf-8"
    )
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_all.py").write_text(TESTS, encoding="utf-8")
    done = _runwire("test", "--category", "all", "--report", "report.json", cwd=tmp_path)
    said = done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    outcomes = {name.partition("::")[2]: test["outcome"] for name, test in report["tests"].items()}
    failed = [name for name, outcome in outcomes.items() if outcome != "passed"]
    assert failed == ["test_a_run_that_fails_is_told_with_what_came"], said
    assert len(outcomes) == 4
    evidence = report["tests"]["tests/test_all.py::test_a_run_that_fails_is_told_with_what_came"]["evidence"]
    assert "it ended as agent_failed: agent_error" in evidence
    assert "agent_started" in evidence
    assert "log of http://127.0.0.1:" in said
    assert "run_completed" in said


def _event(seq: int, kind: str, **data: Any) -> Event:
    return Event(thread="th_1", seq=seq, run="run_1", attempt=1, ts=1, type=kind, data=data)


GOOD = [
    _event(1, "user_message"),
    _event(2, "agent_started"),
    _event(3, "tool_executing", call="c1", name="t"),
    _event(4, "tool_completed", call="c1", name="t"),
    _event(5, "agent_completed", output="x"),
]
BROKEN: dict[str, tuple[list[Event], str]] = {
    "nothing": ([], "begin"),
    "no beginning": (GOOD[:1] + GOOD[2:], "begin"),
    "no end": (GOOD[:4], "no end"),
    "two ends": ([*GOOD, _event(6, "agent_completed", output="x")], "more than one end"),
    "doubled": ([*GOOD[:2], GOOD[1], *GOOD[2:]], "doubled or out of order"),
    "swapped": ([GOOD[0], GOOD[1], GOOD[3], GOOD[2], GOOD[4]], "doubled or out of order"),
    "a tool that is not ended": (GOOD[:3] + GOOD[4:], "a tool"),
    "failed": ([*GOOD[:4], _event(5, "agent_failed", code="agent_error", message="no")], "agent_failed: agent_error"),
}


def test_a_run_in_order_has_no_fault() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_run_out_of_order_is_named(name: str) -> None:
    events, said = BROKEN[name]
    assert any(said in fault for fault in faults(events))


@pytest.fixture(scope="module")
def listening() -> Iterator[FakeModel]:
    with FakeModel() as model:
        yield model


@pytest.fixture
def model(listening: FakeModel) -> FakeModel:
    listening.forget()
    return listening


def _post(model: FakeModel, end: str, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(model.origin + end, json={"model": "m", **body}, timeout=10)


ENDS: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "the last"}]}]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "the last"}]},
    "/v1/messages": {"messages": [{"role": "user", "content": [{"type": "text", "text": "the last"}]}]},
}


def _text_of(end: str, body: Any) -> str:
    if end == "/v1/responses":
        return str(body["output"][0]["content"][0]["text"])
    return str(body["content"][0]["text"] if end == "/v1/messages" else body["choices"][0]["message"]["content"])


def _streamed(end: str, said: str) -> str:
    """Return the text of a stream, put together as each provider's clients do."""
    lines = [line.removeprefix("data: ") for line in said.splitlines() if line.startswith("data: {")]
    text = ""
    for data in map(json.loads, lines):
        if data.get("type") == "response.output_text.delta":
            text += data["delta"]
        elif data.get("type") == "content_block_delta":
            text += data["delta"]["text"]
        elif data.get("object") == "chat.completion.chunk" and data["choices"]:
            text += data["choices"][0]["delta"].get("content") or ""
    return text


@pytest.mark.parametrize("end", ENDS)
def test_a_model_says_what_it_was_told_whole_and_in_pieces_and_else_the_last_message(
    model: FakeModel, end: str
) -> None:
    model.say("one two\nthree")
    model.say("one two\nthree")
    assert _text_of(end, _post(model, end, ENDS[end]).json()) == "one two\nthree"
    streamed = _post(model, end, {**ENDS[end], "stream": True})
    assert streamed.headers["content-type"] == "text/event-stream"
    assert _streamed(end, streamed.text) == "one two\nthree"
    assert streamed.text.rstrip().splitlines()[-1] == "data: [DONE]" or end != "/v1/chat/completions"
    assert _text_of(end, _post(model, end, ENDS[end]).json()) == "the last"
    assert [request.path for request in model.requests] == [end] * 3


@pytest.mark.parametrize("end", ENDS)
def test_a_model_calls_a_tool_in_its_providers_words(model: FakeModel, end: str) -> None:
    model.call("look_up", city="Oslo")
    body = _post(model, end, ENDS[end]).json()
    if end == "/v1/responses":
        call = body["output"][0]
        assert (call["type"], call["name"], json.loads(call["arguments"])) == (
            "function_call",
            "look_up",
            {"city": "Oslo"},
        )
    elif end == "/v1/messages":
        assert body["stop_reason"] == "tool_use"
        assert (body["content"][0]["name"], body["content"][0]["input"]) == ("look_up", {"city": "Oslo"})
    else:
        function = body["choices"][0]["message"]["tool_calls"][0]["function"]
        assert (function["name"], json.loads(function["arguments"])) == ("look_up", {"city": "Oslo"})
        assert body["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("end", ENDS)
def test_a_model_fails_is_cut_off_and_hangs_as_it_is_told(model: FakeModel, end: str) -> None:
    model.fail(status=429, retry_after_s=2)
    refused = _post(model, end, ENDS[end])
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    assert refused.json()["error"]["message"]
    model.say("one two three", cut_after=3)
    cut = _post(model, end, {**ENDS[end], "stream": True}).text
    assert cut.count("data: ") == 3
    model.hang()
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(model.origin + end, json=ENDS[end], timeout=0.2)


def test_a_path_that_no_model_has_is_refused_by_name(model: FakeModel) -> None:
    refused = _post(model, "/v1/embeddings", {})
    assert refused.status_code == 404
    assert "/v1/responses" in refused.json()["error"]["message"]
