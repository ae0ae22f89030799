"""Servers on PostgreSQL, as processes: one database, any number of them, and the way there from one machine."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.mission_critical.deployment import AGENTS
from tests.outside import FIVE, Outside, assert_one_run, text_of
from tests.postgres import PASSWORD, PostgresServer

from runwire.storage.migrations import REVISIONS

pytestmark = pytest.mark.timeout(90)  # several servers start for the first test: 6 s on a quiet machine

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "NO_COLOR": "1", "HOME": "/nonexistent"}
_START_S = 30.0
_WITHOUT_DRIVER = "import sys; sys.modules['asyncpg'] = None; from runwire.__main__ import main; main()"


class Node:
    """A folder from which servers and verbs are started on one database."""

    def __init__(self, folder: Path, url: str | None, **settings: str | float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.environment = _ENVIRONMENT | ({"RUNWIRE_DATABASE_URL": url} if url else {})
        toml = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        (folder / "runwire.toml").write_text(toml, encoding="utf-8")
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    def verb(
        self, *words: str, program: tuple[str, ...] = ("-m", "runwire"), stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *program, *words],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert PASSWORD not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def told(self, *words: str, stdin: str = "") -> str:
        done = self.verb(*words, stdin=stdin)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def start(self, verb: str = "serve") -> None:
        options = ("--no-open",) if verb == "dev" else ()
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runwire", verb, str(AGENTS), "--port", "0", *options],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # the end of the pipe, if it does not start
        assert line.startswith("ready "), self.log()
        self.url = line.split()[1]

    def log(self) -> str:
        return (self.folder / "server.log").read_text(encoding="utf-8")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_START_S)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


def posted(url: str, form: dict[str, str], *, is_json: bool = False) -> dict[str, str]:
    body = json.dumps(form) if is_json else urllib.parse.urlencode(form)
    request = urllib.request.Request(url, data=body.encode())
    if is_json:
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=20) as response:
        answer: dict[str, str] = json.load(response)
    return answer


class Cluster:
    """Two servers on a database that was filled from a data folder; Ann's key is from before."""

    def __init__(self, one: Node, other: Node, key: str, thread: str, before: list[dict[str, object]]) -> None:
        self.one = one
        self.other = other
        self.key = key
        self.thread = thread
        self.before = before


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Start a PostgreSQL that a test may kill."""
    server = PostgresServer.start(tmp_path_factory.mktemp("postgres"))
    yield server
    server.remove()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, own_server: PostgresServer) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    single = Node(folder / "single", None)
    single.told("user", "add", "ann")
    key = single.told("token", "create", "--user", "ann")
    single.start("dev")

    async def converse() -> tuple[str, list[dict[str, object]]]:
        ann = Outside(single.url, key)
        async with ann.connected():
            sent = await ann.send("before", agent="golden")
            return sent["thread"], await ann.until_end(sent["run"])

    thread, before = asyncio.run(converse())
    single.end()
    single.told("storage", "export", "all.jsonl")
    url = asyncio.run(own_server.create_database())
    one, other = (
        Node(folder / name, url, public_url="http://agents.example", environment="test", lease_s=3)
        for name in ("one", "other")
    )
    one.told("storage", "import", str(single.folder / "all.jsonl"))
    try:
        one.start()
        other.start()
        yield Cluster(one, other, key, thread, before)
        for node in (one, other):
            node.end()
            assert PASSWORD not in node.log()
            assert "Traceback" not in node.log(), node.log()
    finally:
        for node in (one, other):
            node.end(signal.SIGKILL)


async def test_conversation_of_the_data_folder_is_served_to_the_same_key(cluster: Cluster) -> None:
    ann = Outside(cluster.other.url, cluster.key)
    async with ann.connected():
        await ann.subscribe(cluster.thread, after=0)
        again = await ann.until_end(str(cluster.before[-1]["run"]))
    seen = {str(event["seq"]): event for event in cluster.before}
    assert [event["type"] for event in again if event["type"] in FIVE] == FIVE
    for event in again:
        assert {**seen[str(event["seq"])], "prev": 0} == {**event, "prev": 0}  # deltas may be compacted away


async def test_what_is_sent_at_one_server_is_watched_at_the_other(cluster: Cluster) -> None:
    here, there = Outside(cluster.one.url, cluster.key), Outside(cluster.other.url, cluster.key)
    async with here.connected(), there.connected():
        first = await here.send("tin", agent="golden")
        await there.subscribe(first["thread"], after=0)
        for screen in (here, there):
            events = await screen.until_end(first["run"])
            assert [event["type"] for event in events if event["type"] in FIVE] == FIVE
            assert_one_run(events, first["run"])
        # Watched while it happens, not only afterwards; `Outside` refuses gaps and doubles.
        began_s = time.monotonic()
        sent = [await here.send(f"copper {n}", agent="plain", thread=first["thread"]) for n in range(5)]
        for screen in (here, there):
            await screen.until_end(sent[-1]["run"])
        assert time.monotonic() - began_s < 10
    mine, theirs = here.events[first["thread"]], there.events[first["thread"]]
    assert mine == theirs
    assert [text_of(theirs, one["run"]) for one in sent] == [f"echo copper {n}" for n in range(5)]


async def test_who_signs_in_at_one_server_is_known_at_the_other(cluster: Cluster) -> None:
    add = ("user", "add", "bob", "--password-stdin")
    await asyncio.to_thread(cluster.one.told, *add, stdin="correct horse battery staple\n")
    form = {"user": "bob", "password": "correct horse battery staple"}
    tokens = await asyncio.to_thread(posted, f"{cluster.one.url}/auth/sessions", form, is_json=True)
    bob = Outside(cluster.other.url, tokens["access_token"])
    async with bob.connected():
        sent = await bob.send("hello", agent="plain")
        await bob.until_end(sent["run"])
    again = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert await asyncio.to_thread(posted, f"{cluster.other.url}/auth/token", again)


async def test_run_of_a_killed_server_goes_on_at_the_other(cluster: Cluster) -> None:
    third = Node(cluster.one.folder.parent / "third", cluster.one.environment["RUNWIRE_DATABASE_URL"], lease_s=3)
    await asyncio.to_thread(third.start)
    here, there = Outside(third.url, cluster.key), Outside(cluster.other.url, cluster.key)
    async with there.connected():
        async with here.connected():
            # Whose worker takes it only the database knows: killed is the server that it was sent to.
            runs = [await here.send(f"slow {n}", agent="golden") for n in range(6)]
            await asyncio.to_thread(third.end, signal.SIGKILL)
        for sent in runs:
            await there.subscribe(sent["thread"], after=0)
            events = await there.until_end(sent["run"])
            assert_one_run(events, sent["run"])
            assert events[-1]["type"] == "agent_completed"


async def test_verbs_work_on_the_database_beside_its_servers(cluster: Cluster) -> None:
    node = cluster.one
    await asyncio.to_thread(node.told, "user", "add", "eve")
    eve = Outside(cluster.other.url, await asyncio.to_thread(node.told, "token", "create", "--user", "eve"))
    async with eve.connected():
        sent = await eve.send("hello", agent="plain")
        await eve.until_end(sent["run"])
        await asyncio.to_thread(node.told, "user", "disable", "eve")
        async with asyncio.timeout(10):
            frame = await eve.frame()
            while frame["op"] != "bye":
                frame = await eve.frame()
    stats = json.loads(await asyncio.to_thread(node.told, "storage", "stats", "--json"))
    assert stats["counts"]["users"] == 3
    assert stats["size_bytes"] > 1_000_000
    assert "compacted" in await asyncio.to_thread(node.told, "storage", "compact", "--older-than", "0s")
    exported = await asyncio.to_thread(node.verb, "storage", "export", "-", "--user", "eve")
    assert '"content":"hello"' in exported.stdout
    for words, status, message in (
        (("storage", "backup", "copy.db"), 78, "pg_dump"),
        (("storage", "import", "../single/all.jsonl"), 1, "not empty"),
        (("tail",), 1, "name one with --url"),
    ):
        refused = await asyncio.to_thread(node.verb, *words)
        assert (refused.returncode, message in refused.stderr) == (status, True), refused.stderr


async def test_killed_database_costs_time_and_nothing_else(cluster: Cluster, own_server: PostgresServer) -> None:
    here, there = Outside(cluster.one.url, cluster.key), Outside(cluster.other.url, cluster.key)
    async with here.connected(), there.connected():
        first = await here.send("before", agent="plain")
        await there.subscribe(first["thread"], after=0)
        await there.until_end(first["run"])
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.restart)
        while True:  # what was in flight is answered with `unavailable`; people send it again
            reply = await here.command("send", content="after", agent="plain", thread=first["thread"], key="once")
            if reply["ok"]:
                break
            assert reply["error"]["code"] == "unavailable", reply
            await asyncio.sleep(0.1)
        await there.until_end(reply["data"]["run"])
        assert text_of(there.events[first["thread"]], reply["data"]["run"]) == "echo after"


def test_tables_are_made_by_migrate_alone(tmp_path: Path, own_server: PostgresServer) -> None:
    node = Node(tmp_path, asyncio.run(own_server.create_database(is_empty=True)))
    early = node.verb("serve", str(AGENTS), "--port", "0")
    assert early.returncode == 78
    assert "run `runwire migrate`" in early.stderr
    assert f"went from nothing to {REVISIONS[-1]}" in node.told("migrate")
    assert f"is up to date at {REVISIONS[-1]}" in node.told("migrate")
    missing = node.verb("migrate", program=("-c", _WITHOUT_DRIVER))
    assert missing.returncode == 78
    assert "pip install 'runwire[postgres]'" in missing.stderr


def test_development_server_makes_them_itself_and_says_what_several_need(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    node = Node(tmp_path, asyncio.run(own_server.create_database(is_empty=True)))
    try:
        node.start("dev")
    finally:
        node.end()
    assert "public_url is not set" in node.log()
    assert PASSWORD not in node.log()
