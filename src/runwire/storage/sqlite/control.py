"""The owner's local socket: how a command beside a running server has its work done by that server.

One request per line, `{"verb": "user_add", "name": "ada"}`; one reply per line, `{"ok": true, "data": …}` or
`{"ok": false, "error": {"code", "message", "field", "retry_after_s"}}`. Whoever may open the file may ask: the
socket has mode 0600, like the data file beside it. Where it is stands in the lock file.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from runwire.errors import (
    ConfigurationError,
    Conflict,
    Forbidden,
    NotFound,
    ProtocolError,
    RunwireError,
    Unauthenticated,
    Unavailable,
)
from runwire.storage.sqlite.database import SqliteDatabase
from runwire.storage.sqlite.lock import read_owner

__all__ = ["MAX_CONNECTIONS", "MAX_REQUEST_BYTES", "Absent", "ControlSocket", "Verb", "ask"]

MAX_REQUEST_BYTES: Final = 65_536
MAX_REPLY_BYTES: Final = 8_388_608
MAX_CONNECTIONS: Final = 16  # one more is told `unavailable` and closed
IDLE_S: Final = 10.0  # without a whole request for that long, a connection is closed
MAX_PATH_BYTES: Final = 107  # of `sockaddr_un.sun_path`: 108 with the final NUL on Linux

Verb = Callable[[dict[str, Any]], Awaitable[Any]]  # arguments as sent; the value must be JSON

_ERRORS: Final[Mapping[str, type[RunwireError]]] = {
    "not_found": NotFound,
    "conflict": Conflict,
    "run_active": Conflict,
    "unauthenticated": Unauthenticated,
    "forbidden": Forbidden,
    "unavailable": Unavailable,
    "deadline": Unavailable,
    "circuit_open": Unavailable,
    "rate_limited": Unavailable,
    "bad_request": ProtocolError,
    "too_large": ProtocolError,
    "unsupported": ProtocolError,
}
_BUSY: Final = "rate_limited"
_log = structlog.get_logger()


class _Error(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    message: str
    field: str | None = None
    retry_after_s: float | None = None


class _Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    ok: bool
    data: Any = None
    error: _Error | None = None


class Absent(Unavailable):
    """Report that nobody took the request: no server runs there, or it has too many. Asking again is safe."""


class ControlSocket:
    """The server half, in the process that owns the data file."""

    def __init__(self, database: SqliteDatabase, verbs: Mapping[str, Verb]) -> None:
        self._database = database
        self._verbs = verbs
        self._listening: socket.socket | None = None
        self._scrap: tempfile.TemporaryDirectory[str] | None = None
        self._path: Path | None = None

    def open(self) -> Path:
        """Bind the socket and write down where it is; what connects from now on is served by `run`.

        Raises:
            ConfigurationError: the socket cannot be made.
        """
        path = self._database.path.absolute().with_name("control.sock")
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            self._scrap = tempfile.TemporaryDirectory(prefix="runwire-")  # mode 0700
            path = Path(self._scrap.name, "control.sock")
        try:
            self._listening = _listen(path)
        except OSError as error:
            raise ConfigurationError([f"The control socket {path} cannot be made: {error.strerror}."]) from error
        self._path = path
        self._database.lock.record(socket=path)
        return path

    async def run(self) -> None:
        """Serve until cancelled, then remove the socket. `open` comes first."""
        if self._listening is None:
            raise RuntimeError("open the control socket before running it")
        try:
            async with asyncio.TaskGroup() as connections:
                active: set[asyncio.Task[None]] = set()

                def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                    if len(active) >= MAX_CONNECTIONS:
                        # The one reply of this code: the request was not even read.
                        busy = Unavailable("Too many commands at once.", code=_BUSY, retry_after_s=1.0)
                        writer.write(_encode(_refused(busy)))
                        writer.close()
                        return
                    task = connections.create_task(self._serve(reader, writer))
                    active.add(task)
                    task.add_done_callback(active.discard)

                server = await asyncio.start_unix_server(connect, sock=self._listening, limit=MAX_REQUEST_BYTES)
                try:
                    await asyncio.get_running_loop().create_future()  # until cancelled
                finally:
                    server.close()
        finally:
            self.close()

    def close(self) -> None:
        """Remove the socket; for a socket that was opened and never run. Idempotent."""
        if self._listening is None:
            return
        self._listening.close()
        self._listening = None
        self._database.lock.record(socket=None)
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._scrap is not None:
            self._scrap.cleanup()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readline()
                if not line.endswith(b"\n"):
                    break
                reply = await self._answer(line)
                writer.write(_encode(reply))
                async with asyncio.timeout(IDLE_S):
                    await writer.drain()
        except ValueError:  # `readline` beyond the limit
            too_large = ProtocolError(f"A request has at most {MAX_REQUEST_BYTES} bytes.", code="too_large")
            writer.write(_encode(_refused(too_large)))
        except (OSError, TimeoutError):
            pass  # whoever asked is gone; what was asked is done or not done
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> _Reply:
        try:
            arguments = msgspec.json.decode(line, type=dict[str, Any])
            verb: Verb = self._verbs.get(str(arguments.pop("verb", "")), _unknown)
            reply = _Reply(ok=True, data=await verb(arguments))
            msgspec.json.encode(reply)  # a value that is not JSON is the verb's fault, and is found here
        except msgspec.DecodeError:
            return _refused(ProtocolError("A request is one JSON object on one line."))
        except RunwireError as error:
            return _refused(error)
        except Exception as error:  # the top of a connection: the server goes on
            _log.exception("control_failed", error=type(error).__name__)
            return _refused(RunwireError("The server failed to do this; its log says why."))
        return reply


async def _unknown(_: dict[str, Any]) -> None:
    raise ProtocolError("This server has no such command.", code="unsupported", field="verb")


async def ask(path: Path, verb: str, *, timeout_s: float = 10.0, **arguments: Any) -> Any:
    """Have the owner of a data file do something, and return the reply's data.

    Args:
        path: the data file; its lock file says where the owner listens.
        verb: the name of the command.
        timeout_s: for the whole exchange.
        arguments: JSON values.

    Raises:
        Absent: no server runs on this file, or it takes no more commands at the moment: nothing was done.
        Unavailable: it did not answer in time, or not to be understood (`code="deadline"`): it may have been done.
        RunwireError: what the owner raised, of the same kind and with the same code and field.
    """
    owner = read_owner(path)
    if owner is None or owner.socket is None:
        raise Absent(f"No server that takes commands runs on {path}.")
    request = msgspec.json.encode({"verb": verb, **arguments})
    try:
        async with asyncio.timeout(timeout_s):
            line = await _exchange(owner.socket, request + b"\n")
        reply = msgspec.json.decode(line, type=_Reply)
    except TimeoutError as error:
        raise Unavailable(f"The server did not answer within {timeout_s:g} s.", code="deadline") from error
    except (OSError, ValueError) as error:  # it had the request: what became of that is not known
        raise Unavailable("The server's answer was cut off or cannot be read.", code="deadline") from error
    if reply.error is None:
        return reply.data
    if reply.error.code == _BUSY:
        raise Absent(reply.error.message, code=_BUSY, retry_after_s=reply.error.retry_after_s)
    known = _ERRORS.get(reply.error.code, RunwireError)
    raise known(
        reply.error.message,
        code=reply.error.code,
        field=reply.error.field,
        retry_after_s=reply.error.retry_after_s,
    )


async def _exchange(path: str, request: bytes) -> bytes:
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=MAX_REPLY_BYTES)
    except OSError as error:
        raise Absent(f"No server answers on {path}.") from error
    try:
        # A busy or refusing server may close its side early: its reply still stands to be read.
        with suppress(ConnectionError):
            writer.write(request)
            await writer.drain()
        line = await reader.readline()
    finally:
        writer.close()
    if not line:
        # It took the request and ended: whether the verb was carried out is not known, as after a deadline.
        raise TimeoutError
    return line


def _listen(path: Path) -> socket.socket:
    """Bind and listen; whoever holds the data file's lock may remove a socket that a dead owner left."""
    if path.is_socket():
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        # Before `listen`: until then every connection is refused, so nobody slips in under the wider mode.
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        listening.listen(MAX_CONNECTIONS)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def _refused(error: RunwireError) -> _Reply:
    detail = _Error(code=error.code, message=error.message, field=error.field, retry_after_s=error.retry_after_s)
    return _Reply(ok=False, error=detail)


def _encode(reply: _Reply) -> bytes:
    return msgspec.json.encode(reply) + b"\n"
