"""Of each broken set-up the doctor names what is broken, all of it and nothing else, and how to mend that."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from tests.chaos.test_disk import SmallDisk, _may_mount
from tests.cluster.deployment import free_port
from tests.doctor.world import CANARY, Doctor, World
from tests.mission_critical.deployment import AGENTS

from runwire.app.doctor import files
from runwire.app.doctor.examination import diagnose
from runwire.storage.open import migrate_storage, open_placed

ROOT: Final = Path(__file__).resolve().parents[2]
HANGING: Final = ("--timeout-s", "2")
ALONE: Final = ("--agent", str(AGENTS))  # one process with all roles, on a data folder


# ── databases ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_database_that_is_down(world: World) -> None:
    url = f"postgresql://runwire:{CANARY}@127.0.0.1:{free_port()}/runwire"
    found = await world.look("gateway", database_url=url)
    assert (found.status, found.of("fault")) == (1, {("database", "database")})
    assert "nobody listens there → start it" in found.line("database")


async def test_a_database_that_hangs(world: World) -> None:
    world.postgres.pause()
    try:
        found = await world.look("worker", *HANGING)
    finally:
        world.postgres.resume()
    assert (found.status, found.of("fault")) == (1, {("database", "database")})
    assert "does not answer within 2 s" in found.line("database")


async def test_a_database_that_is_not_there(world: World) -> None:
    url = world.postgres.url("nobody_made_this")
    found = await world.look("gateway", database_url=url)
    assert (found.status, found.of("fault")) == (1, {("database", "database")})
    assert "does not exist → create it, then run `runwire migrate`" in found.line("database")


async def test_a_database_without_tables(world: World) -> None:
    url = await world.postgres.create_database(is_empty=True)
    found = await world.look("worker", database_url=url)
    assert (found.status, found.of("fault")) == (1, {("database", "tables")})
    assert "empty → run `runwire migrate`" in found.line("tables")
    development = await world.look("worker", "--environment", "development", "--only", "database", database_url=url)
    assert development.status == 0, "there the next start migrates"


@pytest.mark.parametrize(
    ("revision", "words"),
    [("0009_identity", "older release (revision 0009_identity) → run `runwire migrate`"), ("0099_later", "→ upgrade")],
)
async def test_a_database_of_another_release(world: World, revision: str, words: str) -> None:
    url = await world.postgres.create_database()
    await world.postgres.execute(url, f"UPDATE alembic_version SET version_num = '{revision}'")
    found = await world.look("gateway", database_url=url)
    assert (found.status, found.of("fault")) == (1, {("database", "tables")})
    assert words in found.line("tables")


async def test_databases_in_another_order(world: World) -> None:
    urls = [await world.postgres.create_database() for _ in range(2)]
    for storage in await open_placed(urls, shown=["one", "two"]):
        await storage.close()
    right = await world.look("worker", database_url=urls)
    assert (right.status, right.of("fault")) == (0, set())
    wrong = await world.look("worker", database_url=urls[::-1])
    assert wrong.of("fault") == {("database", "tables 1"), ("database", "tables 2")}
    assert "the 2. of its set, not the 1. → keep the order" in wrong.line("tables 1")


# ── Redis, the auth service, clocks ──────────────────────────────────────────────────────────────────────


async def test_redis_that_is_down(world: World) -> None:
    found = await world.look("worker", redis_url=f"redis://:{CANARY}@127.0.0.1:{free_port()}")
    assert (found.status, found.of("fault")) == (1, {("redis", "redis")})
    assert "(ConnectionError) → start it" in found.line("redis")


async def test_redis_that_hangs(world: World) -> None:
    world.redis.pause()
    try:
        found = await world.look("worker", *HANGING)
    finally:
        world.redis.resume()
    assert (found.status, found.of("fault")) == (1, {("redis", "redis")})
    assert "does not answer within 2 s → look whether it hangs" in found.line("redis")


async def test_a_wrong_password_of_redis(world: World) -> None:
    found = await world.look("gateway", redis_url=f"redis://:{CANARY}@{world.redis.address}")
    assert (found.status, found.of("fault")) == (1, {("redis", "redis")})
    assert "refuses the password" in found.line("redis")
    assert "→ correct redis_url" in found.line("redis")


async def test_redis_that_drops_the_counts_of_limits_is_a_warning_where_there_are_limits(world: World) -> None:
    for name, value in (("maxmemory", "64mb"), ("maxmemory-policy", "allkeys-lru")):
        world.redis.execute("CONFIG", "SET", name, value)
    try:
        without = await world.look("worker")
        with_limits = await world.look("worker", user_messages_per_minute=30)
    finally:
        for name, value in (("maxmemory", "0"), ("maxmemory-policy", "noeviction")):
            world.redis.execute("CONFIG", "SET", name, value)
    assert ("redis", "redis memory") not in without.of("warning")
    assert (with_limits.status, with_limits.of("fault")) == (0, set())
    assert "allkeys-lru" in with_limits.line("redis memory", "warning")


async def test_another_service_secret(world: World) -> None:
    found = await world.look("gateway", service_secret=CANARY)
    assert (found.status, found.of("fault")) == (1, {("auth", "service_secret")})
    assert "set the same service_secret for both" in found.line("service_secret")


async def test_an_auth_service_that_is_down(world: World) -> None:
    found = await world.look("gateway", auth_url=f"http://127.0.0.1:{free_port()}")
    assert (found.status, found.of("fault")) == (1, {("auth", "auth_url")})
    assert "cannot be reached (ConnectError) → start the auth service" in found.line("auth_url")


async def test_an_auth_service_that_hangs(world: World) -> None:
    world.cluster.auths[0].pause()
    try:
        found = await world.look("gateway", *HANGING)
    finally:
        world.cluster.auths[0].resume()
    assert (found.status, found.of("fault")) == (1, {("auth", "auth_url")})
    assert "does not answer within 2 s" in found.line("auth_url")


async def test_an_auth_service_of_another_issuer(world: World) -> None:
    found = await world.look("gateway", public_url="http://elsewhere.example:8000")
    assert (found.status, found.of("fault")) == (1, {("auth", "public_url")})
    assert "here they are http://elsewhere.example:8000's → set the same for both" in found.line("public_url")


async def test_something_else_in_the_place_of_the_auth_service(world: World) -> None:
    with other_program() as port:
        found = await world.look("gateway", auth_url=f"http://127.0.0.1:{port}")
    assert (found.status, found.of("fault")) == (1, {("auth", "auth_url")})
    assert "answers, but not as an auth service" in found.line("auth_url")


async def test_another_issuer_that_is_down(world: World) -> None:
    url = f"http://127.0.0.1:{free_port()}/realm"
    issuer = {"name": "corp", "issuer": url, "audience": "runwire", "allow_private_addresses": True}
    found = await world.look("gateway", environ={"RUNWIRE_ISSUERS": json.dumps([issuer])})
    assert (found.status, found.of("fault")) == (1, {("auth", "issuer corp")})


async def test_everything_hangs_at_once_and_the_doctor_does_not(world: World) -> None:
    frozen = (world.postgres, world.redis, world.cluster.auths[0])
    for one in frozen:
        one.pause()
    began_s = time.monotonic()
    try:
        found = await world.look("gateway", *HANGING)
    finally:
        took_s = time.monotonic() - began_s
        for one in frozen:
            one.resume()
    assert found.of("fault") == {("database", "database"), ("redis", "redis"), ("auth", "auth_url")}
    assert took_s < 22, "one deadline for all, and what a busy machine takes to start Python"


async def test_a_clock_that_is_off(world: World, tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("-90", encoding="ascii")
    moved = (
        "from pathlib import Path; from tests.chaos.clock import install\n"
        f"install(Path({str(tmp_path / 'clock')!r}))\nfrom runwire.__main__ import main; main()"
    )
    found = await world.look("gateway", command=(sys.executable, "-c", moved), environ={"PYTHONPATH": str(ROOT)})
    assert (found.status, found.of("fault")) == (1, {("database", "database clock"), ("auth", "auth clock")})
    assert "+90" in found.line("database clock")
    assert "set both by NTP" in found.line("auth clock")


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_file_in_the_place_of_the_data_folder(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder", encoding="utf-8")
    found = await doctor(*ALONE, "--data-dir", "data", folder=tmp_path, environ={"RUNWIRE_PORT": "0"})
    # The data file below it cannot be there either; that is one fault and not two.
    assert ("database", "database") in found.of("skipped")
    assert (found.status, found.of("fault")) == (1, {("files", "data_dir")})
    assert "is not a folder → set data_dir" in found.line("data_dir")


async def test_a_data_folder_that_takes_no_file(doctor: Doctor, tmp_path: Path) -> None:
    # Not even root makes a file there.
    found = await doctor(*ALONE, "--data-dir", "/proc/runwire", folder=tmp_path, environ={"RUNWIRE_PORT": "0"})
    assert (found.status, found.of("fault")) == (1, {("files", "data_dir")})
    assert "/proc/runwire cannot be written" in found.line("data_dir")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.remove()


if _may_mount():  # elsewhere the test below does it by the threshold

    async def test_a_disk_that_is_nearly_full(doctor: Doctor, small_disk: SmallDisk, tmp_path: Path) -> None:
        words = ("--data-dir", str(small_disk.path / "data"))
        found = await doctor(*ALONE, *words, folder=tmp_path, environ={"RUNWIRE_PORT": "0"})
        assert (found.status, found.of("fault")) == (1, {("files", "free space")})
        assert "24 MiB free" in found.line("free space")


async def test_a_disk_with_less_room_than_the_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"data_dir": tmp_path, "agents": (str(AGENTS),), "port": 0, "environment": "development"}
    monkeypatch.setattr(files, "_LEAST_BYTES", 1 << 60)
    found = await diagnose(flags, only=("files", "database", "network"))
    faults = [one.what for each in found.findings.values() for one in each if one.state == "fault"]
    assert faults == ["free space"]


async def test_a_data_file_of_a_newer_release_and_one_that_is_none(doctor: Doctor, tmp_path: Path) -> None:
    path = tmp_path / "data" / "runwire.db"
    path.parent.mkdir(mode=0o700)
    await migrate_storage(f"sqlite://{path}")
    words = (*ALONE, "--data-dir", "data")
    before = sorted(entry.name for entry in path.parent.iterdir())
    right = await doctor(*words, folder=tmp_path, environ={"RUNWIRE_PORT": "0"})
    assert (right.status, right.of("fault")) == (0, set())
    assert sorted(entry.name for entry in path.parent.iterdir()) == before, "nothing is left beside the file"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099_later'")
    newer = await doctor(*words, folder=tmp_path, environ={"RUNWIRE_PORT": "0"})
    assert (newer.status, newer.of("fault")) == (1, {("database", "tables")})
    assert "→ upgrade Runwire" in newer.line("tables")
    path.write_bytes(b"this is no database" * 100)
    none = await doctor(*words, folder=tmp_path, environ={"RUNWIRE_PORT": "0"})
    assert (none.status, none.of("fault")) == (1, {("database", "database")})
    assert "cannot be opened" in none.line("database")


# ── agents, installation, machine, network ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nobody_has_installed_this\n", "nobody_has_installed_this"),
        ("async def other(ctx, message): ...\n", "there is no `agent`"),
        ("import os; os._exit(3)\n", "ends the process that imports it (status 3)"),
    ],
)
async def test_an_agent_that_cannot_be_imported(world: World, tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    found = await world.look("worker", agents=[str(tmp_path / "mine.py")])
    assert (found.status, found.of("fault")) == (1, {("agents", "agents")})
    assert words in found.line("agents")


async def test_what_an_agent_prints_and_leaves_running_is_no_matter(world: World, tmp_path: Path) -> None:
    code = (
        f"import sys, threading, time\nprint('{CANARY}', flush=True)\nprint('{CANARY}', file=sys.stderr)\n"
        "threading.Thread(target=time.sleep, args=(3600,)).start()\nasync def agent(ctx, message): ...\n"
    )
    (tmp_path / "loud.py").write_text(code, encoding="utf-8")
    found = await world.look("worker", "--only", "agents", agents=[str(tmp_path / "loud.py")])
    assert (found.status, found.of("ok")) == (0, {("agents", "agents")})


async def test_an_agent_whose_import_does_not_end_is_left(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"print('{CANARY}')\nimport time; time.sleep(3600)\n", encoding="utf-8")
    found = await world.look("worker", "--only", "agents", *HANGING, agents=[str(tmp_path / "mine.py")])
    assert (found.status, found.of("warning")) == (0, {("agents", "agents")})


@pytest.mark.parametrize(("module", "extra"), [("asyncpg", "postgres"), ("redis", "redis"), ("opentelemetry", "otel")])
async def test_an_extra_that_is_not_installed(world: World, module: str, extra: str) -> None:
    # As Python has it for a module that cannot be imported.
    without = f"import sys; sys.modules[{module!r}] = None\nfrom runwire.__main__ import main; main()"
    collector = f"http://127.0.0.1:{free_port()}" if extra == "otel" else None
    found = await world.look("gateway", command=(sys.executable, "-c", without), otel_endpoint=collector)
    assert (found.status, found.of("fault")) == (1, {("configuration", f"extra {extra}")})
    assert f"pip install 'runwire[{extra}]'" in found.line(f"extra {extra}")
    not_asked = {"postgres": ("database", "database"), "redis": ("redis", "redis"), "otel": ("agents", "agents")}
    assert not_asked[extra] in found.of("skipped")
    # A collector that is away costs its traces and nothing else.
    assert (("network", "otel_endpoint") in found.of("warning")) == (extra == "otel")


async def test_too_few_files(world: World) -> None:
    few = ("sh", "-c", 'ulimit -n 1000; exec "$0" -m runwire "$@"', sys.executable)
    words = ("--only", "machine")
    in_production = await world.look("gateway", *words, "--environment", "staging", command=few)
    assert (in_production.status, in_production.of("fault")) == (1, {("machine", "open files")})
    assert "1,000 allowed, 10,256 needed → raise it" in in_production.line("open files")
    assert "max_connections to 744" in in_production.line("open files")
    elsewhere = await world.look("gateway", *words, command=few)
    assert (elsewhere.status, elsewhere.of("fault")) == (0, set()), "a developer's machine need not have ten thousand"


async def test_a_port_that_somebody_else_has(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, other_program() as talks:
        for port in (silent.getsockname()[1], talks):
            found = await world.look("worker", *HANGING, "--only", "network", port=port)
            assert (found.status, found.of("fault")) == (1, {("network", "port")})
            assert f"127.0.0.1:{port} is taken by another program" in found.line("port")
    its_own = await world.look("auth", "--only", "network", port=world.cluster.auths[0].port)
    assert (its_own.status, its_own.of("fault")) == (0, set())
    assert "is served by a Runwire" in its_own.line("port", "ok")


async def test_an_address_of_another_machine(world: World) -> None:
    found = await world.look("worker", "--only", "network", host="192.0.2.1", port=8000)  # RFC 5737: nobody's
    assert (found.status, found.of("fault")) == (1, {("network", "host")})
    assert "no address of this machine → set host" in found.line("host")


@contextmanager
def other_program() -> Iterator[int]:
    """Serve a page that is not ours, on a port; give that."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class Other(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status": "fine"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_production_refuses(doctor: Doctor, tmp_path: Path) -> None:
    environ = {
        "RUNWIRE_PORT": "0",
        "RUNWIRE_PUBLIC_URL": "https://agents.example.org",
        "RUNWIRE_MANAGEMENT_PORT": "0",
        "RUNWIRE_TRUSTED_PROXIES": "0.0.0.0/0",
        "RUNWIRE_SERVICE_SECRET": f"changeme-{CANARY}",
    }
    found = await doctor(*ALONE, "--only", "configuration", folder=tmp_path, environ=environ)
    assert (found.status, found.of("fault")) == (
        1,
        {("configuration", "trusted_proxies"), ("configuration", "service_secret")},
    )
    assert "(rule trust-all-proxies) → name the proxy's own address" in found.line("trusted_proxies")
    allowed = {**environ, "RUNWIRE_ALLOW_UNSAFE": "trust-all-proxies,weak-secret"}
    passed = await doctor(*ALONE, "--only", "configuration", folder=tmp_path, environ=allowed)
    assert (passed.status, passed.of("fault")) == (0, set())
    assert passed.of("warning") == found.of("fault")


