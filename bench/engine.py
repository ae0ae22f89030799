"""An engine of durable runs as a process of its own: it takes orders as lines of JSON and answers each with a line.

The bench gives the order and reads the clocks of that process and of the database's around it; what happens inside (how
long the steps took, how many are recorded) the engine says itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from bench import cpu
from bench.figures import Faulty
from bench.process import ROOT

__all__ = [
    *("DATABASES", "ENGINES", "MODULES", "Engine", "Orders", "Spent"),
    *("check_durability", "in_turns", "serve"),
]

ENGINES: Final = {
    "runwire": "Runwire: the worker, with its outbox, fence, turns and limits",
    "dbos": "DBOS, workflows started in the worker's process",
    "dbos queue": "DBOS, workflows taken from a queue",
    "procrastinate": "procrastinate: jobs without steps, without a fence",
}
MODULES: Final = {
    "runwire": "bench.engines.runwire",
    "dbos": "bench.engines.dbos",
    "dbos queue": "bench.engines.dbos",
    "procrastinate": "bench.engines.procrastinate",
}
DATABASES: Final = ("PostgreSQL", "SQLite")
# synchronous_commit and fsync; journal_mode and synchronous (2 is FULL): as each engine's own connections tell.
_DURABILITY: Final = {"PostgreSQL": "on on", "SQLite": "wal 2"}
_ORDER_S: Final = 120.0
_STOP_S: Final = 5.0
Orders = Mapping[str, Callable[..., Awaitable[dict[str, Any]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What an order took."""

    said: dict[str, Any]  # by the engine
    wall_ns: int
    engine_ns: int  # CPU of its process tree
    database_ns: int  # CPU of the database server's processes; 0: it has none


class Engine:
    """A running engine.

    Args:
        name: what it is called here.
        module: that is run, with `words`.
        folder: where it writes what it has to complain of.
        core: which it is kept on; None: any.
        database: pid of the database server, if there is one.
    """

    def __init__(
        self, name: str, module: str, *words: str, folder: Path, core: int | None, database: int | None = None
    ) -> None:
        self.name = name
        self._database = database
        self._errors = folder / f"{name}.err"
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=partial(cpu.pin, core),
            )
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._unread = b""
        try:
            self.order("hello")
        except Faulty:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """End it with all that it started. Idempotent."""
        if self._process.poll() is None:
            self.resume()
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # what was said to one that was gone is still in the buffer
            self._stdin.close()
        self._stdout.close()

    def order(self, verb: str, **what: Any) -> dict[str, Any]:
        """Have it do something; return what it says of it.

        Raises:
            Faulty: it failed, took longer than two minutes, or is gone.
        """
        try:
            self._stdin.write(json.dumps({"verb": verb, **what}).encode() + b"\n")
            self._stdin.flush()
            said: dict[str, Any] = json.loads(self._line())
        except (OSError, ValueError) as error:
            raise Faulty(f"{self.name}: {verb}: {error}\n{self._complaints()}") from error
        if "error" in said:
            raise Faulty(f"{self.name}: {verb}: {said['error']}\n{self._complaints()}")
        return said

    def measured(self, verb: str, **what: Any) -> Spent:
        """`order`, and what it took."""
        engine_ns, database_ns, began_ns = self._engine_ns(), self._database_ns(), time.monotonic_ns()
        said = self.order(verb, **what)
        return Spent(
            said=said,
            wall_ns=time.monotonic_ns() - began_ns,
            engine_ns=self._engine_ns() - engine_ns,
            database_ns=self._database_ns() - database_ns,
        )

    def pause(self) -> None:
        """Stop it where it is, so that what it does for itself disturbs no other's turn."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def rest(self, seconds: float) -> Spent:
        """Leave it alone for a while; return what it took all the same."""
        engine_ns, database_ns, began_ns = self._engine_ns(), self._database_ns(), time.monotonic_ns()
        time.sleep(seconds)
        return Spent(
            said={},
            wall_ns=time.monotonic_ns() - began_ns,
            engine_ns=self._engine_ns() - engine_ns,
            database_ns=self._database_ns() - database_ns,
        )

    def memory_bytes(self) -> int:
        """Return the memory of its process tree."""
        return cpu.pss_bytes(self.pid)

    def _engine_ns(self) -> int:
        return cpu.cpu_ns(self.pid)

    def _database_ns(self) -> int:
        return cpu.cpu_with_ended_ns(self._database) if self._database else 0

    def _line(self) -> bytes:
        until_s = time.monotonic() + _ORDER_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, until_s - time.monotonic())):
                    raise ValueError(f"no answer within {_ORDER_S:.0f} s")
                piece = os.read(self._stdout.fileno(), 65_536)
                if not piece:
                    raise ValueError("it is gone")
                self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _complaints(self) -> str:
        return self._errors.read_text(encoding="utf-8", errors="replace")[-2_000:]


def check_durability(name: str, kind: str, found: str) -> None:
    """Let no figure pass of an engine that commits more cheaply, or more dearly, than the others.

    Raises:
        Faulty: its connections are set otherwise.
    """
    if found != _DURABILITY[kind]:
        raise Faulty(f"{name} commits to {kind} with `{found}`, not with `{_DURABILITY[kind]}`.")


async def serve(orders: Orders) -> None:
    """Carry out what stands on standard input until it ends: the engine's side."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints, prints no answer
    while line := await asyncio.to_thread(sys.stdin.readline):
        order: dict[str, Any] = json.loads(line)
        verb = order.pop("verb")
        try:
            said = await orders[verb](**order) if verb != "hello" else {}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(said) + "\n")
        answers.flush()


async def in_turns(count: int, users: int, send: Callable[[int], Awaitable[None]]) -> None:
    """Have so many users send `count` messages, each its next one when the one before is stored."""
    async with asyncio.TaskGroup() as tasks:
        for user in range(users):
            tasks.create_task(_send_some(range(user, count, users), send))


async def _send_some(numbers: Sequence[int], send: Callable[[int], Awaitable[None]]) -> None:
    for number in numbers:
        await send(number)
