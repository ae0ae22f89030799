"""How spans leave the process: through a bounded queue, in a thread of their own, to a collector that may be dead.

::

    span ends ─▶ room? ─┬─ no ──▶ counted: dropped
                        └─ yes ─▶ queue ─▶ one thread ─▶ OTLP over HTTP ─┬─▶ counted: exported
                                                                         └─▶ counted: failed
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote
from uuid import uuid4

import requests
import structlog
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, TraceIdRatioBased
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, Counter

import runwire
from runwire.app.tracing import conventions
from runwire.settings import Settings

__all__ = ["Provider", "open_provider", "with_ids"]

_QUEUE_SPANS: Final = 2_048
_BATCH_SPANS: Final = 256
_PAUSE_MS: Final = 1_000  # so much, at least, is lost by `kill -9`
_EXPORT_S: Final = 10.0  # for one batch, tries included
_CLOSE_S: Final = 2.0  # what is not exported by then, when the process ends, is lost
_VALUE_CHARS: Final = 8_192  # with content, a full queue is some 40 MB then
_PATH: Final = "/v1/traces"

_WANTED: Final[ContextVar[tuple[int, int] | None]] = ContextVar("runwire_span_ids", default=None)

_log = structlog.get_logger(__name__)


@contextlib.contextmanager
def with_ids(trace: int, span: int) -> Iterator[None]:
    """Have the span that is started in here get these ids; that of the trace only if it has no parent."""
    token = _WANTED.set((trace, span))
    try:
        yield
    finally:
        _WANTED.reset(token)


class _Ids(RandomIdGenerator):
    """Random ids, but for those that are wanted."""

    def __init__(self) -> None:
        self._chance = random.SystemRandom()  # the shared one may have been seeded by the author

    def generate_span_id(self) -> int:
        wanted = _WANTED.get()
        return wanted[1] if wanted else self._chance.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        wanted = _WANTED.get()
        return wanted[0] if wanted else self._chance.getrandbits(128) or 1


class _Exporter(SpanExporter):
    """Exports, counts, and says once that it fails, and once that it works again. The exporting thread only."""

    def __init__(self, inner: SpanExporter, room: threading.Semaphore, counts: Counter) -> None:
        self._inner = inner
        self._room = room
        self._exported, self._failed = counts.labels("exported"), counts.labels("failed")
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._room.release(len(spans))
        result = self._inner.export(spans)
        is_failing = result is not SpanExportResult.SUCCESS
        (self._failed if is_failing else self._exported).inc(len(spans))
        if is_failing is not self._is_failing:
            self._is_failing = is_failing
            _log.warning("traces_not_exported" if is_failing else "traces_exported_again")
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


class _Queue(BatchSpanProcessor):
    """The library's, with a bound that counts: its own drops the oldest and a log line is all there is of it."""

    def __init__(self, exporter: SpanExporter, counts: Counter) -> None:
        self._room = threading.Semaphore(_QUEUE_SPANS)
        self._dropped = counts.labels("dropped")
        super().__init__(
            _Exporter(exporter, self._room, counts),
            # Ours is full first, so that what is here already stays.
            max_queue_size=_QUEUE_SPANS + 1,
            schedule_delay_millis=_PAUSE_MS,
            max_export_batch_size=_BATCH_SPANS,
            export_timeout_millis=_EXPORT_S * 1_000,
        )

    def on_end(self, span: ReadableSpan) -> None:
        if self._room.acquire(blocking=False):
            super().on_end(span)
        else:
            self._dropped.inc()


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Where spans are made, and how they leave."""

    tracer: Tracer  # of the traces of runs: samples by their ids, so that all processes choose the same
    always: Tracer  # of what belongs to a trace of somebody else's, who has chosen
    processor: BatchSpanProcessor

    async def close(self) -> None:
        """Export what is left; give up when that takes too long."""
        loop, is_closed = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            self.processor.shutdown()  # type: ignore[no-untyped-call] # the library does not say
            with contextlib.suppress(RuntimeError):  # nobody waits any more: the loop has ended
                loop.call_soon_threadsafe(is_closed.set)

        # No thread of the loop's own: their end is waited for when the loop ends.
        threading.Thread(target=close, name="runwire-traces-close", daemon=True).start()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await is_closed.wait()
        except TimeoutError:
            _log.warning("traces_given_up", after_s=_CLOSE_S)


def open_provider(settings: Settings, registry: CollectorRegistry) -> Provider:
    """Return what makes spans and exports them."""
    assert settings.otel_endpoint is not None, "asked before"
    counts = Counter("tracing_spans", "Spans that have ended, by what became of them.", ["outcome"], registry=registry)
    processor = _Queue(_exporter(settings, settings.otel_endpoint), counts)
    resource = Resource(
        {
            conventions.SERVICE: settings.otel_service_name,
            conventions.SERVICE_VERSION: runwire.__version__,
            conventions.INSTANCE: f"{socket.gethostname()}-{uuid4().hex[:8]}",
            conventions.ENVIRONMENT: settings.environment,
        }
    )

    def tracer(sampler: TraceIdRatioBased | None) -> Tracer:
        # Of our own, and not the global one: what the author's code traces goes where the author says.
        provider = TracerProvider(
            sampler=sampler or ALWAYS_ON,
            resource=resource,
            shutdown_on_exit=False,  # it would wait for a collector that hangs
            id_generator=_Ids(),
            span_limits=SpanLimits(max_span_attribute_length=_VALUE_CHARS),
        )
        provider.add_span_processor(processor)
        return provider.get_tracer(conventions.SOURCE, runwire.__version__, conventions.SCHEMA_URL)

    return Provider(
        tracer=tracer(TraceIdRatioBased(settings.otel_sample_ratio)), always=tracer(None), processor=processor
    )


def _exporter(settings: Settings, endpoint: str) -> OTLPSpanExporter:
    # Its lines would come with each batch that fails; `_Exporter` says it once.
    logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)
    session = requests.Session()
    session.trust_env = False  # no proxy for the internet, and no password of a .netrc
    return OTLPSpanExporter(
        endpoint=endpoint if endpoint.endswith(_PATH) else endpoint + _PATH,
        # The system's, which may have a company's own; as with the auth service.
        certificate_file=ssl.get_default_verify_paths().cafile,
        headers={
            name: unquote(value) for name, _, value in (each.partition("=") for each in settings.otel_headers or ())
        },
        timeout=_EXPORT_S,
        compression=Compression.Gzip,
        session=session,
    )
