"""What each part of a deployment costs at three sizes; written for `docs/explanation/scale.md`. Some minutes.

Only where it is named: `python -m bench --only scale`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import subprocess
import sys
from collections import defaultdict
from typing import Any, Final

import msgspec
from tests.cluster.deployment import Cluster
from tests.redis_server import RedisServer

from bench import cpu
from bench.figures import Faulty, Section
from bench.load import Result, Spec
from bench.process import ROOT
from bench.scale import fit, page
from bench.scale.client import Sockets
from bench.scale.probe import Probe, Reading
from bench.stand import Stand, command
from runwire.auth.service import users
from runwire.storage.open import open_storage

__all__ = ["measure"]

_PAUSE_S: Final = 0.05  # a model that says 20 words per second
_SAY_S: Final = 5.0
_AGENTS: Final = """\
import sys

sys.path.insert(0, {root!r})
from bench.servers.agents import agents
"""
_STATS_S: Final = 1.5  # PostgreSQL's processes tell once in a second what they have done
_BYSTANDERS: Final = 200  # at the second gateway: their channels are all that there are
_SENDS: Final = 2  # of each run at a time: one after the other
_CROWD: Final = 250  # people who say something at a time, so that there are threads
_NAMES: Final = ("gateway1", "worker1", "postgresql", "redis", "auth1")

Sizes = tuple[int, int, int]


def measure(stand: Stand) -> Section:
    """Measure, keep the figures and write the page (not if quick)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    cache = RedisServer.start(stand.folder / "scale-redis")
    try:
        run = asyncio.run(_Scale(stand, cache).all())
    finally:
        cache.remove()
    if not stand.is_quick:
        fit.save(run)
        page.PAGE.write_text(page.render(run), encoding="utf-8")
    return Section(name="scale", title="Scale", text=page.INTRODUCTION, tables=page.measured_tables(run))


