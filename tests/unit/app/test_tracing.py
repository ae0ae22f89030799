"""Tracing without a server: names, ids, and what happens where it is not installed or a queue is full."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.semconv._incubating.attributes import deployment_attributes, gen_ai_attributes, service_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.semconv.schemas import Schemas
from prometheus_client import CollectorRegistry

from runwire.agents import tracing as agents
from runwire.app.tracing import add_trace_id, conventions, export, ids, open_tracing
from runwire.settings import load

AGENTS: Final = Path(__file__).resolve().parents[2] / "agents" / "traced.py"


def test_names_are_those_of_the_conventions_in_the_version_that_is_said() -> None:
    known = {
        value
        for module in (deployment_attributes, error_attributes, gen_ai_attributes, service_attributes)
        for name, value in vars(module).items()
        if name.isupper()
    }
    operations = {"invoke_agent", "execute_tool", "chat"}
    assert operations <= {one.value for one in gen_ai_attributes.GenAiOperationNameValues}
    attributes: dict[str, Any] = dict(conventions.about("run_1", thread="th_1", agent="a"))
    attributes |= conventions.invoked("a", "hello")[1] | conventions.usage(input_tokens=1, output_tokens=1)
    for kind, asks in (("tool", None), ("step", "openai/gpt"), ("step", None)):
        attributes |= conventions.call(kind, name="n", call="c", try_=1, asks=asks, given={"a": 1})[1]
    names = {*attributes, conventions.OUTPUT_MESSAGES, conventions.TOOL_RESULT, conventions.ERROR_TYPE}
    names |= {conventions.SERVICE, conventions.SERVICE_VERSION, conventions.INSTANCE, conventions.ENVIRONMENT}
    assert {name for name in names if not name.startswith("runwire.")} <= known
    assert conventions.SCHEMA_URL in {schema.value for schema in Schemas}


def test_ids_are_functions_of_the_run_and_differ_by_attempt() -> None:
    assert ids.trace_of("run_1") == ids.trace_of("run_1") != ids.trace_of("run_2")
    assert len({ids.sent_span("run_1"), *(ids.attempt_span("run_1", attempt) for attempt in range(1, 50))}) == 50
    assert 0 < ids.trace_of("run_1") < 2**128
    assert (
        add_trace_id(None, "", {"event": "run_claimed", "run": "run_1"})["trace_id"] == f"{ids.trace_of('run_1'):032x}"
    )
    assert add_trace_id(None, "", {"event": "started", "run": None}) == {"event": "started", "run": None}


def test_a_value_that_is_no_json_is_named_by_its_kind_and_runs_nobodys_code() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise AssertionError("asked")

    assert conventions.shown({"a": Odd()}) == '{"a":"<Odd>"}'
    assert conventions.shown("\ud800") == "<str>"
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert conventions.shown(deep) == "<list>"


class Stuck(SpanExporter):
    """Hangs in its first export until it is let go."""

    def __init__(self) -> None:
        self.is_stuck, self.go_on = threading.Event(), threading.Event()
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.is_stuck.set()
        assert self.go_on.wait(30)
        self.taken += len(spans)
        return SpanExportResult.FAILURE if self.taken <= 1 else SpanExportResult.SUCCESS


async def test_a_full_queue_drops_what_comes_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck()
    monkeypatch.setattr(export, "_exporter", lambda _settings, _endpoint: stuck)
    monkeypatch.setattr(export, "_QUEUE_SPANS", 300)
    registry = CollectorRegistry()
    settings = load({"otel_endpoint": "http://127.0.0.1:9"}, environ={}).settings
    provider = export.open_provider(settings, registry)
    provider.tracer.start_span("first").end()
    assert await asyncio.to_thread(stuck.is_stuck.wait, 30)
    for _ in range(310):
        provider.tracer.start_span("more").end()
    assert registry.get_sample_value("tracing_spans_total", {"outcome": "dropped"}) == 10
    stuck.go_on.set()
    await provider.close()
    assert stuck.taken == 301
    assert registry.get_sample_value("tracing_spans_total", {"outcome": "failed"}) == 1
    assert registry.get_sample_value("tracing_spans_total", {"outcome": "exported"}) == 300


async def test_variables_of_opentelemetry_change_neither_where_to_nor_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://elsewhere.example")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://elsewhere.example/v1/traces")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "elsewhere")
    settings = load({"otel_endpoint": "http://127.0.0.1:9/base"}, environ={}).settings
    assert export._exporter(settings, settings.otel_endpoint or "")._endpoint == "http://127.0.0.1:9/base/v1/traces"
    monkeypatch.setattr(export, "_exporter", lambda _settings, _endpoint: Stuck())
    provider = export.open_provider(settings, CollectorRegistry())
    span = provider.tracer.start_span("one")
    assert isinstance(span, ReadableSpan)  # it is sampled
    assert span.resource.attributes["service.name"] == "runwire"
    await provider.close()
    none = open_tracing(load(environ={}).settings, CollectorRegistry())
    assert none.worker is agents.UNTRACED


def test_a_collector_that_refuses_writes_no_line_of_the_library() -> None:
    settings = load({"otel_endpoint": "http://127.0.0.1:9", "otel_headers": "a=b"}, environ={}).settings
    export._exporter(settings, "http://127.0.0.1:9").shutdown()  # type: ignore[no-untyped-call] # the library does not say
    library = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    assert not library.isEnabledFor(logging.ERROR)


def test_without_the_extra_a_start_that_wants_traces_is_refused_and_others_import_none_of_it(tmp_path: Path) -> None:
    start = "from runwire.__main__ import main; sys.exit(main())"
    hidden = f"import sys; sys.modules['opentelemetry.sdk'] = None; {start}"
    words = [sys.executable, "-c", hidden, "dev", str(AGENTS), "--no-open", "--port", "0", "--data-dir", "data"]
    (tmp_path / "runwire.toml").write_text('otel_endpoint = "http://127.0.0.1:9"\n', encoding="utf-8")
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert ended.returncode == 78, ended.stderr
    assert "otel_endpoint: traces need other packages: pip install 'runwire[otel]'." in ended.stderr
    look = "import sys, runwire.app.process; print([name for name in sys.modules if 'opentelemetry.sdk' in name])"
    seen = subprocess.run([sys.executable, "-c", look], capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert seen.stdout.strip() == "[]"
