"""What a person may ask for, over a socket or over HTTP: one way to do each thing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from runwire.errors import Conflict, NotFound, ProtocolError, RunwireError, Unavailable
from runwire.gateway.acquaintances import Acquaintances
from runwire.gateway.admission import Admission, NotAdmitted
from runwire.gateway.limits import PersonalLimits
from runwire.gateway.metrics import Metrics
from runwire.gateway.offered import OfferedAgents
from runwire.gateway.queue import Queue
from runwire.gateway.tail import Tail
from runwire.gateway.tracing import UNTRACED, Tracing
from runwire.protocol import frames
from runwire.protocol.codes import ErrorCode
from runwire.protocol.events import EventType, UserMessage, decode_data
from runwire.resilience.quotas import OverLimit
from runwire.storage.base import Bus, CancelRequest, Committed, IncomingMessage, RunRow, Sent, Storage, ThreadRow, Wake

__all__ = ["Commands"]

_ENDED: Final = ("completed", "failed", "cancelled")
_SIGNALS: Final = Wake(topic="signals")
_FIELD_BYTES: Final = 65_536  # PROTOCOL §2: a larger field of an event's data would have to be a `$ref`


class Commands:
    """Send, cancel, answer and try again, for a user that is proven.

    Args:
        storage: where truth lives.
        bus: told after each write.
        tail: this node's own; told directly, so that a dead bus does not delay the sender.
        agents: that may be asked.
        admission: whether this node has room for one more run.
        queue: whether the workers have.
        metrics: count what is refused for want of room.
        acquaintances: meet a person before anything of theirs is made.
        limits: of each person and key; None: there are none.
        tracing: learns of what was sent.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        bus: Bus,
        tail: Tail,
        agents: OfferedAgents,
        admission: Admission,
        queue: Queue,
        metrics: Metrics,
        acquaintances: Acquaintances,
        limits: PersonalLimits | None = None,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self._storage = storage
        self._bus = bus
        self._tail = tail
        self._agents = agents
        self._admission = admission
        self._queue = queue
        self._metrics = metrics
        self._acquaintances = acquaintances
        self._limits = limits
        self._tracing = tracing

    def count_bytes(self, user: str, size_bytes: int) -> None:
        """Count what somebody has sent over HTTP; sockets count all that comes."""
        if self._limits is not None and self._limits.traffic is not None:
            self._limits.traffic.add(user, size_bytes)

    async def send(
        self,
        user: str,
        body: frames.MessageBody,
        *,
        thread: str | None,
        key: str | None,
        api_key: str | None = None,
        caller: str | None = None,
    ) -> Sent:
        """Store a message and its run; call `announce` once the reply is on its way.

        Args:
            user: who sends it.
            body: what.
            thread: where; None: in a new one.
            key: makes a repetition harmless.
            api_key: the key that proved the user, if it was one.
            caller: `traceparent` that came with it; else `metadata` may have one.

        Raises:
            ProtocolError: no such agent, or which one is not said; `too_large`: content or metadata.
            NotFound: unknown or foreign thread.
            Conflict: `conflict` or `run_active`.
            Unavailable: this node, or the workers, have too much to do, and nothing was stored.
            OverLimit: the person, or the key, has; likewise.
        """
        fingerprint = frames.fingerprint(body, thread=thread)
        content = msgspec.to_builtins(body.content)
        try:
            self._admission.check()
            agent = await self._agents.choose(body.agent)
            _check_size("content", content)
            _check_size("metadata", body.metadata)
            self._queue.check(agent)
            if (earlier := await self._take(user, key, fingerprint, api_key)) is not None:
                return earlier
        except (ProtocolError, Unavailable) as error:
            # What was accepted once is answered alike as long as its run is kept, whoever is served here since.
            # Where nothing is refused, the write looks for the key itself: only it can tell two at once apart.
            earlier = await self._storage.runs.sent(user, key, fingerprint) if key is not None else None
            if earlier is None:
                self._count(error)
                raise
            return earlier
        message = IncomingMessage(
            user=user,
            thread=thread,
            agent=agent,
            content=content,
            metadata=body.metadata,
            on_active=body.on_active,
            key=key,
            fingerprint=fingerprint,
        )
        return await self._store(message, caller)

    def announce(self, sent: Sent) -> None:
        """Tell everybody what a send has stored."""
        self._tell(sent.committed)
        self._bus.publish(Wake(topic="runs", thread=sent.thread))
        if sent.stop:
            self._bus.publish(_SIGNALS)

    async def cancel(self, user: str, run: str) -> frames.CancelData:
        """Ask a run to end; its terminal event is the outcome.

        Returns:
            Status `requested`, or that of a run which has ended.

        Raises:
            NotFound: unknown or foreign run.
        """
        cancelled = await self._storage.runs.cancel(user, run, CancelRequest(by="user"))
        self._tell(cancelled.committed)
        self._bus.publish(_SIGNALS)
        # What waited behind a queued run that ended may go on.
        self._bus.publish(Wake(topic="runs", thread=cancelled.thread))
        is_ended = cancelled.status in _ENDED
        return frames.CancelData(run=run, status=cancelled.status if is_ended else "requested")

    async def answer(self, user: str, run: str, body: frames.AnswerBody) -> frames.AnswerData:
        """Answer a wait of a run: the first answer wins, and the same one again is as good.

        Raises:
            NotFound: unknown or foreign run, or no such wait in it.
            Conflict: it was answered otherwise, its time was over, or the run has ended.
            ProtocolError: `too_large`, or not what such a wait takes: field `value`; a timer: field `wait`.
            OverLimit: the person has sent too many bytes.
        """
        _check_size("value", body.value)
        if self._limits is not None and self._limits.traffic is not None:
            self._limits.traffic.check(user)
        try:
            answered = await self._storage.runs.answer(user, run, body.wait, body.value)
        except Conflict as error:
            if not error.message.startswith(user):
                raise
            # The port names who was first by id. Here that is the person who asks, in another tab or program.
            raise Conflict("You have answered this otherwise, elsewhere.", field=error.field) from error
        if answered.committed is not None:
            self._tell((answered.committed,))
            # A parked run must be claimed; the holder of another must hear of it.
            self._bus.publish(Wake(topic="runs", thread=answered.thread) if answered.is_parked else _SIGNALS)
        return frames.AnswerData(run=answered.run, wait=answered.wait)

    async def retry(
        self,
        user: str,
        run: str,
        body: frames.RetryBody,
        *,
        key: str | None,
        api_key: str | None = None,
        caller: str | None = None,
    ) -> Sent:
        """Start a run with the message of one that has ended; call `announce` once the reply is on its way.

        Raises:
            NotFound: unknown or foreign run; its message is no longer kept.
            Conflict: `conflict`: it has not ended; as `send`.
            ProtocolError: its agent is not served any more.
            Unavailable: as `send`.
        """
        fingerprint = frames.fingerprint_of_retry(body, run=run)
        try:
            self._admission.check()
            row = await self._storage.runs.get(user, run)
            if row.status not in _ENDED:
                raise Conflict("The run has not ended; wait for its end, or cancel it.", field="run")
            asked = await self._message_of(row)
            agent = await self._agents.choose(row.agent)
            self._queue.check(agent)
            if (earlier := await self._take(user, key, fingerprint, api_key)) is not None:
                return earlier
            message = IncomingMessage(
                user=user,
                thread=row.thread,
                agent=agent,
                content=asked.content,
                metadata=asked.metadata,
                on_active=body.on_active,
                key=key,
                fingerprint=fingerprint,
                retry_of=run,
            )
        except RunwireError as error:
            # As with a message: what was accepted once is answered alike, though the first run may be gone by now.
            earlier = await self._storage.runs.sent(user, key, fingerprint) if key is not None else None
            if earlier is None:
                self._count(error)
                raise
            return earlier
        return await self._store(message, caller)

    async def _message_of(self, row: RunRow) -> UserMessage:
        """Read what a run was asked from its own event."""
        page = await self._storage.events.read(row.thread, after=row.seq - 1, limit=1)
        for event in page.events:
            if event.seq == row.seq and event.type == EventType.USER_MESSAGE:
                data = decode_data(event)
                assert isinstance(data, UserMessage), "of this type"
                return data
        raise NotFound("The message of this run is no longer kept; send it anew.", field="run")

    async def _take(self, user: str, key: str | None, fingerprint: str, api_key: str | None) -> Sent | None:
        """Count a message towards the limits of who sends it, unless it was accepted before: then return that.

        Raises:
            OverLimit: it is one too many.
        """
        if self._limits is None:
            return None
        if key is not None and self._limits.counts_messages:
            # Before anything is counted: a client that resends what it has no answer to would use up its own limit.
            earlier = await self._storage.runs.sent(user, key, fingerprint)
            if earlier is not None:
                return earlier
        await self._limits.take_message(user, api_key)
        return None

    async def _store(self, message: IncomingMessage, caller: str | None) -> Sent:
        stored = self._tracing.sending(caller)
        await self._acquaintances.meet(message.user)
        sent = await self._storage.runs.send(message)
        stored(message, sent)
        return sent

    async def create_thread(self, user: str, *, title: str | None) -> ThreadRow:
        """Make an empty thread. Raises Forbidden: the person is quarantined."""
        await self._acquaintances.meet(user)
        return await self._storage.threads.create(user, title=title)

    async def delete_thread(self, user: str, thread: str) -> None:
        """Delete a thread and cancel its runs. Raises NotFound."""
        stopped = await self._storage.threads.delete(user, thread)
        deleted = Wake(topic="deleted", thread=thread)
        self._tail.hear(deleted)
        self._bus.publish(deleted)
        if stopped:
            self._bus.publish(_SIGNALS)

    def _count(self, error: RunwireError) -> None:
        if isinstance(error, NotAdmitted | OverLimit):
            self._metrics.refused.labels(reason=error.reason).inc()

    def _tell(self, committed: Iterable[Committed]) -> None:
        for segment in committed:
            self._tail.hear(segment)
            self._bus.publish(segment)


def _check_size(field: str, value: Any) -> None:
    # As it is stored, not as it came: `1e15` is four bytes in a frame and eighteen in the log.
    if value is not None and len(msgspec.json.encode(value)) > _FIELD_BYTES:
        raise ProtocolError(
            f"{field} is over {_FIELD_BYTES} bytes of JSON; make it smaller.", code=ErrorCode.TOO_LARGE, field=field
        )