class _Scale:
    def __init__(self, stand: Stand, cache: RedisServer) -> None:
        self._stand, self._cache = stand, cache
        self._conditions = page.conditions(stand)  # here, where no loop runs yet: it asks the server
        quick = stand.is_quick
        self._sockets: Sizes = (10, 20, 40) if quick else (100, 500, 2_000)
        self._runs: Sizes = (2, 5, 10) if quick else (10, 50, 200)
        self._talkers: Sizes = (1, 3, 6) if quick else (5, 25, 75)  # 20 events per second each
        self._accounts: Sizes = (100, 500, 1_000) if quick else (1_000, 5_000, 20_000)
        self._found: dict[tuple[str, str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._plain: dict[str, list[float]] = defaultdict(list)
        self._keys: list[str] = []

    async def all(self) -> fit.Run:
        """Measure everything."""
        for size in self._accounts:
            await self._account(size)
        self._stand.say("    accounts")
        url = await self._stand.new_database("PostgreSQL")
        self._keys = await _make_keys(url, max(*self._sockets, *self._runs) + _BYSTANDERS)
        settings: dict[str, Any] = {"lease_s": 6.0, "user_run_limit": 1_000, "max_runs": 4_000, "log_level": "warning"}
        settings["compact_after_s"] = 86_400  # upkeep is not what an idle process costs
        agents = self._stand.folder / "scale_agents.py"
        agents.write_text(_AGENTS.format(root=str(ROOT)), encoding="utf-8")
        folder = self._stand.folder / "scale"
        self._cluster = Cluster(folder, url, redis_url=self._cache.url, agents=agents, **settings)
        self._probe = Probe(self._cluster, self._stand.postgres, self._cache)
        await self._cluster.start()
        try:
            threads = await self._threads()
            for number in range(1, self._stand.rounds + 1):
                await self._round(threads, number)
                if not self._stand.is_quick:
                    fit.save(self._run())  # so far: a machine that is too busy for the rest takes nothing away
            await self._idle_nodes()
        finally:
            await self._cluster.end()
        return self._run()

    async def _round(self, threads: list[str], number: int) -> None:
        await self._connections(threads)
        self._stand.say(f"    round {number}: connections")
        for size in self._runs:
            await self._many_runs(size)
        self._stand.say(f"    round {number}: runs")
        bystanders = Sockets(self._cluster.gateways[1].port)
        await bystanders.grow(self._keys[:_BYSTANDERS])
        await bystanders.subscribe(threads[:_BYSTANDERS])
        for size in self._talkers:
            await self._talk(size)
        for name, count in self._probe.connections().items():
            self._plain[f"connections to PostgreSQL: {name.rstrip('12')}"].append(count)
        await bystanders.close()
        self._stand.say(f"    round {number}: events")

    async def _connections(self, threads: list[str]) -> None:
        gateway = self._cluster.gateways[0]
        await gateway.kill9()
        await gateway.start()
        sockets = Sockets(gateway.port)
        await sockets.grow(self._keys[: self._sockets[0] // 5])  # warm
        for kind, unit in (("idle", "connections"), ("subscribed", "subscriptions")):
            done = 0
            for size in self._sockets:
                before = await self._settled()
                if kind == "idle":
                    done = done or self._sockets[0] // 5
                    await sockets.grow(self._keys[:size])
                else:
                    await sockets.subscribe(threads[:size])
                spent = (await self._settled()).since(before)
                memory = cpu.pss_bytes(gateway.pid) / 1024
                self._note(f"memory, {kind}", unit, "KiB", size, memory)
                self._grow(f"{kind}", unit, size, size - done, spent)
                done = size
        before = await self._settled()
        await asyncio.sleep(26 if not self._stand.is_quick else 1)  # one ping each
        spent = (await self._settled()).since(before)
        each = spent["cpu gateway1"] / (29 if not self._stand.is_quick else 4) / self._sockets[-1]
        self._plain["gateway, µs per second and idle connection"].append(each)
        await sockets.close()

    def _grow(self, kind: str, per: str, size: int, new: int, spent: dict[str, float]) -> None:
        """Note the sum up to this size, of which `new` have come: what is fitted is a sum."""
        for name in ("cpu gateway1", "cpu auth1", "cpu postgresql", "commits"):
            line = self._found[f"{name}, {kind}", per, "statements" if name == "commits" else "µs"]
            smaller = [one for one in line if one < size]
            # The sockets that warmed the gateway up are not in the sum: scaled as if they had cost what the others do.
            scale = (size - max(smaller, default=0)) / max(new, 1)
            rounds = len(line[size])
            line[size].append((line[max(smaller)][rounds] if smaller else 0.0) + spent[name] * scale)

    async def _many_runs(self, size: int) -> None:
        sends = _SENDS
        before = await self._settled()
        order = command(1, pause_s=0, kind="custom")
        result = await self._load(connections=size, command=order, sends=sends, events=4, ends=4)
        spent = (await self._settled()).since(before)
        if result.events != size * sends * 4:
            raise Faulty(f"{result.events} events came of {size * sends * 4}.")
        for name in _NAMES[:4]:
            self._note(f"cpu {name}, per run", "runs", "µs", size, spent[f"cpu {name}"] / sends)
        self._note("commits, per run", "runs", "commits", size, spent["commits"] / sends)

    async def _talk(self, size: int) -> None:
        count = round(_SAY_S / _PAUSE_S) if not self._stand.is_quick else 20
        before = await self._settled()
        order = command(count - 3, pause_s=_PAUSE_S, kind="custom")
        result = await self._load(connections=size, command=order, sends=1, events=count, ends=count)
        spent = (await self._settled()).since(before)
        said = size * count
        if result.events != said:
            raise Faulty(f"{result.events} events came of {said}.")
        seconds, rate = result.wall_ns / 1e9, size / _PAUSE_S
        for name in (*_NAMES[:4], "gateway2"):
            self._note(f"cpu {name}, per event", "events", "µs", rate, spent[f"cpu {name}"] / seconds)
        for name, unit in (("wal", "bytes"), ("commits", "commits"), ("database", "bytes"), ("redis", "bytes")):
            self._note(f"{name}, per event", "events", unit, rate, spent[name] / seconds)
        self._note("wire, per event", "events", "bytes", rate, result.received_bytes / seconds)

    async def _load(self, **what: Any) -> Result:
        gateway = self._cluster.gateways[0]
        spec = Spec(
            port=gateway.port, pid=gateway.pid, is_greeted=True, deadline_s=240.0, **{"credentials": self._keys} | what
        )
        pipe = subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.load", cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe
        )
        out, err = await process.communicate(msgspec.json.encode(spec))
        if process.returncode:
            raise Faulty(f"The load failed: {err.decode(errors='replace')[-500:]}")
        return msgspec.json.decode(out, type=Result)

    async def _threads(self) -> list[str]:
        """Have each key's owner say something, so that there is a thread to listen to."""
        order = command(1, pause_s=0, kind="custom")
        for first in range(0, len(self._keys), _CROWD):
            some = self._keys[first : first + _CROWD]
            await self._load(connections=len(some), credentials=some, command=order, events=4, ends=4)
        sql = (
            'SELECT t.id, a.name FROM thread t JOIN "user" u ON u.key = t.user_key JOIN auth_user a ON a.id = u.id '
            "ORDER BY t.key DESC"
        )
        rows = await self._stand.postgres.execute(self._cluster.url, sql)
        of = {row["name"]: row["id"] for row in rows}
        return [of[f"user{number}"] for number in range(len(self._keys))]

    async def _idle_nodes(self) -> None:
        """Read what a deployment asks when nothing happens, and what goes when one process goes."""
        seconds = 12.0 if not self._stand.is_quick else 2.0
        await asyncio.sleep(min(seconds, 3.0))
        all_of_them = await self._rest(seconds)
        await self._cluster.gateways[1].kill9()
        without_gateway = await self._rest(seconds)
        await self._cluster.workers[1].kill9()
        without_worker = await self._rest(seconds)
        for role, more, less in (
            ("gateway", all_of_them, without_gateway),
            ("worker", without_gateway, without_worker),
        ):
            for what, unit in (("commits", "statements per second"), ("cpu postgresql", "µs of PostgreSQL per second")):
                self._plain[f"idle {role}: {unit}"].append(more[what] - less[what])
            self._plain[f"idle {role}: µs of its own per second"].append(less[f"cpu {role}1"])
        self._plain["idle: all processes, statements per second"].append(all_of_them["commits"])

    async def _rest(self, seconds: float) -> dict[str, float]:
        before = await self._settled()
        await asyncio.sleep(seconds)
        after = (await self._settled()).since(before)
        return {name: value / (seconds + _STATS_S) for name, value in after.items() if name.startswith(("cpu", "com"))}

    async def _settled(self) -> Reading:
        await asyncio.sleep(_STATS_S)
        return await self._probe.read()

    async def _account(self, size: int) -> None:
        url = await self._stand.new_database("PostgreSQL")
        await _make_keys(url, 1)
        await self._stand.postgres.execute(
            url,
            "INSERT INTO auth_user SELECT (r).* FROM (SELECT jsonb_populate_record(u, jsonb_build_object("
            "'id', 'usr_' || md5(n::text), 'name', 'person' || n)) AS r "
            f"FROM auth_user u, generate_series(2, {size}) n) AS rows",
        )
        for _ in range(self._stand.rounds):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.scale.accounts", url, cwd=ROOT, stdout=subprocess.PIPE
            )
            out, _ = await process.communicate()
            if process.returncode:
                raise Faulty(f"{size} accounts could not be read.")
            said = json.loads(out)
            self._note("memory, accounts", "accounts", "KiB", size, said["bytes"] / 1024)
            self._note("cpu, accounts", "accounts", "µs", size, said["cpu_ms"] * 1e3)
            self._note("load time, accounts", "accounts", "µs", size, said["wall_ms"] * 1e3)

    def _note(self, name: str, per: str, unit: str, size: float, value: float) -> None:
        self._found[name, per, unit][size].append(value)

    def _run(self) -> fit.Run:
        measured = {
            name: fit.Measured(name=name, per=per, unit=unit, sizes=sorted(line), values=_medians(line))
            for (name, per, unit), line in self._found.items()
        }
        plain = {name: round(statistics.median(values), 3) for name, values in sorted(self._plain.items())}
        return fit.Run(conditions=self._conditions, measured=measured, plain=plain)


def _medians(line: dict[float, list[float]]) -> list[float]:
    return [round(statistics.median(line[size]), 2) for size in sorted(line)]


async def _make_keys(url: str, count: int) -> list[str]:
    storage = await open_storage(url)
    try:
        slots = asyncio.Semaphore(8)

        async def make(number: int) -> str:
            async with slots:
                await users.add_user(storage.auth, f"user{number}")
                return await users.create_api_key(storage.auth, f"user{number}")

        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(make(number)) for number in range(count)]
        return [one.result() for one in made]
    finally:
        await storage.close()
