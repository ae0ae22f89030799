"""Traces of a real server, at a real collector: one run is one trace, whoever dies, and nobody waits for a collector.

python -m pytest tests/e2e/test_traces.py -v
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import pytest_asyncio
from tests.collector import Collector, Span
from tests.outside import Outside, http

from runwire.app.tracing import ids
from runwire.testing.server import ServerProcess

AGENTS: Final = Path(__file__).resolve().parent.parent / "agents" / "traced.py"
CANARIES: Final = (b"prompt-canary", b"result-canary", b"answer-canary", b"error-canary")
CALLER: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_SPAN: Final = "00f067aa0ba902b7"
ROOT: Final = "send message"

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


class Traced(NamedTuple):
    server: ServerProcess
    collector: Collector
    ada: Outside

    async def metric(self, name: str) -> float:
        text = await asyncio.to_thread(_read, f"{self.server.url.rstrip('/')}/metrics")
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        return str(response.read().decode())


def _write(folder: Path, settings: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "runwire.toml").write_text(settings, encoding="utf-8")


async def _started(folder: Path, collector: Collector, **settings: Any) -> tuple[ServerProcess, Outside]:
    settings = {"otel_endpoint": collector.url, "log_format": "json", **settings}
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
    await asyncio.to_thread(_write, folder, "".join(lines))
    server = ServerProcess(str(AGENTS), data_dir=folder / "data", cwd=folder)
    await server.start()
    return server, Outside(server.url.rstrip("/"), await server.create_user("ada"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Traced]:
    async with Collector() as collector:
        folder = tmp_path_factory.mktemp("traced")
        server, ada = await _started(folder, collector, otel_headers="x-key=hush%20hush", otel_service_name="staging")
        try:
            yield Traced(server, collector, ada)
        finally:
            await server.kill9()


def trace_of(run: str) -> str:
    return f"{ids.trace_of(run):032x}"


def only(spans: list[Span], name: str) -> Span:
    found = [span for span in spans if span.name == name]
    assert len(found) == 1, (name, [span.name for span in spans])
    return found[0]


async def test_a_run_is_one_trace_from_the_socket_to_its_steps_and_has_no_content(traced: Traced) -> None:
    collector = traced.collector
    async with traced.ada.connected():
        sent = await traced.ada.send("prompt-canary", agent="whole")
        end = (await traced.ada.until_end(sent["run"]))[-1]
    assert end["type"] == "agent_completed", end
    trace = trace_of(sent["run"])
    await collector.until(lambda: {ROOT, "invoke_agent whole", "deliver end"} <= set(collector.names(trace)))
    spans = collector.of(trace)
    assert collector.names(trace) == {
        ROOT: 1,
        "invoke_agent whole": 1,
        "execute_tool look_up": 2,
        "execute_tool breaks": 1,
        "chat gpt-test": 1,
        "invoke_agent helper": 1,
        "step note": 1,
        "deliver end": 1,
    }
    root, run = only(spans, ROOT), only(spans, "invoke_agent whole")
    helper = only(spans, "invoke_agent helper")
    assert root.parent == ""
    assert run.parent == root.id
    assert only(spans, "deliver end").parent == root.id
    looked_up = sorted((span for span in spans if span.name == "execute_tool look_up"), key=lambda span: span.start_ns)
    assert [span.parent for span in looked_up] == [run.id, helper.id]
    for name in ("execute_tool breaks", "chat gpt-test", "invoke_agent helper", "step note"):
        assert only(spans, name).parent == run.id, name
    assert all(span.start_ns <= span.end_ns for span in spans)
    assert run.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert run.attributes["gen_ai.agent.name"] == "whole"
    assert run.attributes["gen_ai.conversation.id"] == sent["thread"]
    assert run.attributes["gen_ai.usage.input_tokens"] == 8
    assert run.attributes["gen_ai.usage.output_tokens"] == 6
    assert run.attributes["runwire.outcome"] == "completed"
    chat = only(spans, "chat gpt-test").attributes
    assert (chat["gen_ai.operation.name"], chat["gen_ai.provider.name"]) == ("chat", "openai")
    assert (chat["gen_ai.request.model"], chat["gen_ai.usage.input_tokens"]) == ("gpt-test", 7)
    tool = looked_up[0].attributes
    assert (tool["gen_ai.operation.name"], tool["gen_ai.tool.name"]) == ("execute_tool", "look_up")
    broken = only(spans, "execute_tool breaks")
    assert broken.is_error
    assert broken.attributes["error.type"] == "RuntimeError"
    assert run.resource["service.name"] == "staging"
    assert [canary for canary in CANARIES if canary in collector.bytes] == []
    assert all("x-key: hush hush" in head for head in collector.headers)
    assert "hush hush" not in traced.server.logs()
    assert await traced.metric('tracing_spans_total{outcome="exported"}') >= len(spans)
    lines = [json.loads(line) for line in traced.server.logs().splitlines() if line.startswith("{")]
    assert {line["trace_id"] for line in lines if line.get("run") == sent["run"]} == {trace}


async def test_a_caller_of_http_finds_the_run_in_its_own_trace_and_cannot_enter_it(traced: Traced) -> None:
    ada, collector = traced.ada, traced.collector
    thread = (await asyncio.to_thread(ada.http, "POST", "/v1/threads", {}))[1]["thread"]

    async def send(caller: str, key: str) -> str:
        path, body = f"{ada.url}/v1/threads/{thread}/messages", {"content": "hello", "agent": "quick"}
        headers = {"traceparent": caller, "idempotency-key": key}
        status, told = await asyncio.to_thread(http, "POST", path, body, token=ada.token, **headers)
        assert status == 202, told
        return str(told["run"])

    run = await send(f"00-{CALLER}-{CALLER_SPAN}-01", "once")
    assert await send(f"00-{CALLER}-{'1' * 16}-01", "once") == run  # resent by another span of the caller's
    unsampled = await send(f"00-{'a' * 32}-{CALLER_SPAN}-00", "unsampled")
    broken = await send("00-no-trace", "broken")
    async with ada.connected():
        by_socket = await ada.send("hello", agent="quick", metadata={"traceparent": f"00-{'b' * 32}-{CALLER_SPAN}-01"})
        await ada.until_end(by_socket["run"])
    runs = (run, unsampled, broken, by_socket["run"])
    await collector.until(lambda: all(len(collector.of(trace_of(each))) > 1 for each in runs))
    root = only(collector.of(trace_of(run)), ROOT)
    assert root.parent == ""
    assert root.links == ((CALLER, CALLER_SPAN),)
    accepted = only(collector.of(CALLER), "accept message")
    assert accepted.parent == CALLER_SPAN
    assert accepted.links == ((root.trace, root.id),)
    assert only(collector.of(trace_of(unsampled)), ROOT).links == (("a" * 32, CALLER_SPAN),)
    assert collector.of("a" * 32) == []  # its caller does not want it
    assert only(collector.of(trace_of(broken)), ROOT).links == ()
    assert only(collector.of("b" * 32), "accept message").parent == CALLER_SPAN


async def test_the_attempt_after_kill_9_goes_on_in_the_same_trace_and_doubles_no_step(tmp_path: Path) -> None:
    async with Collector() as collector:
        server, ada = await _started(tmp_path / "server", collector, otel_content=True)
        try:
            async with ada.connected():
                sent = await ada.send("prompt-canary", agent="killed")
                trace = trace_of(sent["run"])
                await ada.until(lambda event: event["type"] == "tool_executing" and event["data"]["name"] == "waits")
                # A span that has not left dies with its process.
                await collector.until(lambda: "execute_tool look_up" in collector.names(trace))
                await server.kill9()
            (tmp_path / "server" / "over").touch()
            await server.start()
            async with ada.connected():
                await ada.subscribe(sent["thread"])
                await ada.until_end(sent["run"])
            await collector.until(lambda: collector.names(trace)["invoke_agent killed"] == 2)
            assert await server.stop() == 0  # what is left is exported
        finally:
            await server.kill9()
        spans = collector.of(trace)
        lost, ended = sorted(
            (span for span in spans if span.name == "invoke_agent killed"), key=lambda span: span.start_ns
        )
        assert (lost.attributes["runwire.outcome"], lost.attributes["error.type"]) == ("lost", "worker_lost")
        assert (lost.attributes["runwire.attempt"], ended.attributes["runwire.attempt"]) == (1, 2)
        assert lost.start_ns <= lost.end_ns <= ended.start_ns
        assert ended.attributes["runwire.outcome"] == "completed"
        assert only(spans, "execute_tool look_up").parent == lost.id  # executed once, and no replay is a span
        assert only(spans, "execute_tool waits").parent == ended.id
        assert {span.parent for span in spans} - {span.id for span in spans} == {""}, "something hangs in the air"
        assert len({span.id for span in spans}) == len(spans)
        # And with `otel_content` it is all there.
        tool, run = only(spans, "execute_tool look_up").attributes, ended.attributes
        assert json.loads(tool["gen_ai.tool.call.arguments"]) == {"query": "prompt-canary"}
        assert "result-canary" in tool["gen_ai.tool.call.result"]
        assert json.loads(run["gen_ai.input.messages"])[0]["parts"][0]["content"] == "prompt-canary"
        assert "result-canary" in run["gen_ai.output.messages"]


async def test_a_collector_that_hangs_delays_no_run_and_no_stop(tmp_path: Path) -> None:
    async with Collector() as collector:
        collector.is_hanging = True
        server, ada = await _started(tmp_path / "server", collector)
        try:
            async with ada.connected():
                await ada.until_end((await ada.send("first", agent="quick"))["run"])
                await collector.until(lambda: collector.requests)  # the exporting thread hangs from here on
                began_s = time.monotonic()
                for _ in range(10):
                    await ada.until_end((await ada.send("another", agent="quick"))["run"])
                took_s = time.monotonic() - began_s
            assert took_s < 8, f"ten runs took {took_s:.1f} s"  # less than one export waits for its answer
            began_s = time.monotonic()
            assert await server.stop() == 0
            took_s = time.monotonic() - began_s
        finally:
            await server.kill9()
        assert took_s < 8, f"the stop took {took_s:.1f} s"
        assert "traces_given_up" in server.logs()
        assert collector.spans == []


async def test_a_dead_collector_is_named_once_and_a_ratio_of_nothing_exports_nothing(tmp_path: Path) -> None:
    async with Collector() as collector:
        server, ada = await _started(tmp_path / "none", collector, otel_sample_ratio=0)
        try:
            async with ada.connected():
                await ada.until_end((await ada.send("first", agent="whole"))["run"])
            assert await server.stop() == 0
        finally:
            await server.kill9()
        assert collector.requests == 0
        closed = collector.url
    collector.url = closed  # nobody listens there any more
    server, ada = await _started(tmp_path / "dead", collector)
    try:
        async with ada.connected():
            for _ in range(3):
                await ada.until_end((await ada.send("first", agent="quick"))["run"])
        assert await server.stop() == 0
    finally:
        await server.kill9()
    assert server.logs().count("traces_not_exported") <= 1
    assert "Traceback" not in server.logs()
