"""Where the test build of the server can be made to die: named points between two lines of the running code.

A point is a seam of the code (a function, a method, or a statement of `sqlite.sql`) and a side of it. Nothing of this
is in the package: `tests.chaos.server` wraps the seams and then runs the ordinary command line. A seam that does not
exist any more is an error at start, so the list cannot rot; what was reached and what acted stands in the marks file,
so a test can show that its point was hit.

    CHAOS_FAILPOINT=append.after_commit:3:kill      the third time; several are separated by commas
    CHAOS_FAILPOINT=append.reply:%5:lose            each fifth time
    CHAOS_MARKS=/folder/marks                       one JSON line for each action, and for each point first reached
    CHAOS_READ_ONLY=/folder/switch                  while this file exists, SQLite refuses to write
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from runwire.errors import Unavailable
from runwire.protocol.events import TERMINAL_TYPES, unpack
from runwire.storage.base import CancelRequest, Committed
from runwire.storage.sql import load

__all__ = ["ACTIONS", "POINTS", "Action", "Armed", "Failpoints", "Point", "SeamMissing", "parse", "resolve"]

Action = Literal["kill", "late", "stop", "full", "lose", "drop"]
ACTIONS: dict[Action, str] = {
    "kill": "SIGKILL to itself",
    "late": "SIGKILL to itself a moment later, in which all other threads go on: as on a slow disk",
    "stop": "SIGSTOP to itself",
    "full": "the statement fails as on a full disk",
    "lose": "what was done is done, and its reply is lost (Unavailable)",
    "drop": "the call does not happen: only for what may be lost, such as a message of the bus",
}
_LATE_S = 0.1
Side = Literal["before", "after"]
SQL = load("sqlite.sql")
NAMES = {text: name for name, text in SQL.items()}


class SeamMissing(Exception):
    """The code has moved: change the point, or drop it and say why."""


class _Dropped(Exception):
    """The call must not happen."""


def _always(_result: Any, *_args: Any) -> bool:
    return True


class Point(NamedTuple):
    """A place to die at."""

    name: str
    says: str  # what the world looks like there
    at: str  # `module:Class.method`; `commit:block`, the COMMIT of a group with that statement; `statement:block`
    side: Side
    when: Callable[..., bool] = _always  # (result or None, *arguments)
    phase: Literal["start", "run", "drain", "upkeep"] = "run"
    is_lazy: bool = False  # its module is imported only where it is needed, and wrapped only if armed


def _is_of_a_run(_result: Any, _bus: Any, message: Any) -> bool:
    return isinstance(message, Committed) and message.attempt > 0


def _is_terminal(_result: Any, _bus: Any, message: Any) -> bool:
    if not isinstance(message, Committed) or message.attempt == 0:
        return False
    events = unpack(message.packed, first_seq=message.first_seq, run=message.run, attempt=message.attempt)
    return list(events)[-1].type in TERMINAL_TYPES


def _is_send_reply(_result: Any, _socket: Any, message: bytes) -> bool:
    return b'"op":"reply"' in message and b'"message":"msg_' in message


def _has_event(_result: Any, _socket: Any, message: bytes) -> bool:
    return b'"op":"event"' in message


def _is_later_attempt(_result: Any, speaker: Any) -> bool:
    return bool(speaker._claim.attempt > 1)


def _is_recorded(result: Any, *_args: Any) -> bool:
    return result.recorded is not None


def _is_something(result: Any, *_args: Any) -> bool:
    return result is not None


def _is_cancel(_result: Any, _run: Any, stop: Any) -> bool:
    return isinstance(stop, CancelRequest)


def _makes_way(result: Any, *_args: Any) -> bool:
    return any(result)


_STORAGE, _RUNTIME, _GATEWAY = "runwire.storage.sqlite", "runwire.runtime", "runwire.gateway"

POINTS: tuple[Point, ...] = (
    # A server starts.
    Point("start.after_lock", "It owns the file and has not opened it.",
          f"{_STORAGE}.lock:OwnerLock.__init__", "after", phase="start"),
    Point("start.before_migration", "The file is open and its tables are as they were.",
          f"{_STORAGE}.prepare:_migrate", "before", phase="start"),
    Point("start.within_migration", "A migration has begun its transaction; only after an upgrade.",
          "runwire.storage.migrations.upgrade:_begin", "after", phase="start", is_lazy=True),
    Point("start.after_migration", "The tables are new, and nobody has become the owner.",
          f"{_STORAGE}.prepare:_migrate", "after", phase="start"),
    Point("start.before_owner", "The incarnation is still that of the process before.",
          "statement:become_owner", "before", phase="start"),
    Point("start.after_owner", "Every run is another incarnation's now, and nobody claims.",
          "statement:become_owner", "after", phase="start"),
    Point("start.after_control", "Commands may come, and no loop runs to take them.",
          f"{_STORAGE}.control:ControlSocket.open", "after", phase="start"),
    Point("start.before_ready", "It accepts connections and has not said `ready`.",
          f"{_GATEWAY}.server:Server.startup", "after", phase="start"),
    # Somebody sends.
    Point("send.before_commit", "Message and run are written and not committed.", "commit:add_run", "before"),
    Point("send.after_commit", "They are committed, and nobody knows.", "commit:add_run", "after"),
    Point("send.before_reply", "The gateway knows, the sender does not.",
          f"{_GATEWAY}.commands:Commands.send", "after"),
    Point("send.before_announce", "The reply is queued, nobody else was told.",
          f"{_GATEWAY}.commands:Commands.announce", "before"),
    Point("send.after_announce", "Workers and tails were told, the reply has not left.",
          f"{_GATEWAY}.commands:Commands.announce", "after"),
    Point("reply.before_write", "The reply is about to go to the kernel.",
          f"{_GATEWAY}.server:SocketProtocol.write", "before", _is_send_reply),
    Point("reply.after_write", "The reply is the kernel's: it may arrive or not.",
          f"{_GATEWAY}.server:SocketProtocol.write", "after", _is_send_reply),
    Point("resend.before_answer", "A key that was used is found; the answer has not left.",
          f"{_STORAGE}.runs:_sent_earlier", "after", _is_something),
    Point("interrupt.before_commit", "A send has called the others off, and nothing of it is committed.",
          f"{_STORAGE}.runs:_make_way", "after", _makes_way),
    Point("subscribe.before_answer", "A position is accepted, and nothing was said.",
          f"{_GATEWAY}.subscription:Subscriptions.open", "after"),
    # A worker claims.
    Point("claim.before_commit", "A run is taken and that is not committed.", "commit:claim_run", "before"),
    Point("claim.after_commit", "It is taken, and the worker does not know.", "commit:claim_run", "after"),
    Point("claim.before_held", "The worker knows and does not hold it.", f"{_RUNTIME}.worker:Worker._take", "before"),
    Point("attempt.before_first_word", "A takeover has read the log and said nothing.",
          f"{_RUNTIME}.speech:Speaker.start", "before", _is_later_attempt),
    Point("attempt.after_first_word", "The first word is said and not committed.",
          f"{_RUNTIME}.speech:Speaker.start", "after"),
    Point("replay.within", "A replay was just given a recorded result.",
          "runwire.protocol.replay:Replay.begin_step", "after", _is_recorded),
    # It appends.
    Point("append.frozen", "A batch is frozen and not sent.", f"{_RUNTIME}.outbox:Buffer.freeze", "after",
          _is_something),
    Point("append.before_commit", "Events have their seqs and are not committed.", "commit:take_ordinals", "before"),
    Point("append.after_commit", "They are committed, and nobody knows.", "commit:take_ordinals", "after"),
    Point("append.reply", "The log has answered, the outbox has not heard.",
          f"{_STORAGE}.log:SqliteEventLog.append", "after"),
    Point("append.before_publish", "The outbox knows, the bus does not.",
          "runwire.storage.bus_local:LocalBus.publish", "before", _is_of_a_run),
    Point("append.after_publish", "The bus knows, the buffer has not settled.",
          "runwire.storage.bus_local:LocalBus.publish", "after", _is_of_a_run),
    Point("append.after_settle", "The buffer has settled, and who waited for it goes on.",
          f"{_RUNTIME}.outbox:Buffer.settle", "after"),
    Point("terminal.before_words", "The code has ended, and its end is not said.",
          f"{_RUNTIME}.speech:Speaker.conclude", "before"),
    Point("terminal.after_words", "Its end is said and not committed.",
          f"{_RUNTIME}.speech:Speaker.conclude", "after"),
    Point("terminal.before_commit", "A run's end is written and not committed.", "commit:end_run", "before"),
    Point("terminal.after_commit", "It is committed, and nobody knows.", "commit:end_run", "after"),
    Point("terminal.before_publish", "The outbox knows, the bus does not.",
          "runwire.storage.bus_local:LocalBus.publish", "before", _is_terminal),
    # A tool is called.
    Point("step.before_call", "`tool_executing` is committed, the tool was not called.",
          "runwire.agents.steps:_invoke", "before"),
    Point("step.after_call", "The tool has run, and its result is nowhere.", "runwire.agents.steps:_invoke", "after"),
    Point("step.after_end", "Its result is said and perhaps not committed.",
          f"{_RUNTIME}.speech:Speaker.end_step", "after"),
    # Somebody cancels.
    Point("cancel.before_commit", "A cancellation is written and not committed.", "commit:flag_cancel", "before"),
    Point("cancel.after_commit", "It is committed, and nobody knows.", "commit:flag_cancel", "after"),
    Point("cancel.before_stop", "The holder has heard, the code has not.", f"{_RUNTIME}.run:Run.stop", "before",
          _is_cancel),
    # Somebody listens.
    Point("tail.before_feed", "The tail has heard of a commit, its ring does not have it.",
          f"{_GATEWAY}.tail:Tail._continue", "before"),
    Point("event.before_write", "Events are about to go to the kernel.",
          f"{_GATEWAY}.server:SocketProtocol.write", "before", _has_event),
    Point("event.after_write", "Events are the kernel's: they may arrive or not.",
          f"{_GATEWAY}.server:SocketProtocol.write", "after", _has_event),
    # It stops.
    Point("drain.begun", "SIGTERM was taken, and the worker still claims.",
          f"{_RUNTIME}.worker:Worker.drain", "before", phase="drain"),
    Point("drain.clients_told", "Clients were sent away, and runs are not handed over.",
          f"{_GATEWAY}.live:Live.drain", "after", phase="drain"),
    Point("handover.before_commit", "A run is given back and that is not committed.",
          "commit:release_run", "before", phase="drain"),
    Point("handover.after_commit", "It is given back, and nobody knows.",
          "commit:release_run", "after", phase="drain"),
    Point("drain.done", "The worker holds nothing any more.",
          f"{_RUNTIME}.worker:Worker.drain", "after", phase="drain"),
    Point("stop.before_close", "Everything is over but the file is open.",
          f"{_STORAGE}.database:SqliteDatabase._close", "before", phase="drain"),
    # It looks after the database.
    Point("compact.surveyed", "What stays of a run's deltas is packed anew, and nothing of that is written.",
          "runwire.protocol.compaction:Compaction.condense", "after", phase="upkeep"),
    Point("compact.before_commit", "Deltas are deleted and that is not committed.",
          "commit:drop_pieces", "before", phase="upkeep"),
    Point("compact.after_commit", "Deltas of a run are gone, and it is not marked as done.",
          "commit:drop_pieces", "after", phase="upkeep"),
    Point("compact.after_mark", "A run is marked as done.", "commit:mark_compacted", "after", phase="upkeep"),
    Point("trim.before_floor", "A floor is raised, events below it are deleted, and nothing is committed.",
          "commit:raise_floor", "before", phase="upkeep"),
    Point("trim.after_floor", "The floor is raised; below it some may be left.",
          "commit:raise_floor", "after", phase="upkeep"),
    Point("trim.after_runs", "Runs are gone.", "commit:drop_runs", "after", phase="upkeep"),
    # What may get lost without anybody dying: for the actions `lose` and `drop`.
    Point("send.reply", "A send is committed, its gateway has not heard.", f"{_STORAGE}.runs:SqliteRuns.send", "after"),
    Point("claim.reply", "A claim is committed, its worker has not heard.",
          f"{_STORAGE}.runs:SqliteRuns.claim", "after", lambda result, *_: bool(result)),
    Point("publish", "The bus is about to be told of a commit.",
          "runwire.storage.bus_local:LocalBus.publish", "before", _is_of_a_run),
    Point("begin", "A group is about to begin its transaction.", "statement:begin_write", "before"),
)  # fmt: skip


class Armed(NamedTuple):
    """What is to happen at a point."""

    point: str
    nth: int
    action: Action
    is_each: bool = False  # each nth time, not only the nth

    def __str__(self) -> str:
        return f"{self.point}:{'%' if self.is_each else ''}{self.nth}:{self.action}"


def parse(text: str) -> list[Armed]:
    """Read `name[:nth][:action]`, comma-separated."""
    known, armed = {point.name for point in POINTS}, []
    for word in filter(None, text.split(",")):
        name, nth, action = [*word.split(":"), "", ""][:3]
        if name not in known or (action or "kill") not in ACTIONS:
            raise SeamMissing(f"{word!r}: there is no such failpoint or action")
        armed.append(Armed(name, int(nth.lstrip("%") or 1), action or "kill", nth.startswith("%")))  # type: ignore[arg-type] # looked up above
    return armed


def resolve(at: str) -> tuple[Any, str]:
    """Return what holds a seam and its name there. Raises SeamMissing."""
    kind, _, place = at.partition(":")
    if kind in ("commit", "statement"):
        if place not in SQL:
            raise SeamMissing(f"sqlite.sql has no block {place!r} any more")
        return SQL, place
    *path, name = place.split(".")
    try:
        owner: Any = importlib.import_module(kind)
        for part in path:
            owner = getattr(owner, part)
        vars(owner)[name]
    except (ImportError, AttributeError, KeyError):
        raise SeamMissing(f"{at} does not exist any more") from None
    return owner, name


class Failpoints:
    """The points of one process."""

    def __init__(self, armed: list[Armed], marks: str | None, *, read_only: str | None = None) -> None:
        self._armed = {one.point: one for one in armed}
        self._marks = marks
        self._read_only = read_only
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def install(self) -> None:
        """Wrap every seam. Raises SeamMissing."""
        for point in POINTS:
            if point.is_lazy and point.name not in self._armed:
                continue
            owner, name = resolve(point.at)
            if owner is not SQL:
                setattr(owner, name, self._wrapped(vars(owner)[name], point))
        # Only connections that the package opens by name get it; what they do not know of points they do as before.
        sqlite3.connect = functools.partial(sqlite3.connect, factory=self._connection_class())  # type: ignore[assignment] # adds a keyword

    def reach(self, point: Point, result: Any = None, *args: Any) -> None:
        """Count that a point was reached, and do what it is armed for."""
        if not point.when(result, *args):
            return
        with self._lock:
            self._counts[point.name] += 1
            n = self._counts[point.name]
        armed = self._armed.get(point.name)
        is_due = armed is not None and (n % armed.nth == 0 if armed.is_each else n == armed.nth)
        if n == 1 or is_due:
            self._mark(point.name, n, armed.action if armed and is_due else None)
        if armed and is_due:
            _act(armed.action)

    def _mark(self, name: str, n: int, action: Action | None) -> None:
        if self._marks is None:
            return
        line = json.dumps({"point": name, "n": n, "action": action, "pid": os.getpid()})
        with contextlib.suppress(OSError):  # the disk may be full on purpose: then nothing is shown to have been hit
            fd = os.open(self._marks, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(fd, f"{line}\n".encode())
            finally:
                os.close(fd)

    def _wrapped(self, original: Callable[..., Any], point: Point) -> Callable[..., Any]:
        is_before = point.side == "before"
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def call(*args: Any, **named: Any) -> Any:
                if is_before:
                    self.reach(point, None, *args)
                result = await original(*args, **named)
                if not is_before:
                    self.reach(point, result, *args)
                return result

            return call

        @functools.wraps(original)
        def do(*args: Any, **named: Any) -> Any:
            try:
                if is_before:
                    self.reach(point, None, *args)
            except _Dropped:
                return None
            result = original(*args, **named)
            if not is_before:
                self.reach(point, result, *args)
            return result

        return do

    def _connection_class(self) -> type[sqlite3.Connection]:
        """Return a connection that knows which statements the group at hand has executed."""
        commits = [point for point in POINTS if point.at.startswith("commit:")]
        statements = [point for point in POINTS if point.at.startswith("statement:")]
        reach, switch = self.reach, self._read_only

        class Connection(sqlite3.Connection):
            executed: set[str] = set()  # noqa: RUF012 - replaced for each group, never changed here

            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                name = NAMES.get(sql, "")
                if name == "begin_write":
                    self.executed = set()
                    if switch is not None:
                        # The error is SQLite's own; a file system that turns read-only gives it, too.
                        super().execute(f"PRAGMA query_only = {os.path.exists(switch):d}")
                passed = [point for point in statements if point.at == f"statement:{name}"] or [
                    point for point in commits if name == "commit" and point.at.partition(":")[2] in self.executed
                ]
                self._pass(passed, "before")
                cursor = super().execute(sql, parameters)
                self.executed.add(name)
                self._pass(passed, "after")
                return cursor

            def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
                rows = list(parameters)
                if rows:
                    self.executed.add(NAMES.get(sql, ""))
                return super().executemany(sql, rows)

            def _pass(self, passed: list[Point], side: Side) -> None:
                for point in passed:
                    if point.side == side:
                        reach(point)

        return Connection


def _act(action: Action) -> None:
    match action:
        case "kill":
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        case "late":
            time.sleep(_LATE_S)
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "full":
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        case "lose":
            raise Unavailable("The reply was lost.", retry_after_s=0.0)
        case "drop":
            raise _Dropped
