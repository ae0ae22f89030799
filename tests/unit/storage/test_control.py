"""The owner's local socket: verbs, errors, bounds, rights, and what a dead owner leaves."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runwire.app.administration import administer
from runwire.errors import ConfigurationError, Conflict, NotFound, ProtocolError, RunwireError, Unavailable
from runwire.settings import load
from runwire.storage.sqlite import control
from runwire.storage.sqlite.control import MAX_CONNECTIONS, MAX_REQUEST_BYTES, Absent, ControlSocket, Verb, ask
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.sqlite.lock import read_owner


async def echo(arguments: dict[str, Any]) -> Any:
    return arguments


async def hang(_: dict[str, Any]) -> None:
    await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def serving(path: Path, verbs: Mapping[str, Verb]) -> AsyncIterator[Path]:
    database = await SqliteDatabase.open(path)
    server = ControlSocket(database, verbs)
    opened = server.open()
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            yield opened
            task.cancel()
    finally:
        await database.close()


async def raw(path: Path, request: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    reply: dict[str, Any] = msgspec.json.decode(await reader.readline())
    writer.close()
    return reply


async def test_verb_gets_its_arguments_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "runwire.db"
    async with serving(path, {"echo": echo}) as opened:
        assert opened == tmp_path / "control.sock"
        assert stat.S_IMODE(opened.stat().st_mode) == 0o600
        assert await ask(path, "echo", name="ada", roles=["operator"], ttl_s=None) == {
            "name": "ada",
            "roles": ["operator"],
            "ttl_s": None,
        }
        assert await ask(path, "echo") == {}
    assert not opened.exists()
    owner = read_owner(path)
    assert owner is not None
    assert owner.socket is None


async def test_one_connection_may_ask_several_times(tmp_path: Path) -> None:
    async with serving(tmp_path / "runwire.db", {"echo": echo}) as opened:
        reader, writer = await asyncio.open_unix_connection(opened)
        for number in range(3):
            writer.write(b'{"verb":"echo","n":%d}\n' % number)
            assert msgspec.json.decode(await reader.readline()) == {"ok": True, "data": {"n": number}}
        writer.close()


@pytest.mark.parametrize(
    "error",
    [
        NotFound("There is no such user.", field="name"),
        Conflict("There is such a user.", field="name"),
        Conflict("Busy.", code="run_active"),
        Unavailable("Later.", retry_after_s=2.5),
        ProtocolError("A name has letters.", field="name"),
    ],
    ids=repr,
)
async def test_error_of_a_verb_is_raised_again(tmp_path: Path, error: RunwireError) -> None:
    async def fails(_: dict[str, Any]) -> None:
        raise error

    async with serving(tmp_path / "runwire.db", {"fails": fails}):
        with pytest.raises(type(error)) as raised:
            await ask(tmp_path / "runwire.db", "fails")
    same = raised.value
    assert (same.message, same.code, same.field, same.retry_after_s) == (
        error.message,
        error.code,
        error.field,
        error.retry_after_s,
    )


async def test_broken_verb_says_nothing_of_its_insides(tmp_path: Path) -> None:
    async def breaks(_: dict[str, Any]) -> None:
        raise KeyError("secret")

    async def opaque(_: dict[str, Any]) -> object:
        return object()

    path = tmp_path / "runwire.db"
    async with serving(path, {"breaks": breaks, "opaque": opaque, "echo": echo}):
        for verb in ("breaks", "opaque"):
            with pytest.raises(RunwireError) as raised:
                await ask(path, verb)
            assert raised.value.code == "internal"
            assert "secret" not in raised.value.message
        assert await ask(path, "echo", still="there") == {"still": "there"}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"not json\n", "bad_request"),
        (b"[1,2]\n", "bad_request"),
        (b'"text"\n', "bad_request"),
        (b"{}\n", "unsupported"),
        (b'{"verb":7}\n', "unsupported"),
        (b'{"verb":"format_disk"}\n', "unsupported"),
        (b"\xff\xfe\n", "bad_request"),
        (b"x" * (MAX_REQUEST_BYTES + 10) + b"\n", "too_large"),
    ],
    ids=range(8),
)
async def test_bad_requests_are_refused_and_harm_nobody(tmp_path: Path, request_: bytes, code: str) -> None:
    path = tmp_path / "runwire.db"
    async with serving(path, {"echo": echo}) as opened:
        reply = await raw(opened, request_)
        assert (reply["ok"], reply["error"]["code"]) == (False, code)
        assert await ask(path, "echo") == {}


async def test_connections_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "runwire.db"
    async with serving(path, {"echo": echo, "hang": hang}) as opened:
        writers = []
        for _ in range(MAX_CONNECTIONS):
            reader, writer = await asyncio.open_unix_connection(opened)
            writer.write(b'{"verb":"echo"}\n')
            await reader.readline()
            writers.append((reader, writer))
        with pytest.raises(Absent, match="Too many"):
            await ask(path, "echo")
        reader, writer = writers.pop()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(5):
            while True:  # until the server has seen that one is gone
                try:
                    assert await ask(path, "echo") == {}
                    break
                except Absent:
                    continue
        for _, writer in writers:
            writer.close()


async def test_idle_connections_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_S", 0.01)
    async with serving(tmp_path / "runwire.db", {"echo": echo}) as opened:
        reader, writer = await asyncio.open_unix_connection(opened)
        writer.write(b'{"verb":')  # never finished
        assert await reader.read() == b""
        writer.close()


async def test_asking_has_a_deadline(tmp_path: Path) -> None:
    path = tmp_path / "runwire.db"
    async with serving(path, {"hang": hang}):
        with pytest.raises(Unavailable) as raised:
            await ask(path, "hang", timeout_s=0.05)
        assert raised.value.code == "deadline"


async def test_asking_where_no_server_runs_says_so(tmp_path: Path) -> None:
    path = tmp_path / "runwire.db"
    with pytest.raises(Absent, match="No server"):
        await ask(path, "echo")
    database = await SqliteDatabase.open(path)
    with pytest.raises(Absent, match="No server"):
        await ask(path, "echo")
    # What an owner killed with -9 leaves: a socket that nobody serves, and its name in the lock file.
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "control.sock"))
    left.close()
    database.lock.record(socket=tmp_path / "control.sock")
    await database.close()
    with pytest.raises(Absent, match="No server answers"):
        await ask(path, "echo")
    async with serving(path, {"echo": echo}):
        assert await ask(path, "echo") == {}


async def test_what_the_owner_itself_cannot_do_is_said_once_and_not_tried_again(tmp_path: Path) -> None:
    calls = []

    async def refused(_: dict[str, Any]) -> None:
        calls.append("refused")
        raise Unavailable("The disk is full.", retry_after_s=1.0)

    async def cut_off(_: dict[str, Any]) -> str:
        calls.append("cut off")
        return "x" * (control.MAX_REPLY_BYTES + 1)

    settings = load({"data_dir": tmp_path}, environ={}).settings
    async with serving(tmp_path / "runwire.db", {"refused": refused, "cut_off": cut_off}):
        with pytest.raises(Unavailable, match="disk is full") as raised:
            await administer(settings, "refused")
        assert (raised.value.code, raised.value.retry_after_s) == ("unavailable", 1.0)
        with pytest.raises(Unavailable, match="look whether it was done"):
            await administer(settings, "cut_off")
    assert calls == ["refused", "cut off"]


async def test_socket_replaces_no_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("mine")
    database = await SqliteDatabase.open(tmp_path / "runwire.db")
    with pytest.raises(ConfigurationError, match=r"control\.sock"):
        ControlSocket(database, {}).open()
    assert (tmp_path / "control.sock").read_text() == "mine"
    await database.close()


async def test_path_too_long_for_a_socket_moves_it_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    path = folder / "runwire.db"
    assert len(os.fsencode(folder / "control.sock")) > control.MAX_PATH_BYTES
    async with serving(path, {"echo": echo}) as opened:
        assert not opened.is_relative_to(folder)
        assert stat.S_IMODE(opened.parent.stat().st_mode) == 0o700
        assert await ask(path, "echo", far="away") == {"far": "away"}
    assert not opened.parent.exists()


async def test_socket_that_was_never_served_can_be_closed(tmp_path: Path) -> None:
    database = await SqliteDatabase.open(tmp_path / "runwire.db")
    server = ControlSocket(database, {})
    with pytest.raises(RuntimeError):
        await server.run()
    opened = server.open()
    server.close()
    server.close()
    assert not opened.exists()
    await database.close()
