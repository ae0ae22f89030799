"""One socket: the shell around `protocol.connection.Connection`. Feed, take, write; no protocol decisions.

One task reads, each command runs in its own, and so does a read of the log, so that nothing slow delays
events or `cancel`. Turns alone touch the transport: one is a plain call of the event loop, taken after
whatever stirs the socket, and what it finds becomes one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Final

import structlog

from runwire.auth.identity import Identity
from runwire.errors import RunwireError, Unavailable
from runwire.gateway.alarm import Alarm
from runwire.gateway.clock import wall_ms
from runwire.gateway.desk import Desk
from runwire.gateway.limits import Traffic
from runwire.gateway.live import Patience, back_after_s
from runwire.gateway.socket_protocol import SocketTransport
from runwire.gateway.socket_services import SocketServices
from runwire.gateway.subscription import Subscription, Taken
from runwire.protocol import frames
from runwire.protocol.codes import CloseCode
from runwire.protocol.connection import Connection

__all__ = ["Prove", "Receive", "Socket"]

Prove = Callable[[], Awaitable[Identity]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_log: Final = structlog.get_logger(__name__)
_TAKE_BYTES: Final = 65_536  # of one thread at a time: a long history does not starve a live one
_SAMPLE_S: Final = 0.5  # while bytes are unsent, they are looked at so often
_RETRY_S: Final = 0.25  # after the database did not answer
_ACTING: Final = (frames.Send, frames.Cancel, frames.Answer)  # what a credential that may only look is refused
_PROVE_S: Final = 10.0  # to decide an identity, then 4013
_CLOSE_REASON_BYTES: Final = 120  # a close frame has room for 123 (RFC 6455 §5.5)


class Socket:
    """Carry one WebSocket from the upgrade to its end.

    Holds cursors, not events: at most `limits.subscriptions` of them, and what one turn fetched.

    Args:
        connection: what may happen.
        transport: where bytes go, without waiting.
        receive: the next ASGI event.
        services: shared by all sockets.
        address: where it comes from; "": not known.
    """

    def __init__(
        self,
        connection: Connection,
        transport: SocketTransport,
        receive: Receive,
        services: SocketServices,
        *,
        address: str = "",
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._receive = receive
        self._services = services
        self._address = address
        self._identity: Identity | None = None
        self._desk: Desk | None = None  # of the user's database; known with the identity
        self._subscriptions: dict[str, Subscription] = {}
        self._woken: dict[str, None] = {}  # threads that may have something new, in the order they were woken
        self._tasks = asyncio.TaskGroup()
        self._may_read: asyncio.Event | None = None  # while reading is stopped: set when it goes on
        self._is_gone = False
        self._is_stirred = False  # a turn is about to be taken
        self._reading: asyncio.Task[None] | None = None  # the log, for one thread at a time
        self._proving: asyncio.Task[None] | None = None  # the identity, once
        self._retry_at_s = 0.0
        self._patience = Patience()
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._alarm = Alarm(self._loop, self._stir)
        self._over: asyncio.Future[None] = self._loop.create_future()  # of the last turn
        transport.on_drained(self._stir)

    @property
    def identity(self) -> Identity:
        """Whose it is; known once it is in the index of live listeners."""
        assert self._identity is not None, "only a signed-in socket is in the index"
        return self._identity

    @property
    def desk(self) -> Desk:
        """What serves this user; known with the identity."""
        assert self._desk is not None, "nothing is asked for before somebody signed in"
        return self._desk

    def announce_drain(self) -> None:
        """Say that the server is about to go away."""
        self._connection.notice("draining")
        self._stir()

    def end(self, code: CloseCode, reason: str, *, after_s: float | None = None) -> None:
        """Say bye and close."""
        self._connection.close(code, reason, after_s=after_s)
        self._stir()

    async def run(self, prove: Prove | None) -> None:
        """Serve the socket until it ends.

        Args:
            prove: proves the credential that came with the upgrade; None: `hello` brings one.
        """
        if self._connection.is_greeting:
            self._greet()
        try:
            async with self._tasks:
                if prove:
                    self._proving = self._tasks.create_task(self._sign_in(prove))
                reader = self._tasks.create_task(self._read())
                self._stir()
                try:
                    await self._over
                finally:
                    for task in (reader, self._reading, self._proving):
                        if task:
                            task.cancel()
                self._hang_up()
                # Commands that run are not cut off: what a `send` has stored must still be announced.
        except Exception as error:  # top of a connection
            _log.exception("socket_failed", connection=self._connection.connection, error=type(error).__name__)
            self._connection.close(CloseCode.INTERNAL, "Something went wrong here; come back.")
            self._flush(self._clock())
            self._hang_up()
        finally:
            self._services.live.greeted(self)
            self._services.live.discard(self)
            for subscription in self._subscriptions.values():
                self.desk.subscriptions.close(subscription)
            self._subscriptions.clear()  # each holds this socket
            self._alarm.cancel()

    def _greet(self) -> None:
        try:
            self._services.live.greet(self, address=self._address)
        except Unavailable as error:
            self._connection.close(CloseCode.RATE, error.message, after_s=error.retry_after_s)

    def _hang_up(self) -> None:
        """Send the close frame, unless the client is gone. Commands that still run wait for nobody."""
        self._services.live.discard(self)
        closing = self._connection.closing
        if closing and not self._is_gone:
            self._services.metrics.closes.labels(code=int(closing.code)).inc()
            reason = closing.reason.encode()[:_CLOSE_REASON_BYTES].decode(errors="ignore")
            self._transport.close(closing.code, reason, abort_after_s=self._services.abort_s)
            if closing.code is CloseCode.REVOKED and self._identity:
                self._services.live.cut_off(self._identity)

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────

    async def _read(self) -> None:
        while True:
            while not self._connection.wants_input:  # its turns say when it does again
                self._may_read = asyncio.Event()
                await self._may_read.wait()
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._is_gone = True
                self._stir()
                return
            text = message.get("text")
            self._connection.receive(
                message.get("bytes") or b"" if text is None else text, is_binary=text is None, now_s=self._clock()
            )
            if self._services.traffic is not None and self._identity is not None:
                self._count(self._services.traffic, text or "")
            if not self._connection.is_greeting:
                self._services.live.greeted(self)
            credential = self._connection.take_credential()
            if credential is not None:
                prove = partial(self._services.identities.authenticate, credential)
                self._proving = self._tasks.create_task(self._sign_in(prove))
            self._start_commands()
            self._stir()

    def _count(self, traffic: Traffic, text: str) -> None:
        """Count what has come; end a connection that is refused all of it and goes on."""
        user = self.identity.user
        traffic.add(user, len(text) if text.isascii() else len(text.encode()))
        if (after_s := traffic.flood_s(user)) > 0:
            self._connection.close(CloseCode.RATE, "You have sent far too much; come back later.", after_s=after_s)

    async def _sign_in(self, prove: Prove) -> None:
        connection = self._connection
        try:
            async with self._services.live.turn(), asyncio.timeout(_PROVE_S):
                identity = await prove()
        except (Unavailable, TimeoutError):
            after_s = back_after_s()
            connection.close(CloseCode.UNAVAILABLE, "Your identity cannot be proven now; come back.", after_s=after_s)
        except RunwireError as error:
            connection.close(CloseCode.UNAUTHENTICATED, error.message)
        else:
            self._welcome(identity)
            self._start_commands()
        self._stir()

    def _welcome(self, identity: Identity) -> None:
        connection, services = self._connection, self._services
        self._identity, self._desk = identity, services.desks.of(identity.user)
        try:
            services.live.add(self)
        except Unavailable as error:
            connection.close(CloseCode.TOO_MANY_CONNECTIONS, error.message)
            return
        try:
            connection.log = self.desk.log
        except Unavailable as error:
            connection.close(CloseCode.UNAVAILABLE, error.message)
            return
        # In the index from here on, and checked after that: before the first command and before the first byte.
        # So a revocation since the proof is seen by one of the two.
        if services.live.is_draining:
            connection.close(CloseCode.DRAINING, "The server is restarting.", after_s=1.0)
        connection.signed_in(
            identity.user, expires_at=identity.expires_at, expires_in_s=_expires_in_s(identity), now_s=self._clock()
        )

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────

    def _start_commands(self) -> None:
        for command in self._connection.take_commands():
            self._tasks.create_task(self._run_command(command))

    async def _run_command(self, command: frames.Command) -> None:
        outcome = "ok"
        try:
            if self._check_standing():
                await self._do(command)
        except RunwireError as error:
            outcome = error.code
            self._connection.failed(command, error)
        self._services.metrics.commands.labels(op=command.__struct_config__.tag, code=outcome).inc()
        if isinstance(command, frames.Send) and command.thread:
            self._listen_to(command.thread)  # its events were held back until the reply
        self._start_commands()
        self._stir()

    async def _do(self, command: frames.Command) -> None:
        if isinstance(command, _ACTING):
            self.identity.check_may_act()
        match command:
            case frames.Subscribe():
                await self._subscribe(command)
            case frames.Unsubscribe():
                self._drop(command.thread)
                self._connection.unsubscribed(command)
            case frames.Send():
                await self._send(command)
            case frames.Cancel():
                data = await self.desk.commands.cancel(self.identity.user, command.run)
                self._connection.replied(command, data)
            case frames.Refresh():
                await self._refresh(command)
            case frames.Answer():
                answered = await self.desk.commands.answer(self.identity.user, command.run, command)
                self._connection.replied(command, answered)

    async def _subscribe(self, command: frames.Subscribe) -> None:
        opened = await self.desk.subscriptions.open(
            user=self.identity.user,
            thread=command.thread,
            after=command.after,
            log=command.log,
            view=command.view,
            wake=self._listen_to,
        )
        # From here to the answer nothing awaits: no frame of an older subscription can follow `subscribed`.
        subscription = opened.subscription
        self._drop(command.thread)
        self._subscriptions[command.thread] = subscription
        answer = frames.Subscribed(
            id=command.id,
            thread=command.thread,
            log=subscription.log,
            view=command.view,
            after=opened.after,
            head=opened.head,
        )
        self._connection.subscribed(command, answer, opened.reset)
        self._listen_to(command.thread)

    async def _send(self, command: frames.Send) -> None:
        user = self.identity.user
        sent = await self.desk.commands.send(
            user, command, thread=command.thread, key=command.key, api_key=self.identity.key
        )
        # The reply goes into the queue before anything of the write can: it is announced only after that.
        if sent.thread not in self._subscriptions:
            self._subscriptions[sent.thread] = self.desk.subscriptions.open_after_send(
                user=user, thread=sent.thread, after=sent.after, log=sent.log, view="all", wake=self._listen_to
            )
        data = frames.SendData(
            thread=sent.thread, log=sent.log, after=sent.after, run=sent.run, message=sent.message, seq=sent.seq
        )
        self._connection.sent(command, data)
        self.desk.commands.announce(sent)

    async def _refresh(self, command: frames.Refresh) -> None:
        identity = await self._services.identities.authenticate(command.token)
        self._connection.refreshed(
            command,
            identity.user,
            expires_at=identity.expires_at,
            expires_in_s=_expires_in_s(identity),
            now_s=self._clock(),
        )
        if identity.user == self.identity.user:
            self._identity = identity
            self._check_standing()

    def _check_standing(self) -> bool:
        """Return whether the identity stands; end the connection if it does not."""
        if self._identity is None or self._services.identities.view.is_current(self._identity):
            return True
        self._connection.close(CloseCode.REVOKED, "Your access was withdrawn.")
        return False

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────

    def _stir(self) -> None:
        """Have a turn taken, soon: what has come until then is seen in it."""
        if not self._is_stirred:
            self._is_stirred = True
            self._loop.call_soon(self._turn)

    def _listen_to(self, thread: str) -> None:
        """Look into a thread in the next turn."""
        self._woken[thread] = None
        self._stir()

    def _drop(self, thread: str) -> None:
        subscription = self._subscriptions.pop(thread, None)
        if subscription:
            self.desk.subscriptions.close(subscription)

    def _turn(self) -> None:
        # Arm before looking: what comes while this turn looks is seen in the next one.
        self._is_stirred = False
        if self._over.done():
            return
        try:
            if self._write():
                self._over.set_result(None)
        except Exception as error:  # top of a connection: `run` reports it
            self._over.set_exception(error)

    def _write(self) -> bool:
        """Look at everything and write what there is; return whether the connection is over."""
        if self._is_gone:
            return True
        connection, now_s = self._connection, self._clock()
        connection.unsent(self._transport.buffered_amount(), now_s=now_s)
        connection.tick(now_s)
        self._pull(now_s)
        self._check_standing()  # last before the bytes leave
        self._flush(now_s)
        if connection.is_closed:
            return True
        if self._may_read and connection.wants_input:
            self._may_read.set()
            self._may_read = None
        self._rest(now_s)
        return False

    def _pull(self, now_s: float) -> None:
        """Fetch what listened-to threads have, in turns, until enough is queued."""
        connection = self._connection
        while self._woken and connection.may_pull and not self._reading and now_s >= self._retry_at_s:
            thread = next(iter(self._woken))
            del self._woken[thread]
            subscription = self._subscriptions.get(thread)
            if subscription is None or not subscription.has_more or not connection.may_deliver(thread):
                continue
            taken = subscription.take_kept(size_bytes=_TAKE_BYTES)
            if taken:
                self._deliver(subscription, taken)
            else:
                self._reading = self._tasks.create_task(self._read_log(subscription))

    async def _read_log(self, subscription: Subscription) -> None:
        """Fetch what a thread has from the log. Until that is done or given up, nothing else is pulled."""
        thread = subscription.thread
        try:
            taken = await self._patience.read(subscription.take(size_bytes=_TAKE_BYTES))
        except Unavailable:
            self._woken[thread] = None
            self._retry_at_s = self._clock() + _RETRY_S
        else:
            # Meanwhile the subscription may have been replaced, or a send may have begun.
            if taken and self._subscriptions.get(thread) is subscription and self._connection.may_deliver(thread):
                self._deliver(subscription, taken)
        self._reading = None
        self._stir()

    def _deliver(self, subscription: Subscription, taken: Taken) -> None:
        thread = subscription.thread
        if taken.is_deleted:
            self._drop(thread)
            self._connection.deleted(thread)
            return
        subscription.advance(taken)
        if taken.reset:
            self._connection.reset(taken.reset)
        else:
            self._connection.deliver(thread, taken.encoded, position=taken.position)
            self._services.tracing.delivered(self._connection.connection, thread, taken.events)
        if subscription.has_more:
            self._woken[thread] = None  # behind the others

    def _flush(self, now_s: float) -> None:
        connection, transport, sent = self._connection, self._transport, self._services.metrics.sent
        while (message := connection.take_message()) is not None:
            transport.write(message)
            connection.unsent(transport.buffered_amount(), now_s=now_s)
            sent.messages += 1
            sent.size_bytes += len(message)

    def _rest(self, now_s: float) -> None:
        """Have the next turn taken when there may be something to do."""
        at_s = self._connection.next_tick_s
        if self._transport.buffered_amount():
            at_s = min(at_s, now_s + _SAMPLE_S)
        if self._woken and self._connection.may_pull and not self._reading:
            if now_s >= self._retry_at_s:
                self._stir()  # one turn is done; others have theirs
                return
            at_s = min(at_s, self._retry_at_s)
        self._alarm.set(at_s, now_s=now_s)


def _expires_in_s(identity: Identity) -> float | None:
    return None if identity.expires_at is None else (identity.expires_at - wall_ms()) / 1000
