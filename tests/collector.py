"""A collector of traces: OTLP over HTTP on a port of its own, which answers, hangs or is dead as its test wants."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, kw_only=True)
class Span:
    """A span as it was exported."""

    trace: str
    id: str
    parent: str  # empty: a root
    name: str
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Any] = field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()  # (trace, span)
    resource: dict[str, Any] = field(default_factory=dict)


class Collector:
    """Keeps what it gets: `spans`, and `bytes` as they came, without their compression."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.bytes = b""
        self.headers: list[str] = []
        self.is_hanging = False
        self.requests = 0
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            assert task
            task.cancel()

    def of(self, trace: str) -> list[Span]:
        return [span for span in self.spans if span.trace == trace]

    def names(self, trace: str) -> Counter[str]:
        return Counter(span.name for span in self.of(trace))

    async def until(self, is_there: Callable[[], object], *, timeout_s: float = 30) -> None:
        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(is_there)
        except TimeoutError:
            raise AssertionError(f"not exported; there is {[span.name for span in self.spans]}") from None

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while True:
                await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # it hung up, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(fields["content-length"]))
        self.requests += 1
        if self.is_hanging:
            async with self._news:
                self._news.notify_all()
            await asyncio.sleep(600)
        assert head.startswith("POST /v1/traces "), head
        plain = gzip.decompress(body) if fields.get("content-encoding") == "gzip" else body
        self.headers.append(head)
        self.bytes += plain
        self.spans += _spans(ExportTraceServiceRequest.FromString(plain))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        async with self._news:
            self._news.notify_all()


def _spans(request: ExportTraceServiceRequest) -> Iterable[Span]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    is_error=span.status.code == 2,
                    attributes=_attributes(span.attributes),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    resource=_attributes(resource.resource.attributes),
                )


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
