"""What happens becomes spans: the ports of tracing, on OpenTelemetry. How spans are called says `conventions`.

::

    send message                       gateway: the root; its ids are functions of the run's
    ├─ invoke_agent NAME               worker: one for each attempt, in whatever process
    │  ├─ execute_tool NAME            one for each try that was executed, none for what a replay returns
    │  ├─ chat MODEL
    │  └─ invoke_agent NAME            a sub-agent
    └─ deliver end                     gateway: for each socket that was given the run's end live
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

from opentelemetry import context
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from runwire.agents import tracing as agents
from runwire.agents.attempt import Used
from runwire.agents.tracing import Outcome
from runwire.app.clock import wall_ns
from runwire.app.tracing import conventions, ids
from runwire.app.tracing.export import Provider, with_ids
from runwire.gateway import tracing as gateway
from runwire.protocol.acts import Step
from runwire.protocol.events import TERMINAL_TYPES, StoredEvent
from runwire.storage.base import Claim, IncomingMessage, Sent

__all__ = ["OtelTracing"]

_LIVE_MS: Final = 60_000  # what a socket is given of older ends is history
_REMEMBERED: Final = 4_096  # deliveries, so that a client that subscribes again is no second one
_NS_PER_MS: Final = 1_000_000
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class OtelTracing:
    """What a process traces with.

    Args:
        provider: where spans are made.
        with_content: whether they have what people and agents said.
    """

    def __init__(self, provider: Provider, *, with_content: bool) -> None:
        self._provider = provider
        self.gateway: gateway.Tracing = _Gateway(provider)
        self.worker: agents.Tracing = _Worker(provider, with_content=with_content)

    async def run(self) -> None:
        """Do nothing until cancelled: a thread of its own exports."""
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Export what is left, within a deadline."""
        await self._provider.close()


