"""The portable form: it has everything, goes round without loss, and names the line in which it was damaged."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import Buffer

import runwire.storage.schema_auth  # noqa: F401  # its tables join the same metadata
from runwire.errors import ConfigurationError, Conflict, NotFound, ProtocolError, Unavailable
from runwire.protocol.events import AgentCompleted, AgentResumed, AgentStarted, AgentThinking, AgentWaiting, emitted
from runwire.storage.base import AuditEntry, Batch, CancelRequest, IncomingMessage, OpenedWait, RunEnd
from runwire.storage.schema import metadata
from runwire.storage.sqlite.archives import export_file, import_file
from runwire.storage.sqlite.backup import back_up_file
from runwire.storage.sqlite.copies import _seal, adopt
from runwire.storage.sqlite.prepare import prepare
from runwire.storage.sqlite.storage import SqliteStorage
from runwire.storage.transfer import KINDS, Damaged, read_export

REF = "blob_" + "5f" * 16
HASH = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2g"
PINNED = b'{"history":["\xc3\xa4\\n"]}'


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    """A database that has one of everything: ended, running and queued runs, a deleted thread, disabled people."""
    path = tmp_path / "source" / "runwire.db"
    storage = await SqliteStorage.open(path)
    ann = await storage.auth.create_user("ann", roles=("user", "operator"), password_hash=HASH)
    bob = await storage.auth.create_user("bob")
    await storage.auth.create_key(ann.user, key="key_1", secret_hash=b"\x01" * 32, label="ci", ttl_s=60)
    await storage.auth.create_key(bob.user, key="key_2", secret_hash=b"\x02" * 32)
    await storage.auth.create_session(
        ann.user, session="ses_1", epoch=1, client="c", refresh_key=b"refresh-me", ttl_s=60
    )
    by_ann = AuditEntry(actor=ann.user, actor_kind="user", action="user.disable", address="::1", detail={"why": "ä"})
    await storage.auth.disable_user(bob.user, audit=by_ann)
    for subject, name in (("42", "cas"), ("43", "dan")):
        await storage.auth.link_external("https://idp.example", subject, name=name, roles=["user"])
    dan = await storage.auth.user_by_name("dan")
    assert dan is not None
    await storage.auth.delete_user(dan.user, audit=AuditEntry(actor=None, actor_kind="operator", action="user.delete"))
    await storage.people.meet(dan.user, "https://idp.example", "43")
    await storage.people.quarantine(dan.user)
    for user, word in ((ann.user, "ann"), (bob.user, "bob")):
        message = IncomingMessage(user=user, thread=None, agent="a", content=f"first of {word} ä\u2028", key=word)
        thread = (await storage.runs.send(message)).thread
        await storage.threads.rename(user, thread, f"title of {word}")
        (claim,) = await storage.runs.claim("w", agents=["a"], limit=1, user_limit=9)
        said = [
            AgentStarted(agent="a", message=claim.message),
            AgentThinking(text="x"),
            AgentCompleted(output="y", duration_ms=1),
        ]
        await storage.events.append(
            [
                Batch(
                    run=claim.run,
                    attempt=1,
                    ordinal=0,
                    events=tuple(emitted(data, ts=5, scope="s/1") for data in said),
                    end=RunEnd(status="completed"),
                    pinned=PINNED,
                    blobs={REF: b'"large"'},
                )
            ]
        )
        for n in range(2):  # one that runs, one behind it
            await storage.runs.send(IncomingMessage(user=user, thread=thread, agent="a", content=f"{n} of {word}"))
        await storage.runs.claim("w", agents=["a"], limit=1, user_limit=9)
        await park(storage, user, word)
    gone = (
        await storage.runs.send(IncomingMessage(user=ann.user, thread=None, agent="a", content="thrown away"))
    ).thread
    await storage.threads.delete(ann.user, gone)
    await storage.close()
    return path


async def park(storage: SqliteStorage, user: str, word: str) -> None:
    """Add a run that waits, for two things of which one was answered."""
    sent = await storage.runs.send(IncomingMessage(user=user, thread=None, agent="a", content=f"waits, of {word}"))
    (claim,) = await storage.runs.claim("w", agents=["a"], limit=1, user_limit=9)
    assert claim.run == sent.run
    waits = [f"wt_{word}{n}" for n in range(2)]
    batch = Batch(
        run=claim.run,
        attempt=1,
        ordinal=0,
        events=(
            emitted(AgentStarted(agent="a", message=claim.message), ts=5),
            *(emitted(AgentWaiting(wait=wait, kind="input"), ts=5) for wait in waits),
        ),
        waits=tuple(OpenedWait(wait=wait, kind="input", due_at=2**50) for wait in waits),
    )
    await storage.events.append([batch])
    await storage.runs.answer(user, claim.run, waits[0], {"of": word})
    closing = [emitted(AgentResumed(wait=waits[1], value=None, by="ended"), ts=6)]
    assert await storage.runs.park(claim.run, 1, ordinal=3, waits=waits[1:], closing=closing)


def exported(path: Path, user: str | None = None) -> bytes:
    out = io.BytesIO()
    export_file(path, out, release="1", user_name=user)
    return out.getvalue()


def content(text: bytes) -> list[bytes]:
    """Return all lines but those that tell when and from where they were exported."""
    return text.splitlines(keepends=True)[1:-1]


def flags(path: Path) -> list[tuple[int]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT flags FROM segment s JOIN thread t ON t.key = s.thread_key WHERE deleted_at IS NULL ORDER BY s.key"
        ).fetchall()


def imported(tmp_path: Path, text: bytes, name: str = "target") -> Path:
    source, target = tmp_path / f"{name}.jsonl", tmp_path / name / "runwire.db"
    source.write_bytes(text)
    import_file(target, source)
    return target


async def test_what_goes_round_is_the_same(source: Path, tmp_path: Path) -> None:
    text = exported(source)
    target = imported(tmp_path, text)
    assert content(exported(target)) == content(text)
    kinds = [json.loads(line)["kind"] for line in text.splitlines()]
    assert set(kinds) == {"export", "account", "api_key", "user", "thread", "run", "wait", "segment", "blob", "end"} | {
        "external",
        "audit",
    }
    for word in (b"thrown away", b"refresh-me", b"ses_1", b"BEGIN PRIVATE", b'"d":'):
        assert word not in text, word
    assert flags(target) == flags(source)
    before, after = await SqliteStorage.open(source), await SqliteStorage.open(target)
    assert before.log != after.log
    assert json.loads(text.splitlines()[0])["log"] == before.log
    ann = await after.auth.user_by_name("ann")
    bob = await after.auth.user_by_name("bob")
    assert ann is not None
    assert bob is not None
    assert (bob.status, bob.epoch, ann.roles) == ("disabled", 2, ("operator", "user"))
    assert await after.auth.password_hash(ann.user) == HASH
    assert [key.revoked_at is None for key in await after.auth.list_keys(bob.user)] == [False]
    for user in (ann.user, bob.user):
        assert await after.threads.list(user) == await before.threads.list(user)
        assert await after.runs.list(user) == await before.runs.list(user)
        for thread in await after.threads.list(user):
            there, here = [await each.events.read(thread.thread, after=0) for each in (before, after)]
            assert (there.events, there.head, there.through) == (here.events, here.head, here.through)
    # What was running is lost and claimed first, under the next attempt; what waited behind it waits.
    claims = await after.runs.claim("w", agents=["a"], limit=9, user_limit=9)
    assert [(claim.attempt, claim.ordinal, claim.pinned) for claim in claims] == [(2, 0, None)] * 2
    # What waits goes on waiting, can be answered, and can be called off with what closes it.
    (parked,) = [run.run for run in await after.runs.list(ann.user) if run.status == "waiting"]
    assert (await after.runs.answer(ann.user, parked, "wt_ann0", {"of": "ann"})).committed is None
    assert (await after.runs.answer(ann.user, parked, "wt_ann1", 1)).is_parked
    assert [claim.run for claim in await after.runs.claim("w", agents=["echo"], limit=9, user_limit=9)] == [parked]
    *_, called_off = await after.runs.cancel_user(bob.user, CancelRequest(by="revoked"))
    assert (called_off.status, len(await after.events.read_run(called_off.run))) == ("cancelled", 7)
    ended = [run for run in await after.runs.list(ann.user) if run.status == "completed"]
    assert await after.events.run_blob(ended[0].run, REF) == b'"large"'
    with closing(sqlite3.connect(target)) as connection:
        assert {row[0] for row in connection.execute("SELECT data FROM pinned")} == {PINNED}
    # The key of a message is remembered: it is not run twice.
    sent = await after.runs.send(IncomingMessage(user=ann.user, thread=None, agent="a", content="?", key="ann"))
    assert not sent.is_new
    await before.close()
    await after.close()


async def test_two_imports_of_one_export_have_two_logs(source: Path, tmp_path: Path) -> None:
    text = exported(source)
    logs = set()
    for name in ("one", "two"):
        storage = await SqliteStorage.open(imported(tmp_path, text, name))
        logs.add(storage.log)
        await storage.close()
    assert len(logs) == 2


def test_every_column_is_exported_or_left_out_for_a_reason() -> None:
    left_out = {
        "user": {"key", "turn"},  # the turn of a queue that begins anew
        "thread": {"key", "deleted_at", "purged_at"},  # deleted threads stay behind
        "run": {"key", "owner", "worker", "lease_until"},  # nobody holds it in another database
        "wait": {"key", "kind"},  # `kind` is the member that every line has: it is `waits_for`
        "segment": {"key", "flags"},  # flags follow from the events
        "blob": {"key"},
        "auth_user": set[str](),
        "auth_key": set[str](),
        "auth_external": set[str](),
        "auth_audit": set[str](),
    }
    renamed = {"id", "user_key", "thread_key", "run_key", "user_id"}  # ids, by the name of what they are of
    kinds = {"auth_user": "account", "auth_key": "api_key", "auth_external": "external", "auth_audit": "audit"}
    fields = {kind.__struct_config__.tag: set(kind.__struct_fields__) for kind in KINDS}
    for table, out in left_out.items():
        columns = {column.name for column in metadata.tables[table].columns} - out - renamed
        assert columns <= fields[kinds.get(table, table)], table
    others = {"meta", "pinned", "auth_counter", "auth_event", "auth_session", "auth_signing_key", "auth_link", "member"}
    others |= {"auth_ticket", "auth_invite", "auth_reset"}  # secrets that are good once: not in another history
    assert set(metadata.tables) == set(left_out) | others


def test_an_export_of_one_user_is_whole_and_has_nobody_else(source: Path, tmp_path: Path) -> None:
    text = exported(source, "ann")
    assert b"of ann" in text
    for word in (b"bob", b"key_2"):
        assert word not in text
    assert content(exported(imported(tmp_path, text))) == content(text)
    with pytest.raises(NotFound, match="no user eve"):
        exported(source, "eve")


class Meddling(io.BytesIO):
    """A file during whose writing the database is changed, line by line."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._database = sqlite3.connect(path, isolation_level=None)
        self._lines = 0

    def write(self, line: Buffer) -> int:
        self._lines += 1
        self._database.execute(
            "INSERT INTO user (id, iss, sub, created_at) VALUES (?1, 'i', ?1, 0)", (f"late{self._lines}",)
        )
        self._database.execute("UPDATE thread SET title = 'late'")
        return super().write(line)

    def close(self) -> None:
        self._database.close()
        super().close()


