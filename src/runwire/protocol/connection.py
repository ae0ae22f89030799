"""The server half of one socket as a pure state machine: no I/O, the clock is an argument.

The shell (`gateway/websocket.py`) feeds it what arrived and what was done, then takes what follows::

    receive, signed_in, refused, sent, subscribed, …, tick, unsent   →   take_credential, take_commands, take_message

A connection is `greeting` (waits for `hello`), `deciding` (frames are held until the identity is known),
`open`, or `closed` (`closing` says with which code; nothing is taken or queued any more).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from runwire.errors import ProtocolError, RunwireError
from runwire.protocol import frames
from runwire.protocol.codes import CloseCode, ErrorCode
from runwire.protocol.frames import Command, Refused

__all__ = ["Closing", "Connection", "ConnectionSettings"]

# What was queued may not be shown any more, or will not be read: only `bye` goes out.
_DROPS_QUEUED: Final = frozenset(
    {CloseCode.TOO_SLOW, CloseCode.REVOKED, CloseCode.FORBIDDEN, CloseCode.UNAUTHENTICATED, CloseCode.TOKEN_EXPIRED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """Times and sizes of PROTOCOL §1, §4 and §5."""

    limits: frames.Limits = field(default_factory=frames.Limits)  # what `welcome` announces
    hello_s: float = 5.0  # time to say hello, then 4002
    hello_bytes: int = 4096  # size of the first frame at most
    held_bytes: int = 65_536  # of frames that follow `hello` before it is decided
    ping_s: float = 25.0  # time between pings
    pong_s: float = 10.0  # no frame of the client for ping_s + pong_s ends the connection with 4012
    token_notice_s: float = 60.0  # how long before its end a token is announced to expire
    token_grace_s: float = 5.0  # how long after its end a token is still borne, then 4005
    unsent_bytes: int = 262_144  # with more than this unsent nothing is pulled, and what is queued waits
    stall_s: float = 20.0  # unsent bytes not falling this long end the connection with 4008
    batch_bytes: int = 262_144  # size of one message at most, unless one frame is larger


@dataclass(frozen=True, slots=True)
class Closing:
    """How the connection ends: the close frame that follows `bye`."""

    code: CloseCode  # also the code of `bye`
    reason: str  # for people


class Connection:
    """Decide what one socket may do, in which order, and what is said to it.

    Buffers: at most `commands_in_flight` commands wait or run; the next one is refused. Frames queued
    for sending are bounded because the shell pulls events only while `may_pull`, and reads only while
    `wants_input`; they wait here while more than `unsent_bytes` are unsent.

    Args:
        connection: id for `welcome`.
        server: name and version for `welcome`.
        log: identity of the database's history.
        settings: times and sizes.
        now_s: monotonic.
        has_credential: one came with the upgrade: no `hello` is waited for.
    """

    def __init__(
        self,
        *,
        connection: str,
        server: str,
        log: str,
        settings: ConnectionSettings,
        now_s: float,
        has_credential: bool = False,
    ) -> None:
        self.connection = connection
        self.log = log
        self.settings = settings
        self.closing: Closing | None = None
        self._server = server
        self._phase: Literal["greeting", "deciding", "open", "closed"] = "deciding" if has_credential else "greeting"
        self._user = ""
        self._credential: str | None = None
        self._held: list[frames.ClientFrame | Refused] = []
        self._held_bytes = 0
        self._queued: list[bytes] = []
        self._queued_bytes = 0
        self._ready: list[Command] = []
        self._lanes: dict[str, deque[Command]] = {}  # thread or run -> commands naming it; the first one runs
        self._in_flight = 0
        self._reserving: dict[int, Command] = {}  # by identity: running commands that may add a subscription
        self._positions: dict[str, int] = {}  # subscribed thread -> seq of its `position`
        self._opened_s = now_s
        self._life_s = now_s
        self._ping_at_s = float("inf")
        self._notice_at_s = float("inf")
        self._expiry_at_s = float("inf")
        self._unsent = 0
        self._fell_s = now_s

    # ── what the shell may ask ──────────────────────────────────────────────────────────────────────────

    @property
    def is_greeting(self) -> bool:
        """Return whether `hello` is waited for."""
        return self._phase == "greeting"

    @property
    def is_open(self) -> bool:
        """Return whether the connection is signed in and not closed."""
        return self._phase == "open"

    @property
    def is_closed(self) -> bool:
        """Return whether the connection has ended; `closing` says how."""
        return self._phase == "closed"

    @property
    def may_pull(self) -> bool:
        """Return whether events may be fetched for this socket: it takes what it gets (PROTOCOL §5)."""
        return self.is_open and self._unsent + self._queued_bytes <= self.settings.unsent_bytes

    @property
    def wants_input(self) -> bool:
        """Return whether to read on: who sends commands and never reads the replies must wait."""
        return self._unsent + self._queued_bytes <= 2 * self.settings.unsent_bytes

    def may_deliver(self, thread: str) -> bool:
        """Return whether events of the thread may be queued now.

        Not while a `send` to it runs: its reply comes before the events it causes (PROTOCOL §1).
        """
        lane = self._lanes.get(thread)
        return self.is_open and not (lane and isinstance(lane[0], frames.Send))

    @property
    def next_tick_s(self) -> float:
        """Return when `tick` has something to do, monotonic; infinity: never."""
        if self._phase == "greeting":
            return self._opened_s + self.settings.hello_s
        if not self.is_open:
            return float("inf")
        stall_at_s = self._fell_s + self.settings.stall_s if self._unsent else float("inf")
        return min(self._ping_at_s, self._dead_at_s, self._notice_at_s, self._expiry_at_s, stall_at_s)

    @property
    def _dead_at_s(self) -> float:
        return self._life_s + self.settings.ping_s + self.settings.pong_s

    # ── what arrived ────────────────────────────────────────────────────────────────────────────────────

    def receive(self, message: str | bytes, *, is_binary: bool = False, now_s: float) -> None:
        """Take one WebSocket message. Next: `take_credential`, `take_commands`, `take_message`."""
        if self.is_closed:
            return
        self._life_s = now_s
        try:
            arrived = frames.parse_client_frames(message, is_binary=is_binary)
        except ProtocolError as error:
            self.close(CloseCode(error.close or CloseCode.BAD_FRAME), error.message)
            return
        size = len(message.encode()) if isinstance(message, str) else len(message)
        if self._phase == "greeting" and arrived:
            self._greet(arrived, size)
        elif self._phase == "deciding":
            self._hold(arrived, size)
        else:
            self._take(arrived)

    def _greet(self, arrived: Sequence[frames.ClientFrame | Refused], size: int) -> None:
        hello, *rest = arrived
        if not isinstance(hello, frames.Hello):
            self.close(CloseCode.UNAUTHENTICATED, "The first frame must be a sound hello.")
            return
        own_size = len(frames.encode(hello)) if rest else size
        if own_size > self.settings.hello_bytes:
            self.close(CloseCode.TOO_BIG, f"The first frame is larger than {self.settings.hello_bytes} bytes.")
            return
        self._phase = "deciding"
        self._credential = hello.token
        if rest:
            self._hold(rest, size - own_size)

    def _hold(self, arrived: Sequence[frames.ClientFrame | Refused], size: int) -> None:
        self._held_bytes += size
        if self._held_bytes > self.settings.held_bytes:
            self.close(CloseCode.TOO_BIG, f"More than {self.settings.held_bytes} bytes came before hello was decided.")
            return
        self._held.extend(arrived)

    def _take(self, arrived: Sequence[frames.ClientFrame | Refused]) -> None:
        for frame in arrived:
            if isinstance(frame, Refused):
                self._queue(frames.reply_error(frame.id, frame.error))
            elif isinstance(frame, frames.Hello):
                error = ProtocolError("This connection is signed in; send `refresh` for another token.", field="op")
                self._queue(frames.reply_error(None, error))
            elif not isinstance(frame, frames.Pong):
                self._admit(frame)

    def _admit(self, command: Command) -> None:
        limit = self.settings.limits.commands_in_flight
        if self._in_flight >= limit:
            error = ProtocolError(f"{limit} commands are in flight; wait for a reply.", code=ErrorCode.RATE_LIMITED)
            self._queue(frames.reply_error(command.id, error))
            return
        self._in_flight += 1
        thread = _lane_of(command)
        if thread is None:
            self._start(command)
            return
        lane = self._lanes.setdefault(thread, deque())
        lane.append(command)
        if len(lane) == 1:
            self._start(command)

    def _start(self, command: Command) -> None:
        """Make a command ready, unless it would add a subscription too many: then nothing of it happens."""
        limit = self.settings.limits.subscriptions
        if self._may_subscribe(command):
            if len(self._positions) + len(self._reserving) >= limit:
                error = ProtocolError(f"A connection has at most {limit} subscriptions.", code=ErrorCode.RATE_LIMITED)
                self._queue(frames.reply_error(command.id, error))
                self._finish(command)
                return
            self._reserving[id(command)] = command
        self._ready.append(command)

    def _may_subscribe(self, command: Command) -> bool:
        return isinstance(command, frames.Subscribe | frames.Send) and command.thread not in self._positions

    def _finish(self, command: Command) -> None:
        self._in_flight -= 1
        self._reserving.pop(id(command), None)
        thread = _lane_of(command)
        lane = self._lanes.get(thread) if thread is not None else None
        if thread is None or lane is None:
            return
        lane.popleft()
        if not lane:
            del self._lanes[thread]
        elif not self.is_closed:
            self._start(lane[0])

    def take_credential(self) -> str | None:
        """Take the token of `hello`, once. Answer with `signed_in` or `close`."""
        credential, self._credential = self._credential, None
        return credential

    def take_commands(self) -> list[Command]:
        """Take the commands that may start now; end each by exactly one of the answers below.

        Those naming one thread come one after the other, in the order received, and so do answers that name one run;
        `cancel` comes at once.
        """
        ready, self._ready = self._ready, []
        return ready

    # ── what was decided ────────────────────────────────────────────────────────────────────────────────

    def signed_in(self, user: str, *, expires_at: int | None, expires_in_s: float | None, now_s: float) -> None:
        """Welcome the user, then take the frames that were held. Next: `take_commands`, `take_message`.

        Args:
            user: id of the user.
            expires_at: end of the token, ms UTC, for the client to read; None: no end.
            expires_in_s: time from now to that end: a wall clock that jumps ends nothing.
            now_s: monotonic.
        """
        if self.is_closed:
            return
        self._phase = "open"
        self._user = user
        self._life_s = now_s
        self._ping_at_s = now_s + self.settings.ping_s
        self._expires(expires_in_s, now_s)
        self._queue(
            frames.Welcome(
                protocol=frames.PROTOCOL_VERSION,
                server=self._server,
                connection=self.connection,
                user=user,
                log=self.log,
                ping_s=self.settings.ping_s,
                pong_s=self.settings.pong_s,
                expires_at=expires_at,
                limits=self.settings.limits,
            )
        )
        held, self._held = self._held, []
        self._take(held)

    def _expires(self, expires_in_s: float | None, now_s: float) -> None:
        if expires_in_s is None:
            self._notice_at_s = self._expiry_at_s = float("inf")
            return
        # A token of less than two minutes is announced at half its life, else each refresh asks for the next.
        notice_s = min(self.settings.token_notice_s, expires_in_s / 2)
        self._notice_at_s = now_s + expires_in_s - notice_s
        self._expiry_at_s = now_s + expires_in_s + self.settings.token_grace_s

    def refreshed(
        self, command: frames.Refresh, user: str, *, expires_at: int | None, expires_in_s: float | None, now_s: float
    ) -> None:
        """Answer `refresh` with a token that was proven: another user's ends the connection."""
        if user != self._user:
            self._finish(command)
            self.close(CloseCode.FORBIDDEN, "The token is another user's.")
            return
        self._expires(expires_in_s, now_s)
        self.replied(command, frames.RefreshData(expires_at=expires_at))

    def replied(self, command: Command, data: Any) -> None:
        """Answer a command that was done."""
        self._queue(frames.reply_ok(command.id, data))
        self._finish(command)

    def failed(self, command: Command, error: RunwireError | frames.ErrorBody) -> None:
        """Answer a command that was refused."""
        self._queue(frames.reply_error(command.id, error))
        self._finish(command)

    def sent(self, command: frames.Send, data: frames.SendData) -> None:
        """Answer `send`; the socket is subscribed to the thread from before its first new event.

        An existing subscription keeps its position.
        """
        self._queue(frames.reply_ok(command.id, data))
        if not self.is_closed:
            self._positions.setdefault(data.thread, data.after)
        self._finish(command)

    def subscribed(self, command: frames.Subscribe, answer: frames.Subscribed, reset: frames.Reset | None) -> None:
        """Answer `subscribe`; the new subscription replaces an older one of the thread."""
        if not self.is_closed:
            self._positions[answer.thread] = answer.after
        self._queue(answer)
        if reset:
            self.reset(reset)
        self._finish(command)

    def unsubscribed(self, command: frames.Unsubscribe) -> None:
        """Answer `unsubscribe`, also when there was nothing to end."""
        self._positions.pop(command.thread, None)
        self._queue(frames.Unsubscribed(id=command.id, thread=command.thread, reason="asked"))
        self._finish(command)

    # ── what is delivered ───────────────────────────────────────────────────────────────────────────────

    def deliver(self, thread: str, encoded: Sequence[bytes], *, position: int) -> None:
        """Queue events of a subscribed thread; `position` is the seq of the last one."""
        if not self.is_open or not encoded or thread not in self._positions:
            return
        self._positions[thread] = position
        self._queued.extend(encoded)
        self._queued_bytes += sum(map(len, encoded))

    def reset(self, reset: frames.Reset) -> None:
        """Queue a reset: what follows begins after its `from`."""
        if self.is_open:
            self._positions[reset.thread] = reset.from_
            self._queue(reset)

    def deleted(self, thread: str) -> None:
        """End the subscription of a thread that is gone."""
        if self._positions.pop(thread, None) is not None:
            self._queue(frames.Unsubscribed(id=None, thread=thread, reason="deleted"))

    def notice(self, kind: Literal["draining", "stalled", "token_expiring"], *, thread: str | None = None) -> None:
        """Queue a hint."""
        self._queue(frames.Notice(kind=kind, thread=thread))

    def close(self, code: CloseCode, reason: str, *, after_s: float | None = None) -> None:
        """End the connection: `bye`, then the close frame. Only the first close counts.

        What is queued goes out before `bye` unless it is more than a reader may owe: nothing waits any more.
        """
        if self.is_closed:
            return
        if code in _DROPS_QUEUED or not self.wants_input:
            self._queued.clear()
            self._queued_bytes = 0
        self._queue(frames.Bye(code=code, reconnect=code.may_reconnect, after_s=after_s, reason=reason))
        self._phase = "closed"
        self.closing = Closing(code, reason)
        self._ready.clear()
        self._held.clear()
        self._credential = None

    def tick(self, now_s: float) -> None:
        """Do what is due. Next: `take_message`."""
        if self._phase == "greeting" and now_s >= self._opened_s + self.settings.hello_s:
            self.close(CloseCode.NO_HELLO, f"No hello within {self.settings.hello_s:g} s.")
        if not self.is_open:
            return
        if now_s >= self._dead_at_s:
            self.close(CloseCode.NO_LIFE, "No frame came in time; is the connection half open?")
        elif now_s >= self._expiry_at_s:
            self.close(CloseCode.TOKEN_EXPIRED, "The token has expired; refresh it and come back.")
        elif self._unsent and now_s >= self._fell_s + self.settings.stall_s:
            self.close(CloseCode.TOO_SLOW, "What is sent is not read; resume from your position.")
        else:
            self._remind(now_s)

    def _remind(self, now_s: float) -> None:
        if now_s >= self._notice_at_s:
            self._notice_at_s = float("inf")
            self.notice("token_expiring")
        if now_s >= self._ping_at_s:
            self._ping_at_s = now_s + self.settings.ping_s
            if not self.wants_input:
                return  # who does not read answers no ping, and they would pile up
            self._queue(frames.Ping())
            for thread, seq in self._positions.items():
                # Queued behind the events it counts: a client that lacks one sees it here (apply rule).
                self._queue(frames.Position(thread=thread, seq=seq))

    def unsent(self, size_bytes: int, *, now_s: float) -> None:
        """Take note of what the transport has not sent yet: before and after each write, and while waiting."""
        if size_bytes < self._unsent or not self._unsent or not size_bytes:
            self._fell_s = now_s
            if size_bytes and not self.wants_input:
                # While nothing is read from the socket, bytes that it takes are the only sign of life.
                self._life_s = now_s
        self._unsent = size_bytes

    def take_message(self) -> bytes | None:
        """Take the next WebSocket message: queued frames up to `batch_bytes`; None: there is none now.

        There is none while more than `unsent_bytes` are unsent. Next: `unsent`.
        """
        if not self._queued or (self._unsent > self.settings.unsent_bytes and not self.is_closed):
            return None
        if self._queued_bytes + len(self._queued) + 1 <= self.settings.batch_bytes:  # mostly: one message holds all
            batch, self._queued, self._queued_bytes = self._queued, [], 0
            return frames.join(batch)
        size, count = len(self._queued[0]) + 2, 1
        while count < len(self._queued) and size + len(self._queued[count]) + 1 <= self.settings.batch_bytes:
            size += len(self._queued[count]) + 1
            count += 1
        batch = self._queued[:count]
        del self._queued[:count]
        self._queued_bytes -= sum(map(len, batch))
        return frames.join(batch)

    def _queue(self, frame: frames.ServerFrame) -> None:
        if self.is_closed:
            return
        encoded = frames.encode(frame)
        self._queued.append(encoded)
        self._queued_bytes += len(encoded)


def _lane_of(command: Command) -> str | None:
    """Return the thread or run whose commands wait for each other; `cancel` never waits.

    An answer names a run, whose thread is not known here: it waits for earlier answers to that run. A cancel that
    overtakes it changes nothing of the outcome: the run is called off, answered or not.
    """
    match command:
        case frames.Subscribe() | frames.Unsubscribe() | frames.Send():
            return command.thread
        case frames.Answer():
            return command.run
        case _:
            return None