@pytest.mark.parametrize(
    ("environ", "what", "words"),
    [
        ({"RUNWIRE_DATABSE_URL": CANARY}, "RUNWIRE_DATABSE_URL", "did you mean `RUNWIRE_DATABASE_URL`?"),
        ({"RUNWIRE_SERVICE_SECRET_FILE": "empty"}, "RUNWIRE_SERVICE_SECRET_FILE", "empty → write the value into it"),
        ({"RUNWIRE_SERVICE_SECRET_FILE": "away"}, "RUNWIRE_SERVICE_SECRET_FILE", "no such file → give the path"),
        ({"RUNWIRE_LEASE_S": "1"}, "lease_s (from RUNWIRE_LEASE_S)", "greater than or equal to 3"),
    ],
)
async def test_settings_that_cannot_be_read(
    doctor: Doctor, tmp_path: Path, environ: dict[str, str], what: str, words: str
) -> None:
    (tmp_path / "empty").touch()
    found = await doctor(folder=tmp_path, environ=environ)
    assert (found.status, found.verdict) == (78, "unknown")
    assert found.of("fault") == {("configuration", what)}
    assert words in found.line(what)
    assert len(found.findings) == 1, "of settings that are not known nothing else can be said"


async def test_a_part_that_there_is_not_is_wrong_usage(tmp_path: Path) -> None:
    command: list[Any] = [sys.executable, "-m", "runwire", "doctor", "--only", "redsi"]
    done = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "redis" in done.stderr