def test_an_export_is_of_one_moment(source: Path, tmp_path: Path) -> None:
    before = exported(source)
    with Meddling(source) as out:
        export_file(source, out, release="1")
        text = out.getvalue()
    assert content(text) == content(before)
    imported(tmp_path, text)
    assert b"late" in exported(source)


def resealed(lines: list[bytes]) -> bytes:
    """Return lines with right checksums, as somebody would write them by hand."""
    import hashlib

    made = []
    for line in lines[:-1]:
        body = json.dumps({k: v for k, v in json.loads(line).items() if k != "crc"}).encode()[1:]
        made.append(b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body))
    end = json.loads(lines[-1]) | {"sha256": hashlib.sha256(b"".join(made)).hexdigest(), "lines": len(made)}
    body = json.dumps({k: v for k, v in end.items() if k != "crc"}).encode()[1:]
    return b"".join(made) + b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body)


def without(number: int) -> Callable[[list[bytes]], bytes]:
    return lambda lines: b"".join([*lines[:number], *lines[number + 1 :]])


DAMAGES: dict[str, tuple[Callable[[list[bytes]], bytes], str]] = {
    "a byte flipped": (
        lambda lines: b"".join(lines).replace(b"first of bob", b"First of bob"),
        r"Line \d+: it is not what",
    ),
    "a line missing": (without(8), r"lines are missing|this \w+ names something|not where it says"),
    "a line doubled": (lambda lines: b"".join([*lines[:3], *lines[2:]]), r"Line 4: the database refuses it"),
    "two lines swapped": (
        lambda lines: b"".join([*lines[:1], lines[2], lines[1], *lines[3:]]),
        r"Line \d+: the checksum of the whole",
    ),
    "kinds out of order": (lambda lines: b"".join([*lines[:-1], lines[1], lines[-1]]), r"Line \d+: .*out of order"),
    "a line of the middle missing": (without(-2), r"Line \d+: lines are missing"),
    "end missing": (lambda lines: b"".join(lines[:-1]), r"ends after line \d+.*cut off"),
    "cut in a line": (lambda lines: b"".join(lines)[:-30], r"Line \d+: the export was cut off in it"),
    "more behind the end": (lambda lines: b"".join(lines) + b"x", r"Line \d+: there is more"),
    "header missing": (without(0), r"Line 1: .*no header"),
    "two in one": (lambda lines: b"".join(lines[:-1] + lines[:-1]), r"Line \d+: a second header"),
    "empty": (lambda _: b"", r"after line 0"),
    "something else": (lambda _: b"hello\n" * 50, r"Line 1: this is neither"),
    "a newer format": (
        lambda lines: resealed([lines[0].replace(b'"format":2', b'"format":3'), *lines[1:]]),
        r"format 3; this release reads 2: upgrade",
    ),
    "an unknown member": (
        lambda lines: resealed([lines[0], lines[1].replace(b'"epoch":', b'"new":1,"epoch":'), *lines[2:]]),
        r"Line 2: .*new",
    ),
    "a wrong type": (
        lambda lines: resealed([lines[0], lines[1].replace(b'"epoch":', b'"epoch":"1","x":'), *lines[2:]]),
        r"Line 2: ",
    ),
    "an unknown reference": (
        lambda lines: resealed([line.replace(b'"user","user":"usr_', b'"user","user":"usr_0') for line in lines]),
        r"Line \d+: this thread names something",
    ),
    "a gap in a thread": (
        lambda lines: resealed([line.replace(b'"head":6', b'"head":7') for line in lines]),
        r"events of thread th_\w+ have a gap",
    ),
    "a seq outside its segment": (
        lambda lines: resealed([line.replace(b'"seq":4,"type"', b'"seq":40,"type"') for line in lines]),
        r"Line \d+: the seqs",
    ),
    "no id": (
        lambda lines: resealed([line.replace(b'"message":"msg_', b'"message":"../msg_') for line in lines]),
        r"Line \d+: `message` is no id",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_and_leaves_nothing(source: Path, tmp_path: Path, name: str) -> None:
    damage, sentence = DAMAGES[name]
    text = exported(source)
    damaged = damage(text.splitlines(keepends=True))
    assert damaged != text
    with pytest.raises(Damaged, match=sentence):
        imported(tmp_path, damaged)
    assert [file.name for file in (tmp_path / "target").iterdir()] == ["runwire.db.lock"]
    imported(tmp_path, text)  # and the way is free


def changed(kind: str, **members: object) -> Callable[[list[dict[str, Any]]], None]:
    """Give what changes members of the first line of a kind."""

    def change(records: list[dict[str, Any]]) -> None:
        next(record for record in records if record["kind"] == kind).update(members)

    return change


def two_ends(records: list[dict[str, Any]]) -> None:
    events = next(r["events"] for r in records if r["kind"] == "segment" and len(r["events"]) > 1)
    events[-2] |= {"type": "agent_completed", "data": events[-1]["data"]}


def no_start(records: list[dict[str, Any]]) -> None:
    events = next(r["events"] for r in records if r["kind"] == "segment" and len(r["events"]) > 1)
    del events[0]


# What an export never has, sealed as if it were one: somebody may have written it by hand.
CRAFTED: dict[str, tuple[Callable[[list[dict[str, Any]]], None], str]] = {
    "an id with a line end": (changed("thread", thread="th_1\n"), r"`thread` is no id"),
    "a ref that is a path": (changed("blob", ref="../x"), r"`ref` is no id"),
    "a floor above the head": (changed("thread", floor=99), r"its floor lies above"),
    "a negative number": (changed("run", attempt=-1), r">= 0"),
    "a number for no database": (changed("run", attempt=2**63), r"<= 9223372036854775807"),
    "an error that is no JSON": (changed("run", error="{nope"), r"no JSON object"),
    "a pinned value that is no JSON": (changed("run", pinned="[]"), r"no JSON object"),
    "a large value that is no JSON": (changed("blob", data="{nope"), r"its data is no JSON"),
    "an end without a time": (changed("run", ended_at=None), r"its end does not fit"),
    "a message elsewhere": (changed("run", seq=3), r"of run run_\w+ is not where it says"),
    "an end elsewhere": (changed("run", terminal_seq=2), r"of run run_\w+ is not where it says"),
    "two ends": (two_ends, r"a run goes on after its end"),
    "no start": (no_start, r"of run run_\w+ is not where it says"),
    "a name for a terminal": (changed("account", name="ann\x1b[2J"), r"`name` is no name"),
    "a password that costs 4 GiB": (
        changed("account", password_hash=HASH.replace("m=65536", "m=4194304")),
        r"costs too much",
    ),
    "a password of another kind": (changed("account", password_hash="$2b$12$x"), r"no argon2id hash"),
    "data that is no object": (
        changed("segment", events=[{"seq": 1, "type": "custom", "ts": 1, "data": 5, "scope": ""}]),
        r"no JSON object",
    ),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_what_no_export_has_is_refused_however_well_it_is_sealed(source: Path, tmp_path: Path, name: str) -> None:
    craft, sentence = CRAFTED[name]
    records = [json.loads(line) for line in exported(source).splitlines()]
    craft(records)
    with pytest.raises(Damaged, match=sentence):
        imported(tmp_path, resealed([written(record) for record in records]))


def written(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, separators=(",", ":")).replace(f'{{"crc":"{record["crc"]}",', "", 1).encode()
    return b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body)


def test_a_line_that_is_nested_without_end_is_refused(source: Path, tmp_path: Path) -> None:
    lines = exported(source).splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if b'"kind":"segment"' in line)
    deep = b"[" * 100_000 + b"]" * 100_000
    body = lines[at][len(b'{"crc":"00000000",') : -1].replace(b'"data":{', b'"data":{"deep":' + deep + b",", 1)
    lines[at] = b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body)
    with pytest.raises(Damaged, match="nested too deeply"):
        imported(tmp_path, b"".join(lines))


