"""`runwire user export` and `runwire user erase` beside running servers: nothing of a person is found afterwards."""

from __future__ import annotations

import asyncio
import json
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest
from tests.cluster.deployment import ROLE_AGENTS
from tests.identity.house import House
from tests.mission_critical.deployment import Deployment
from tests.outside import Outside
from tests.postgres import ADMIN, PostgresServer

from runwire.errors import NotFound

pytestmark = pytest.mark.timeout(90)

CANARY: Final = "canary-of-ada-7f3c"
OTHER: Final = "canary-of-bob-9d1e"
WITHDRAWN_S: Final = 5.0  # promised is 1 s, on a machine that is not busy


def holding(folder: Path, word: str) -> list[str]:
    """Return the files of a folder in which a word stands, in one of the ways in which databases write text."""
    needles = [word.encode(), word.encode("utf-16-le"), word.encode().hex().encode()]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path.name for path in files if any(needle in path.read_bytes() for needle in needles)]


async def talk(url: str, token: str, word: str, *, agent: str | None = None) -> dict[str, Any]:
    """Leave a word in a title, a message, an answer and a tool's arguments."""
    person = Outside(url, token)
    async with person.connected():
        sent = await person.send(f"tell me of {word}", **({"agent": agent} if agent else {}))
        await person.until_end(sent["run"])
        await asyncio.to_thread(person.http, "PATCH", f"/v1/threads/{sent['thread']}", {"title": f"of {word}"})
    return sent


def lines(archive: zipfile.ZipFile, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in archive.read(name).splitlines()]


async def test_person_is_exported_and_erased_beside_a_running_server_and_the_file_forgets(tmp_path: Path) -> None:
    name, other = f"ada.{CANARY}@example.org", "bob"
    server = Deployment(tmp_path, agents=ROLE_AGENTS)
    await server.start()
    try:
        ada, bob = await server.key(name), await server.key(other)
        sent = await talk(server.url, ada, CANARY, agent="golden")
        await talk(server.url, bob, OTHER, agent="golden")
        assert holding(server.process.data_dir, CANARY), "there is something to be found"
        archive = tmp_path / "ada.zip"
        await server.process.cli("user", "export", name, "--to", str(archive))
        with zipfile.ZipFile(archive) as opened:
            profile = json.loads(opened.read("profile.json"))
            assert (profile["name"], profile["status"], len(profile["api_keys"])) == (name, "active", 1)
            assert [one["thread"] for one in lines(opened, "threads.jsonl")] == [sent["thread"]]
            assert [(one["run"], one["status"]) for one in lines(opened, "runs.jsonl")] == [(sent["run"], "completed")]
            events = lines(opened, "events.jsonl")
            assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
            assert {"user_message", "agent_started", "tool_completed", "agent_completed"} <= {e["type"] for e in events}
            assert any(CANARY in json.dumps(event["data"]) for event in events)
            assert not any(OTHER.encode() in opened.read(one) for one in opened.namelist()), "nothing of anybody else"
            assert not any(ada.encode() in opened.read(one) for one in opened.namelist()), "no secret"
        archive.unlink()
        person = Outside(server.url, ada)
        async with person.connected():
            running = await person.send("go on", agent="walk")
            await person.until(lambda event: event["type"] == "tool_completed")
            said = await server.process.cli("user", "erase", name, "--yes")
            while (frame := await person.frame())["op"] != "bye":
                pass
            assert frame["code"] == 4507
        assert "2 threads, 2 runs" in said, "the run that went on ended first, and went too"
        assert holding(server.process.data_dir, CANARY) == []
        assert holding(server.process.data_dir, running["run"]) == []
        assert holding(server.process.data_dir, OTHER), "others keep theirs"
        await talk(server.url, bob, OTHER, agent="golden")
        users = json.loads(await server.process.cli("user", "list", "--json"))
        assert not any(CANARY in one["name"] for one in users)
        await server.process.restart()
        assert holding(server.process.data_dir, CANARY) == []
    finally:
        await server.kill9()


async def test_erasure_killed_in_the_middle_is_finished_by_the_next(house: House) -> None:
    ada = await house.person(f"ada-{CANARY}")
    await house.give_key(ada)
    url = house.gateways[0].url
    sents = [await talk(url, ada.key, CANARY, agent="golden") for _ in range(2)]
    command = (sys.executable, "-m", "runwire", "user", "erase", ada.name, "--yes")
    process = await asyncio.create_subprocess_exec(*command, cwd=house.cluster.marks, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    told = await process.stderr.readline()  # access is withdrawn; what follows is cut off somewhere
    process.kill()
    await process.communicate()
    assert ada.user.encode() in told
    async with asyncio.timeout(WITHDRAWN_S):
        while (await house.get("/v1/me", ada.key)).status_code != 401:
            pass
    done = await house.cli("user", "erase", ada.user, "--yes", "--rewrite")
    assert done.returncode == 0, done.stderr
    assert "write-ahead log" in done.stderr, "it says where traces are left"
    assert await house.storage.threads.list(ada.user) == []
    assert await house.storage.people.get(ada.user) is None
    for sent in sents:
        with pytest.raises(NotFound):
            await house.storage.threads.get(ada.user, sent["thread"])
    tombstone = await house.storage.auth.user_by_id(ada.user)
    assert tombstone is not None
    assert (tombstone.status, tombstone.name) == ("deleted", ada.user)
    again = await house.cli("user", "erase", ada.user, "--yes")
    assert again.returncode == 0, "nothing is left to be done, and that is no error"


async def test_files_of_a_database_server_forget_when_its_tables_are_written_anew(
    house: House, postgres_server: PostgresServer
) -> None:
    canary = f"{CANARY}-of-tables"
    ada, bob = await house.person(f"ada-{canary}"), await house.person("bob")
    for person, word in ((ada, canary), (bob, OTHER)):
        await talk(house.gateways[1].url, await house.give_key(person), word, agent="golden")
    base = postgres_server.data / "base"
    done = await house.cli("user", "erase", ada.name, "--yes", "--rewrite")
    assert done.returncode == 0, done.stderr
    database = house.cluster.url.rpartition("/")[2]
    await postgres_server.execute(postgres_server.url(database, role=ADMIN), "CHECKPOINT")
    assert holding(base, canary) == []
    assert holding(base, OTHER), "the search finds what is there"