class _Gateway:
    """A message comes, and the end of its run goes out."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._delivered: dict[tuple[str, str], None] = {}

    def sending(self, caller: str | None) -> gateway.Stored:
        began_ns = wall_ns()

        def stored(message: IncomingMessage, sent: Sent) -> None:
            if not sent.is_new:
                return  # its span was made when it was
            asking = _context_of(caller or _carried(message.metadata))
            attributes = conventions.about(sent.run, thread=sent.thread, agent=message.agent)
            # Nobody outside can put spans into a run's trace, or have it sampled: the two are linked.
            with with_ids(ids.trace_of(sent.run), ids.sent_span(sent.run)):
                root = self._provider.tracer.start_span(
                    conventions.SENT_SPAN,
                    Context(),
                    SpanKind.SERVER,
                    attributes=attributes,
                    links=[Link(asking)] if asking else None,
                    start_time=began_ns,
                )
            if asking and asking.trace_flags.sampled and root.is_recording():
                self._provider.always.start_span(
                    conventions.ACCEPTED_SPAN,
                    set_span_in_context(NonRecordingSpan(asking), Context()),
                    SpanKind.SERVER,
                    attributes=attributes,
                    links=[Link(root.get_span_context())],
                    start_time=began_ns,
                ).end()
            root.end()

        return stored

    def delivered(self, connection: str, thread: str, events: Sequence[StoredEvent]) -> None:
        for event in events:
            if event.type in TERMINAL_TYPES:
                self._end_delivered(connection, thread, event)

    def _end_delivered(self, connection: str, thread: str, event: StoredEvent) -> None:
        now_ns, said_ns = wall_ns(), event.ts * _NS_PER_MS
        if now_ns - said_ns > _LIVE_MS * _NS_PER_MS or (connection, event.run) in self._delivered:
            return
        self._delivered[connection, event.run] = None
        if len(self._delivered) > _REMEMBERED:
            del self._delivered[next(iter(self._delivered))]
        self._provider.tracer.start_span(
            conventions.DELIVERED_SPAN,
            _below_sent(event.run),
            attributes={**conventions.about(event.run, thread=thread), conventions.CONNECTION: connection},
            start_time=min(said_ns, now_ns),  # the worker's clock may be ahead of this one
        ).end(now_ns)


class _Worker:
    """Makes the traces of attempts."""

    def __init__(self, provider: Provider, *, with_content: bool) -> None:
        self._provider = provider
        self._with_content = with_content

    def run(self, claim: Claim) -> agents.RunTrace:
        return _RunTrace(self._provider, claim, with_content=self._with_content)


class _RunTrace:
    """The trace of one attempt."""

    def __init__(self, provider: Provider, claim: Claim, *, with_content: bool) -> None:
        self._tracer = provider.tracer
        self._claim = claim
        self._with_content = with_content
        self._claimed_ns = wall_ns()
        self._span: Span | None = None
        self._input_tokens = self._output_tokens = 0

    def begin(self, message: str, logged: Sequence[StoredEvent]) -> None:
        claim = self._claim
        before = claim.attempt - 1
        if before in claim.lost and (said := [event.ts for event in logged if event.attempt == before]):
            # Nobody else can end it any more, and what it did would hang in the air.
            lost = self._start(before, said[0] * _NS_PER_MS)
            lost.set_attribute(conventions.OUTCOME, "lost")
            _fail(lost, "worker_lost")
            lost.end(said[-1] * _NS_PER_MS)
        self._span = self._start(claim.attempt, self._claimed_ns, message)

    def end(self, outcome: Outcome, *, error: str = "", output: Any = None) -> None:
        span = self._span or self._start(self._claim.attempt, self._claimed_ns)
        span.set_attribute(conventions.OUTCOME, outcome)
        if self._input_tokens or self._output_tokens:
            span.set_attributes(conventions.usage(input_tokens=self._input_tokens, output_tokens=self._output_tokens))
        if error:
            _fail(span, error)
        if self._with_content and output is not None:
            span.set_attribute(conventions.OUTPUT_MESSAGES, conventions.messages("assistant", output))
        span.end()

    def code(self) -> agents.Traced:
        assert self._span is not None, "the code begins after the attempt"
        return _Entered(self._span)

    def step(self, step: Step, *, asks: str | None, given: Any) -> agents.Traced:
        name, attributes = conventions.call(
            step.kind,
            name=step.name,
            call=step.call,
            try_=step.try_,
            asks=asks,
            given=given if self._with_content else None,
        )
        is_chat = attributes.get(conventions.OPERATION) == "chat"
        return self._going_on(
            name,
            attributes,
            kind=SpanKind.CLIENT if is_chat else SpanKind.INTERNAL,
            result=_as_message if is_chat else _as_result,
        )

    def subagent(self, name: str, message: Any) -> agents.Traced:
        label, attributes = conventions.invoked(name, message if self._with_content else None)
        return self._going_on(label, attributes, kind=SpanKind.INTERNAL, result=_as_message)

    def used(self, used: Used) -> None:
        if not used.is_new:
            return
        self._input_tokens += used.input_tokens
        self._output_tokens += used.output_tokens
        span = get_current_span()
        attributes: Mapping[str, Any] = getattr(span, "attributes", None) or {}
        if span.is_recording() and attributes.get(conventions.OPERATION) == "chat":
            span.set_attributes(conventions.usage(input_tokens=used.input_tokens, output_tokens=used.output_tokens))

    def _start(self, attempt: int, began_ns: int, message: str | None = None) -> Span:
        claim = self._claim
        name, attributes = conventions.invoked(claim.agent, message if self._with_content else None)
        attributes |= {**conventions.about(claim.run, thread=claim.thread), conventions.ATTEMPT: attempt}
        with with_ids(ids.trace_of(claim.run), ids.attempt_span(claim.run, attempt)):
            return self._tracer.start_span(name, _below_sent(claim.run), attributes=attributes, start_time=began_ns)

    def _going_on(
        self, name: str, attributes: conventions.Attributes, *, kind: SpanKind, result: Callable[[Any], tuple[str, str]]
    ) -> agents.Traced:
        above = None
        if get_current_span().get_span_context().trace_id != ids.trace_of(self._claim.run) and self._span:
            above = set_span_in_context(self._span)  # the author's own tracing has begun another trace
        span = self._tracer.start_span(name, above, kind, attributes=attributes)
        return _Entered(span, result=result if self._with_content else None, is_ending=True)


class _Entered:
    """A span that is the current one as long as this is entered, so that what the author traces is below it."""

    def __init__(
        self, span: Span, *, result: Callable[[Any], tuple[str, str]] | None = None, is_ending: bool = False
    ) -> None:
        self._span = span
        self._result = result
        self._is_ending = is_ending

    def __enter__(self) -> Self:
        self._token = context.attach(set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, _raised: BaseException | None, _: object, /) -> None:
        if kind is not GeneratorExit:  # abandoned code, thrown away in another context
            context.detach(self._token)
        if not self._is_ending:
            return
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._span.set_attribute(conventions.OUTCOME, "cancelled")
        elif kind is not None:
            _fail(self._span, kind.__name__)  # and no text: it may be content
        self._span.end()

    def returned(self, value: Any) -> None:
        if self._result is not None and self._span.is_recording():
            self._span.set_attribute(*self._result(value))


def _fail(span: Span, error: str) -> None:
    span.set_status(StatusCode.ERROR)
    span.set_attribute(conventions.ERROR_TYPE, error)


def _as_result(value: Any) -> tuple[str, str]:
    return conventions.TOOL_RESULT, conventions.shown(value)


def _as_message(value: Any) -> tuple[str, str]:
    return conventions.OUTPUT_MESSAGES, conventions.messages("assistant", value)


def _below_sent(run: str) -> Context:
    """Return the context of what belongs directly below the root of a run's trace."""
    above = SpanContext(ids.trace_of(run), ids.sent_span(run), is_remote=True, trace_flags=TraceFlags(0))
    return set_span_in_context(NonRecordingSpan(above), Context())


def _carried(metadata: Mapping[str, Any] | None) -> str | None:
    carried = (metadata or {}).get("traceparent")
    return carried if isinstance(carried, str) else None


def _context_of(caller: str | None) -> SpanContext | None:
    if caller is None:
        return None
    found = get_current_span(_PROPAGATOR.extract({"traceparent": caller}, Context())).get_span_context()
    return found if found.is_valid else None
