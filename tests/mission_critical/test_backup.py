"""Backup, export and import of a real server under load, and of its files when something goes wrong."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.mission_critical.deployment import AGENTS, Deployment
from tests.outside import Outside, assert_one_run, http, text_of

from runwire.testing.server import ServerProcess

RUNS = 20
BACKUPS = 4
KEPT_S = 3_600  # deltas: the tests compare them
PIECES = 10  # of each part of the agent `trip`
pytestmark = pytest.mark.timeout(150)  # each starts several processes
PASSWORD = "correct horse battery staple"
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "NO_COLOR": "1"}


def _command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "runwire", *map(str, words)]


def _storage(*words: str | Path, file_limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run `runwire storage …`; `file_limit` stands for a disk that is full: no file grows beyond it."""

    def limit() -> None:
        assert file_limit is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    done = subprocess.run(
        _command("storage", *words),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # Under the limit Python would cut its own cached bytecode, too.
        env=_ENVIRONMENT | ({} if file_limit is None else {"PYTHONDONTWRITEBYTECODE": "1"}),
        preexec_fn=None if file_limit is None else limit,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


async def _done(*words: str | Path) -> subprocess.CompletedProcess[str]:
    done = await asyncio.to_thread(_storage, *words)
    assert done.returncode == 0, done.stderr
    return done


def _restored(folder: Path, name: str, *, port: int) -> ServerProcess:
    """Give a server on a folder of its own, which is not started."""
    place = folder / name
    place.mkdir()
    (place / "over").touch()
    (place / "runwire.toml").write_text(f"compact_after_s = {KEPT_S}\n", encoding="utf-8")
    return ServerProcess(str(AGENTS), data_dir=place / "data", cwd=place, port=port)


def _assert_sound(data: Path) -> None:
    with closing(sqlite3.connect(data / "runwire.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A data folder with people and a few runs of theirs, and the people's API keys; nobody uses it."""
    server = Deployment(tmp_path_factory.mktemp("prepared"))

    async def prepare() -> dict[str, str]:
        await server.start()
        await server.process.create_user("pat", password=PASSWORD)
        for name in ("ann", "bob"):
            client = Outside(server.url, await server.key(name))
            async with client.connected():
                for agent in ("golden", "failing"):
                    sent = await client.send(f"canary-of-{name}", agent=agent)
                    await client.until_end(sent["run"])
        keys = {name: await server.key(name) for name in ("ann", "bob")}
        await server.stop()
        return keys

    return server.process.data_dir, asyncio.run(prepare())


@pytest.fixture
async def used(prepared: tuple[Path, dict[str, str]], tmp_path: Path) -> AsyncIterator[Used]:
    """A server on a copy of that folder, running."""
    data, keys = prepared
    (tmp_path / "used").mkdir()
    shutil.copytree(data, tmp_path / "used" / "data", ignore=shutil.ignore_patterns("*.lock", "*.sock"))
    (tmp_path / "used" / "runwire.toml").write_text(f"compact_after_s = {KEPT_S}\n", encoding="utf-8")
    server = Used(str(AGENTS), data_dir=tmp_path / "used" / "data", cwd=tmp_path / "used")
    server.keys = keys
    await server.start()
    yield server
    await server.kill9()


class Used(ServerProcess):
    """A server that has people."""

    keys: dict[str, str]


@pytest.mark.timeout(400)
async def test_backups_taken_under_load_restore_to_servers_that_finish_every_run(tmp_path: Path) -> None:
    server = Deployment(tmp_path / "first", compact_after_s=KEPT_S)
    await server.start()
    await server.process.create_user("pat", password=PASSWORD)
    gone = await server.key("gone")
    await server.disable("gone")
    keys = [await server.key(name) for name in ("ann", "bob")]  # ten active runs each: all twenty at once
    clients = [Outside(server.url, keys[n % 2]) for n in range(RUNS)]
    files = [tmp_path / f"backup-{n}.db" for n in range(BACKUPS)]
    sents: list[dict[str, Any]] = []

    async def watch(client: Outside, sent: dict[str, Any]) -> None:
        async with client.connected():
            await client.subscribe(sent["thread"])
            await client.until_end(sent["run"], timeout_s=240)

    tokens = await _sign_in(server.url, "pat")
    assert await _status(server.url, tokens["access_token"]) == 200
    for n, client in enumerate(clients):
        async with client.connected():
            sents.append(await client.send(f"trip {n}", agent="trip") | {"content": f"trip {n}"})
    async with asyncio.TaskGroup() as tasks:
        for client, sent in zip(clients, sents, strict=True):
            tasks.create_task(watch(client, sent))
        for file in files:
            await _done("backup", file, "--data-dir", server.process.data_dir)
        (server.probes / "over").touch()
    old_log = clients[0].log[sents[0]["thread"]]
    assert await server.stop() == 0
    assert [_unfinished(file) for file in files] == [RUNS] * BACKUPS

    logs = {old_log}
    for n, file in enumerate((files[0], files[-1], files[0])):
        second = _restored(tmp_path, f"restored-{n}", port=server.process.port)  # where the clients come back to
        if n == 2:  # a plain copy is as good
            second.data_dir.mkdir(mode=0o700)
            shutil.copy(file, second.data_dir / "runwire.db")
        else:
            await _done("import", file, "--data-dir", second.data_dir)
        async with second:
            logs.add(await _check_runs(second.url, keys, clients, sents))
            await _check_people(second.url, keys, gone, tokens)
            assert await second.stop() == 0
        _assert_sound(second.data_dir)
    assert len(logs) == 4, "each restore has a log of its own"


def _unfinished(file: Path) -> int:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        (number,) = connection.execute("SELECT count(*) FROM run WHERE terminal_seq IS NULL").fetchone()
    return int(number)


async def _check_runs(url: str, keys: list[str], clients: list[Outside], sents: list[dict[str, Any]]) -> str:
    """Come back with the old positions, and see every run to its end; give the log."""
    log = ""
    for n, (old, sent) in enumerate(zip(clients, sents, strict=True)):
        thread = sent["thread"]
        client = Outside(url, keys[n % 2])
        client.last[thread], client.log[thread] = old.last[thread], old.log[thread]
        client.events[thread] = list(old.events[thread])
        async with client.connected():
            await client.subscribe(thread, after=old.last[thread], log=old.log[thread])
            reset = await client.frame()
            assert (reset["op"], reset["reason"], reset["from"]) == ("reset", "log_changed", 0), reset
            client.apply(reset)
            await client.until_end(sent["run"], timeout_s=60)
        status, stored = await asyncio.to_thread(client.http, "GET", f"/v1/threads/{thread}/events?after=0")
        assert status == 200
        log = stored["log"]
        events = client.events[thread]
        assert stored["events"] == events
        assert client.log[thread] == log
        assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
        assert_one_run(events, sent["run"])
        assert events[-1]["type"] == "agent_completed", events[-1]
        pieces = re.findall(r"\[\d+\.\d+\]", text_of(events, sent["run"]))
        parts = len(pieces) // PIECES
        assert pieces == [f"[{p}.{k}]" for p in range(parts) for k in range(PIECES)]
        # What the backup has of it was said once, and not anew.
        assert [e["data"]["text"] for e in events if e["type"] == "agent_thinking"] == [
            f"part {p} of {sent['content']}" for p in range(parts)
        ]
    return log


async def _check_people(url: str, keys: list[str], gone: str, tokens: dict[str, Any]) -> None:
    """Passwords and keys open the restored server; what was withdrawn, and the other world's sign-ins, do not."""
    assert [await _status(url, key) for key in (*keys, gone)] == [200, 200, 401]
    assert await _status(url, tokens["access_token"]) == 401
    body = f"grant_type=refresh_token&refresh_token={tokens['refresh_token']}".encode()
    request = urllib.request.Request(f"{url}/auth/token", data=body)
    with pytest.raises(urllib.error.HTTPError) as refused:
        await asyncio.to_thread(urllib.request.urlopen, request, timeout=10)
    assert refused.value.code in (400, 401)
    refused.value.close()
    fresh = await _sign_in(url, "pat")
    assert await _status(url, fresh["access_token"]) == 200


async def _sign_in(url: str, name: str) -> dict[str, Any]:
    status, tokens = await asyncio.to_thread(http, "POST", f"{url}/auth/sessions", {"user": name, "password": PASSWORD})
    assert status == 201, tokens
    found: dict[str, Any] = tokens
    return found


async def _status(url: str, token: str) -> int:
    return (await asyncio.to_thread(http, "GET", f"{url}/v1/threads", token=token))[0]


async def test_a_backup_put_over_the_file_of_a_killed_server_is_not_mixed_with_what_that_left(
    used: Used, tmp_path: Path
) -> None:
    await _done("backup", tmp_path / "b.db", "--data-dir", used.data_dir)
    ann = Outside(used.url, used.keys["ann"])
    async with ann.connected():
        late = await ann.send("after the backup", agent="golden")
        await ann.until_end(late["run"])
    await used.kill9()
    data = used.data_dir / "runwire.db"
    assert data.with_name("runwire.db-wal").stat().st_size > 0, "the killed one must have left its log"
    shutil.copy(tmp_path / "b.db", data)
    await used.start()
    status, page = await asyncio.to_thread(ann.http, "GET", "/v1/threads")
    assert status == 200
    assert late["thread"] not in [item["thread"] for item in page["items"]]
    assert len(page["items"]) == 2
    await used.stop()
    _assert_sound(used.data_dir)


async def test_a_damaged_backup_is_refused_by_import_and_by_a_start(used: Used, tmp_path: Path) -> None:
    good = tmp_path / "good.db"
    await _done("backup", good, "--data-dir", used.data_dir)
    whole = good.read_bytes()
    at = whole.index(b"canary-of-ann")
    damaged = {
        "flipped": whole[:at] + b"C" + whole[at + 1 :],  # still a sound database: only the seal tells
        "cut by a byte": whole[:-1],
        "without its seal": whole[:-117],
        "cut in half": whole[: len(whole) // 2],
        "grown": whole + b"x",
        "head gone": b"\0" * 100 + whole[100:],
    }
    for name, content in damaged.items():
        bad = tmp_path / "bad.db"
        bad.write_bytes(content)
        done = await asyncio.to_thread(_storage, "import", bad, "--data-dir", tmp_path / "new")
        assert done.returncode == 1, name
        assert re.search(r"bad\.db is a damaged backup|neither an export nor a backup", done.stderr), (
            name,
            done.stderr,
        )
        assert [file.name for file in (tmp_path / "new").iterdir()] == ["runwire.db.lock"], name
    (tmp_path / "new" / "runwire.db").write_bytes(damaged["flipped"])
    server = ServerProcess(str(AGENTS), data_dir=tmp_path / "new")
    with pytest.raises(Exception, match=r"status 78[\s\S]*damaged backup"):
        await server.start()


@pytest.mark.parametrize("verb", ["backup", "export"])
async def test_a_file_that_cannot_be_written_leaves_nothing_and_says_so(used: Used, tmp_path: Path, verb: str) -> None:
    data, out = used.data_dir, tmp_path / "out"
    out.mkdir()

    def refused(file: Path, *, file_limit: int | None = None) -> str:
        done = _storage(verb, file, "--data-dir", data, file_limit=file_limit)
        assert done.returncode == 1, done.stderr
        return done.stderr

    assert "cannot be written" in await asyncio.to_thread(refused, out / "full", file_limit=8_192)
    assert "cannot be written" in await asyncio.to_thread(refused, out / "no" / "folder")
    assert "cannot be written" in await asyncio.to_thread(refused, Path("/proc/nothing"))
    assert list(out.iterdir()) == []
    (out / "there").write_text("mine", encoding="utf-8")
    assert "is there already" in await asyncio.to_thread(refused, out / "there")
    assert (out / "there").read_text(encoding="utf-8") == "mine"
    assert [file.name for file in out.iterdir()] == ["there"]
    await _done(verb, out / "new", "--data-dir", data)
    assert (out / "new").stat().st_mode & 0o777 == 0o600
    nowhere = await asyncio.to_thread(_storage, verb, out / "x", "--data-dir", tmp_path / "none")
    assert nowhere.returncode == 1
    assert "no database" in nowhere.stderr
    assert not (tmp_path / "none").exists()


async def test_killing_server_or_command_during_a_backup_leaves_no_half_file(used: Used, tmp_path: Path) -> None:
    data = used.data_dir
    await asyncio.to_thread(_grow, data / "runwire.db")
    for whom in ("command", "server"):
        file = tmp_path / whom / "b.db"
        file.parent.mkdir()
        process = await asyncio.to_thread(subprocess.Popen, _command("storage", "backup", file, "--data-dir", data))
        try:
            await asyncio.to_thread(_until_part, file.parent)
            assert not file.exists()
            if whom == "command":
                process.kill()
            else:
                await used.kill9()
            assert await asyncio.to_thread(process.wait, 30) == (-signal.SIGKILL if whom == "command" else 0)
        finally:
            process.kill()
            process.wait()
        assert file.exists() == (whom == "server"), "whoever copies is a process of its own"
    await used.start()
    ann = Outside(used.url, used.keys["ann"])
    async with ann.connected():
        await ann.until_end((await ann.send("still there?", agent="golden"))["run"])
    await _done("import", tmp_path / "server" / "b.db", "--data-dir", tmp_path / "new")
    _assert_sound(tmp_path / "new")


def _grow(path: Path) -> None:
    """Make a data file so large that copying it takes a moment."""
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)"
            " INSERT INTO blob (user_key, run_key, ref, data)"
            " SELECT r.user_key, r.key, 'blob_' || i, CAST(printf('%.*c', 524288, 'x') AS BLOB)"
            " FROM n, (SELECT user_key, key FROM run LIMIT 1) r"
        )
        connection.commit()


def _until_part(folder: Path) -> None:
    """Wait until a copy is being written."""
    until_s = time.monotonic() + 30
    while not any(part.stat().st_size > 1 << 20 for part in folder.glob(".runwire-*.part")):
        assert time.monotonic() < until_s
        time.sleep(0.001)


async def test_no_write_waits_for_a_backup_however_slow_it_is(used: Used, tmp_path: Path) -> None:
    data, file = used.data_dir, tmp_path / "slow" / "b.db"
    file.parent.mkdir()
    await asyncio.to_thread(_grow, data / "runwire.db")
    ann = Outside(used.url, used.keys["ann"])
    process = await asyncio.to_thread(subprocess.Popen, _command("storage", "backup", file, "--data-dir", data))
    try:
        await asyncio.to_thread(_until_part, file.parent)
        process.send_signal(signal.SIGSTOP)  # in the middle of its copy
        async with ann.connected():
            late = [await ann.send("late", agent="golden") for _ in range(20)]
            for sent in late:
                if not any(e["type"] == "agent_completed" for e in ann.events.get(sent["thread"], [])):
                    await ann.until_end(sent["run"])
        assert not file.exists()
        process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(process.wait, 60) == 0
    finally:
        process.kill()
        process.wait()
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as copy:
        threads = {row[0] for row in copy.execute("SELECT id FROM thread")}
    assert len(threads) == 4
    assert not threads.intersection(sent["thread"] for sent in late), "it is of the moment in which it began"


async def test_what_is_not_empty_or_in_use_is_not_imported_over(used: Used, tmp_path: Path) -> None:
    data = used.data_dir
    for verb in ("backup", "export"):
        await _done(verb, tmp_path / verb, "--data-dir", data)
        beside = await asyncio.to_thread(_storage, "import", tmp_path / verb, "--data-dir", data)
        assert beside.returncode == 78
        assert str(used.pid) in beside.stderr
    await used.stop()
    before = (data / "runwire.db").read_bytes()
    for verb in ("backup", "export"):
        full = await asyncio.to_thread(_storage, "import", tmp_path / verb, "--data-dir", data)
        assert full.returncode == 1
        assert re.search(r"not empty: it has \d users, \d threads and \d runs.*--data-dir", full.stderr), full.stderr
    assert (data / "runwire.db").read_bytes() == before
    copied = await asyncio.to_thread(_storage, "import", tmp_path / "nothing", "--data-dir", tmp_path / "new")
    assert copied.returncode == 1
    assert "cannot be read" in copied.stderr


async def test_an_export_of_one_user_has_nothing_of_another(used: Used, tmp_path: Path) -> None:
    data = used.data_dir
    everybody = (await _done("export", "-", "--data-dir", data)).stdout
    assert "canary-of-ann" in everybody
    assert "canary-of-bob" in everybody
    ann = (await _done("export", "-", "--user", "ann", "--data-dir", data)).stdout
    assert "canary-of-ann" in ann
    kinds = {line["kind"] for line in map(json.loads, ann.splitlines())}
    assert kinds == {"export", "account", "api_key", "user", "thread", "run", "segment", "audit", "end"}
    with closing(sqlite3.connect(data / "runwire.db")) as connection:
        others = {value for row in connection.execute(_IDS_OF_OTHERS) for value in row if value}
    assert len(others) > 5
    for word in (*others, "bob", "developer", "pat"):
        assert word not in ann, word
    nobody = await asyncio.to_thread(_storage, "export", "-", "--user", "nobody", "--data-dir", data)
    assert nobody.returncode == 1
    assert "no user nobody" in nobody.stderr


_IDS_OF_OTHERS = """
SELECT u.id, t.id, r.id, r.message FROM user u JOIN thread t ON t.user_key = u.key JOIN run r ON r.thread_key = t.key
WHERE u.id <> (SELECT id FROM auth_user WHERE name = 'ann')
UNION ALL SELECT id, name, password_hash, NULL FROM auth_user WHERE name <> 'ann'
UNION ALL SELECT k.id, NULL, NULL, NULL FROM auth_key k JOIN auth_user u ON u.id = k.user_id WHERE u.name <> 'ann'
"""


async def test_an_export_made_in_mid_run_becomes_a_server_that_goes_on(used: Used, tmp_path: Path) -> None:
    key = used.keys["ann"]
    ann = Outside(used.url, key)
    async with ann.connected():
        sent = await ann.send("one trip", agent="trip") | {"content": "one trip"}
        await ann.until(lambda e: e["type"] == "tool_completed")
        await _done("export", tmp_path / "e.jsonl", "--data-dir", used.data_dir)
    await used.kill9()
    second = _restored(tmp_path, "second", port=used.port)
    await _done("import", tmp_path / "e.jsonl", "--data-dir", second.data_dir)
    async with second:
        log = await _check_runs(second.url, [key], [ann], [sent])
        assert log != sent["log"]
        await _sign_in(second.url, "pat")
        again = tmp_path / "again.jsonl"
        await _done("export", again, "--data-dir", second.data_dir)
        await second.stop()
    _assert_sound(second.data_dir)
