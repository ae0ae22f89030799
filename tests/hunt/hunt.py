"""A hunt: a crowd in this process, another one in a process that is stopped anywhere, and somebody who watches."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
from tests.hunt import truth, victim
from tests.hunt.crowd import Crowd, Tally
from tests.postgres import PostgresServer

from runwire.storage.postgres.storage import PostgresStorage

__all__ = ["Hunt"]

_ROOT: Final = Path(__file__).parents[2]
_DEADLOCK: Final = "40P01"


@dataclass
class Hunt:
    """One hunt on a database of its own; `run` raises what it finds.

    Args:
        server: of which nobody else makes use: its log is read.
        seed: what everybody does, and where the victim is stopped. What comes of it depends on the machine as well.
        lease_s: a third of it is the deadline of a call.
        workers: of this process, each with connections of its own.
        places: where in a request the victim is stopped.
    """

    server: PostgresServer
    seed: int
    lease_s: float = 3.0
    workers: int = 4
    places: tuple[str, ...] = victim.PLACES
    tally: Tally = field(default_factory=Tally)
    stops: Counter[str] = field(default_factory=Counter)
    deadlocks: int = 0

    async def run(self, url: str, *, for_s: float) -> None:
        """Hunt for a while, then let everything end, and look at what is there."""
        self._dice = random.Random(self.seed)
        self._log_began = len(self.server.log())
        self._is_over = False
        storages = [await PostgresStorage.open(url, lease_s=self.lease_s) for _ in range(self.workers)]
        crowd = Crowd(storages, name="w", seed=self.seed)
        self.tally = crowd.tally
        self._watching = await asyncpg.connect(url, command_timeout=60)
        if self._watching.get_server_version().major < 17:  # which keeps what a cut request has locked: ADR 0018
            self.places = tuple(place for place in self.places if place != "within")
        process = self._start(url) if self.places else None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(crowd.work())
                watch = tasks.create_task(self._watch())
                torment = tasks.create_task(self._torment(process, for_s=for_s))
                await torment
                self._is_over = True
                await watch  # it and the look at the end share a connection
                crowd.end()
                await self._wait_for_the_end()
                crowd.leave()
        except ExceptionGroup as found:
            raise _first(found) from found
        finally:
            if process is not None:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
            self.deadlocks = await truth.deadlocks(self._watching)
            for storage in storages:
                await storage.close()
            await self._watching.close()

    def check(self) -> None:
        """Assert that nobody was told of a deadlock: not by an answer, not by the figures, not by the server's log."""
        assert self.tally.refused[_DEADLOCK] == 0
        assert self.deadlocks == 0
        assert "deadlock detected" not in self.server.log()[self._log_began :]

    def figures(self) -> str:
        worst = sorted(self.tally.worst_s.items(), key=lambda pair: -pair[1])[:6]
        return (
            f"seed {self.seed}: stops {dict(self.stops)}, done {dict(self.tally.done)}, refused"
            f" {dict(self.tally.refused)}, worst {[(name, round(s, 2)) for name, s in worst]}"
        )

    def _start(self, url: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.hunt.victim", url, str(self.lease_s), str(self.seed), *self.places]
        return subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    async def _torment(self, process: subprocess.Popen[bytes] | None, *, for_s: float) -> None:
        """Let the victim go on each time it has stopped, after a while; send it home in the end."""
        until_s = time.monotonic() + for_s
        while process is not None and process.poll() is None:
            if _is_stopped(process.pid):
                is_over = time.monotonic() > until_s
                await asyncio.sleep(0 if is_over else self._pause_s())
                process.send_signal(signal.SIGCONT)
            elif time.monotonic() > until_s and process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()
            await asyncio.sleep(0.01)
        await asyncio.sleep(max(0.0, until_s - time.monotonic()))
        if process is not None:
            assert process.stdout is not None
            said: dict[str, Any] = json.loads(process.stdout.read())
            self.stops = Counter(said["stops"])
            self.tally.refused += Counter({state: said["refused"].get(state, 0) for state in (_DEADLOCK,)})

    def _pause_s(self) -> float:
        """Return for how long the victim is stopped: mostly a little, now and then for longer than a lease."""
        return self._dice.uniform(0.05, 0.3) if self._dice.random() < 0.7 else self.lease_s + self._dice.random()

    async def _watch(self) -> None:
        while not self._is_over:
            await truth.check_limits(self._watching)
            assert self.tally.refused[_DEADLOCK] == 0, "somebody was told of a deadlock"
            await asyncio.sleep(0.01)

    async def _wait_for_the_end(self) -> None:
        """Everything ends: what the victim held as soon as its leases have run out."""
        sql = "SELECT count(*) FROM run WHERE terminal_seq IS NULL"
        until_s = time.monotonic() + 3 * (self.lease_s + 2)
        while await self._watching.fetchval(sql):
            assert time.monotonic() < until_s, "runs were left over"
            await asyncio.sleep(0.05)
        await truth.check_log(self._watching)


def _is_stopped(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "T"
    return False


def _first(found: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what was found first, without the groups around it."""
    error: BaseException = found
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
