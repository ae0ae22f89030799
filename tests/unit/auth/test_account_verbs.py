"""The verbs about accounts, through the command's own entry, on a data folder and beside its owner."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pwd
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runwire.__main__ import main
from runwire.app.administration import Verbs, opened_all
from runwire.auth import tokens
from runwire.settings import load
from runwire.storage.base import BusMessage, Wake
from runwire.storage.bus_local import LocalBus
from runwire.storage.sqlite.control import ControlSocket
from runwire.storage.sqlite.storage import SqliteStorage


@dataclass(frozen=True, kw_only=True)
class Said:
    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Runwire = Callable[..., Said]


@pytest.fixture
def runwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runwire:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("runwire.auth.service.users.AuthSettings", _cheap)

    def run(*words: str, stdin: str = "") -> Said:
        monkeypatch.setattr(sys, "argv", ["runwire", *words, "--data-dir", "data"])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        status = ended.value.code
        return Said(status=status if isinstance(status, int) else 0, out=said.out, err=said.err)

    return run


def _cheap() -> Any:
    from runwire.auth.service.settings import AuthSettings

    return AuthSettings(argon2_memory_kib=8, argon2_passes=1, argon2_lanes=1)


def test_the_first_administrator_is_made_here_and_the_last_one_stays(runwire: Runwire) -> None:
    assert runwire("user", "list", "--json").json() == []
    assert runwire("user", "add", "ann", "--role", "admin", "--password-stdin", stdin="correct horse\n").status == 0
    for words in (("user", "roles", "ann", "user"), ("user", "delete", "ann", "--yes")):
        refused = runwire(*words)
        assert refused.status == 1
        assert "last active administrator" in refused.err
    runwire("user", "add", "bob")
    assert runwire("user", "roles", "bob", "admin", "user").out == "bob has admin,user\n"
    assert runwire("user", "roles", "ann", "user").out == "ann has user\n"
    unknown = runwire("user", "roles", "ann", "root")
    assert (unknown.status, "Unknown role root" in unknown.err) == (1, True)
    shown = runwire("user", "show", "ann", "--json").json()
    assert (shown["roles"], shown["status"], shown["has_password"]) == (["user"], "active", True)
    assert "signs in  by password" in runwire("user", "show", "ann").out
    gone = runwire("user", "delete", "ann", "--yes")
    assert f"runwire user erase {shown['user']} --data-dir data" in gone.err
    assert runwire("user", "show", shown["user"], "--json").json()["status"] == "deleted"
    assert [row["name"] for row in runwire("user", "list", "--json").json()] == ["bob"]
    nobody = runwire("user", "sessions", "ann")
    assert (nobody.status, nobody.err.strip().endswith("runwire user add ann --data-dir data")) == (1, True)


def test_every_change_says_in_the_audit_who_the_machine_knows_it_was(runwire: Runwire) -> None:
    runwire("user", "add", "ann")
    key = runwire("token", "create", "--user", "ann", "--label", "ci").out.strip()
    reset = runwire("user", "reset", "ann").out.strip()
    invite = runwire("user", "invite").out.strip()
    runwire("user", "disable", "ann")
    lines = [json.loads(line) for line in runwire("audit").out.splitlines()]
    assert [line["action"] for line in lines] == [
        "user.create",
        "key.create",
        "user.reset",
        "invite.create",
        "user.disable",
    ]
    me = pwd.getpwuid(os.getuid()).pw_name
    assert {(line["actor"], line["actor_kind"]) for line in lines} == {(me, "operator")}
    written = json.dumps(lines)
    assert not [secret for secret in (key, reset, invite) if secret in written]


def test_a_key_is_listed_without_what_proves_it_and_revoked_by_its_id(runwire: Runwire) -> None:
    runwire("user", "add", "ann")
    words = ("token", "create", "--user", "ann", "--scope", "read", "--scope", "write", "--label", "ci", "--ttl", "60")
    text = runwire(*words).out.strip()
    listed = runwire("token", "list", "--user", "ann")
    head, row = listed.out.splitlines()
    assert head.split()[:4] == ["KEY", "STATE", "LABEL", "SCOPES"]
    key = tokens.read_api_key(text).key
    assert row.split()[:4] == [key, "active", "ci", "read,write"]
    assert text not in listed.out
    assert runwire("token", "revoke", key).out == f"revoked {key} of ann\n"
    assert runwire("token", "revoke", key).out == f"{key} was revoked already\n"
    assert runwire("token", "list", "--user", "ann", "--json").json()[0]["state"] == "revoked"
    unknown = runwire("token", "revoke", "key_nobody")
    assert (unknown.status, "runwire token list" in unknown.err) == (1, True)
    bad = runwire("token", "create", "--user", "ann", "--scope", "a b")
    assert (bad.status, bad.out, "scope" in bad.err) == (1, "", True)


def test_a_user_may_be_added_with_a_key_which_is_all_that_is_printed(runwire: Runwire) -> None:
    added = runwire("user", "add", "ann", "--with-key")
    (row,) = runwire("token", "list", "--user", "ann", "--json").json()
    assert tokens.read_api_key(added.out.strip()).key == row["key"]
    assert added.err.startswith("added ann (usr_")
    again = runwire("user", "add", "ann", "--with-key")
    assert (again.status, again.out) == (1, "")


def test_invitations_are_shown_once_listed_by_their_id_and_taken_back(runwire: Runwire) -> None:
    secret = runwire("user", "invite", "--role", "operator").out.strip()
    (row,) = runwire("user", "invite", "--list", "--json").json()
    assert (row["roles"], row["invite"]) == (["operator"], tokens.secret_hash(secret)[:8].hex())
    assert secret not in runwire("user", "invite", "--list").out
    assert runwire("user", "invite", "--revoke", row["invite"]).status == 0
    assert runwire("user", "invite", "--revoke", row["invite"]).status == 1
    assert runwire("user", "invite", "--role", "root").status == 1


def test_signing_keys_follow_one_another_and_are_revoked(runwire: Runwire) -> None:
    rotated = runwire("signing-key", "rotate")
    kid = rotated.out.split()[0]
    (row,) = runwire("signing-key", "list", "--json").json()
    assert (row["kid"], row["state"]) == (kid, "pending")
    assert row["activates_at"] - row["created_at"] == 360_000
    assert runwire("signing-key", "revoke", kid).status == 0
    assert runwire("signing-key", "list").out.splitlines()[1].split()[:2] == [kid, "revoked"]
    again = runwire("signing-key", "revoke", kid)
    assert (again.status, "runwire signing-key list" in again.err) == (1, True)


async def _signed_in(name: str, *, sessions: int) -> list[str]:
    settings = load({"data_dir": Path("data")}, serves=False).settings
    async with opened_all(settings) as storages:
        auth = storages.first.auth
        holder = await auth.user_by_name(name)
        assert holder is not None
        made = [f"ses_{name}{number}" for number in range(sessions)]
        for session in made:
            await auth.create_session(
                holder.user, session=session, epoch=1, client="runwire", refresh_key=b"k" * 32, ttl_s=60, address="::1"
            )
    return made


def test_one_session_all_of_a_user_or_all_of_everybody_end(runwire: Runwire) -> None:
    for name in ("ann", "bob"):
        runwire("user", "add", name)
        asyncio.run(_signed_in(name, sessions=3))
    table = runwire("user", "sessions", "ann").out.splitlines()
    assert table[0].split()[:3] == ["SESSION", "CLIENT", "ADDRESS"]
    assert (len(table), table[1].split()[2]) == (4, "::1")
    assert runwire("user", "sign-out", "ann", "--session", "ses_bob1").status == 1
    assert runwire("user", "sign-out", "ann", "--session", "ses_ann1").out == "ended 1 session of ann\n"
    assert runwire("user", "sign-out", "ann", "--older-than", "1h").out == "ended 0 sessions of ann\n"
    assert runwire("user", "sign-out", "ann").out == "ended 2 sessions of ann\n"
    assert runwire("user", "sign-out", "--all").out == "ended 3 sessions of everybody\n"
    for words in ((), ("ann", "--all"), ("--all", "--session", "x"), ("ann", "--older-than", "soon")):
        assert runwire("user", "sign-out", *words).status == 2


async def test_beside_a_server_the_server_does_it_and_its_parts_are_woken(runwire: Runwire) -> None:
    settings = load({"data_dir": Path("data")}, serves=False).settings
    async with opened_all(settings) as storages, asyncio.TaskGroup() as group:
        assert isinstance(storages.first, SqliteStorage)
        bus = LocalBus()
        heard: list[BusMessage] = []
        bus.listen(heard.append)
        control = ControlSocket(storages.first.database, Verbs(storages, bus).table())
        control.open()
        serving = group.create_task(control.run())
        assert (await asyncio.to_thread(runwire, "user", "add", "ann", "--role", "admin")).status == 0
        assert Wake(topic="auth") in heard
        refused = await asyncio.to_thread(runwire, "user", "roles", "ann", "user")
        assert (refused.status, "last active administrator" in refused.err) == (1, True)
        heard.clear()
        made = await asyncio.to_thread(runwire, "signing-key", "rotate")
        assert Wake(topic="auth") in heard
        assert (await asyncio.to_thread(runwire, "signing-key", "revoke", made.out.split()[0])).status == 0
        assert (await storages.first.auth.snapshot(revoked_within_s=60)).revoked_kids == [made.out.split()[0]]
        serving.cancel()
        await bus.close()
