"""A real nginx or Caddy with the files of `deploy/proxy`, in front of a server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import IO

import pytest
from tests.deploy.processes import DEPLOY

NGINX_FILE = DEPLOY / "proxy" / "runwire.nginx.conf"
CADDY_FILE = DEPLOY / "proxy" / "Caddyfile"
READ_TIMEOUT_S = 3.0  # in the place of 75 s: a test of quiet sockets waits longer than this
_PATIENCE_S = 15.0

_NGINX_MAIN = """
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/main.error.log warn;
daemon off;
{user}
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/runwire.conf;
}}
"""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """Return the path of nginx or caddy; where it is not installed the test does not run, and says so."""
    if path := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"):  # noqa: TID251 - PATH
        return path
    if os.environ.get("CI") and name != "caddy":  # noqa: TID251 - CI promises it; not every system has a Caddy
        pytest.fail(f"CI has no {name}: .ci/run installs it")
    pytest.skip(f"not run: no {name}")


class Proxy:
    """One proxy on a free port of this machine.

    Args:
        kind: `nginx` or `caddy`.
        upstream_port: where the server listens.
        folder: for its files and logs.
    """

    def __init__(self, kind: str, upstream_port: int, folder: Path) -> None:
        self.kind = kind
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._output: IO[bytes] = (folder / "output.log").open("wb")
        words, environ = self._nginx(upstream_port) if kind == "nginx" else self._caddy(upstream_port)
        self._process = subprocess.Popen(words, stdout=self._output, stderr=self._output, env=environ)
        try:
            self._until_up()
        except BaseException:
            self.stop()
            raise

    def logs(self) -> str:
        """Return everything it has written anywhere."""
        files = [path for path in self._folder.rglob("*.log") if path.is_file()]
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(files))

    def reload(self) -> None:
        """Have nginx read its files again; new connections go to new processes of it."""
        before = self._workers()
        self._process.send_signal(signal.SIGHUP)
        until_s = time.monotonic() + _PATIENCE_S
        while self._workers() <= before:
            assert time.monotonic() < until_s, self.logs()
            time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_PATIENCE_S)
        self._output.close()

    def _nginx(self, upstream_port: int) -> tuple[list[str], dict[str, str]]:
        text = NGINX_FILE.read_text(encoding="utf-8")
        changes = {
            "listen 443 ssl http2;": f"listen 127.0.0.1:{self.port};",
            "    ssl_certificate     /etc/ssl/runwire/fullchain.pem;\n": "",
            "    ssl_certificate_key /etc/ssl/runwire/privkey.pem;\n": "",
            "server 127.0.0.1:8000 ": f"server 127.0.0.1:{upstream_port} ",
            "proxy_read_timeout 75s;": f"proxy_read_timeout {READ_TIMEOUT_S:g}s;",
            "/var/log/nginx/": f"{self._folder}/",
        }
        for old, new in changes.items():
            assert old in text, f"the snippet has no {old!r} any more"
            text = text.replace(old, new)
        (self._folder / "runwire.conf").write_text(text, encoding="utf-8")
        # Its workers would be another user, who may not read a test's folder.
        main = _NGINX_MAIN.format(folder=self._folder, user="user root;" if os.geteuid() == 0 else "")
        (self._folder / "nginx.conf").write_text(main, encoding="utf-8")
        own_log = f"{self._folder}/start.error.log"
        return [program("nginx"), "-p", f"{self._folder}", "-c", f"{self._folder}/nginx.conf", "-e", own_log], {}

    def _caddy(self, upstream_port: int) -> tuple[list[str], dict[str, str]]:
        text = CADDY_FILE.read_text(encoding="utf-8")
        assert "lb_try_duration 5s" in text
        # A test of servers that are away need not wait for them.
        (self._folder / "Caddyfile").write_text(text.replace("lb_try_duration 5s", "lb_try_duration 300ms"))
        environ = {
            "RUNWIRE_DOMAIN": self.url,
            "RUNWIRE_UPSTREAMS": f"127.0.0.1:{upstream_port}",
            "RUNWIRE_HEALTH_PORT": f"{upstream_port}",
            "HOME": f"{self._folder}",
            "CADDY_ADMIN": f"unix/{self._folder}/admin.sock",
        }
        return [program("caddy"), "run", "--config", f"{self._folder}/Caddyfile", "--adapter", "caddyfile"], environ

    def _until_up(self) -> None:
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None, f"{self.kind} ended: {self.logs()}"
                assert time.monotonic() < until_s, self.logs()
                time.sleep(0.02)
            else:
                return

    def _workers(self) -> set[int]:
        """Return the processes of nginx below its first."""
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="ascii")
        return {int(pid) for pid in listed.split()}