@pytest.mark.parametrize(
    "code",
    [
        "CREATE TRIGGER spy AFTER INSERT ON auth_key BEGIN UPDATE thread SET title = hex(new.secret_hash); END",
        "CREATE VIEW spy AS SELECT 1",
    ],
)
def test_a_backup_with_code_in_it_is_refused(source: Path, tmp_path: Path, code: str) -> None:
    back_up_file(source, tmp_path / "backup.db")
    adopt(tmp_path / "backup.db")
    with closing(sqlite3.connect(tmp_path / "backup.db")) as connection:
        connection.execute(code)
        connection.execute("UPDATE meta SET log = 'x'")
        connection.commit()
    with pytest.raises(ProtocolError, match="code of its own"):
        import_file(tmp_path / "new" / "runwire.db", tmp_path / "backup.db")
    # Sealed, and put in the place of a data file by hand.
    _seal(tmp_path / "backup.db")
    with pytest.raises(ConfigurationError, match="code of its own"):
        prepare(tmp_path / "backup.db")


def test_a_pipe_is_no_file_to_import(source: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    held = os.open(tmp_path / "pipe", os.O_RDWR)  # or opening it would wait for somebody who writes
    with pytest.raises(Unavailable, match="is a pipe"):
        import_file(tmp_path / "new" / "runwire.db", tmp_path / "pipe")
    os.close(held)


def test_every_byte_that_is_cut_off_is_missed(source: Path) -> None:
    text = exported(source, "bob")
    for size in range(len(text)):
        with pytest.raises(Damaged):
            list(read_export(io.BytesIO(text[:size])))


async def test_import_refuses_what_is_not_empty_and_takes_what_was_never_used(source: Path, tmp_path: Path) -> None:
    text = exported(source)
    unused = tmp_path / "unused" / "runwire.db"
    await (await SqliteStorage.open(unused)).close()
    imported(tmp_path, text, "unused")
    with pytest.raises(Conflict, match=r"not empty: it has 4 users, 4 threads and 8 runs"):
        imported(tmp_path, text, "unused")
    foreign = tmp_path / "foreign" / "runwire.db"
    foreign.parent.mkdir()
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(Conflict, match="other tables"):
        imported(tmp_path, text, "foreign")
    with pytest.raises(ProtocolError, match="not one of Runwire"):
        import_file(tmp_path / "new" / "runwire.db", foreign)


async def test_import_is_not_mixed_with_what_a_moved_database_left_behind(source: Path, tmp_path: Path) -> None:
    text = exported(source)
    used = await SqliteStorage.open(tmp_path / "used" / "runwire.db")
    await used.auth.create_user("carol")
    killed = tmp_path / "target"  # as kill -9 leaves a folder, and then somebody moves the one file that they know
    shutil.copytree(tmp_path / "used", killed)
    await used.close()
    (killed / "runwire.db").rename(tmp_path / "old.db")
    left = (killed / "runwire.db-wal").read_bytes()
    assert left
    with pytest.raises(Conflict, match=r"runwire\.db-wal belongs to a database that is not here"):
        imported(tmp_path, text)
    assert (killed / "runwire.db-wal").read_bytes() == left, "it has the last writes of the old one"
    (killed / "runwire.db-wal").rename(tmp_path / "old.db-wal")
    restored = await SqliteStorage.open(imported(tmp_path, text))
    assert [user.name for user in await restored.auth.list_users()] == ["ann", "bob", "cas"]
    await restored.close()
