"""The agent under test as many processes: `runwire cluster`, with a PostgreSQL and a Redis of this machine."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from runwire.testing.server import ServerProcess

__all__ = ["ClusterProcess"]


class ClusterProcess(ServerProcess):
    """`runwire cluster` with one gateway, one worker and an auth service; used as a `ServerProcess` is."""

    says = ("gateway1 ",)

    def __init__(self, target: str, *, data_dir: Path, cwd: Path | None = None) -> None:
        super().__init__(target, data_dir=data_dir, port=_free_port(), cwd=cwd, start_timeout_s=120.0)
        self.cli_cwd = data_dir  # where its settings are

    async def end(self) -> None:
        """Stop all its processes, each of which has a session of its own."""
        if self.is_running:
            await self.stop()

    def _command(self) -> list[str]:
        words = [sys.executable, "-m", "runwire", "cluster", *([self.target] if self.target else [])]
        return [*words, "--gateways", "1", "--workers", "1", "--port", str(self.port), "--data-dir", str(self.data_dir)]

    def _reached(self, found: list[str]) -> tuple[str, str]:
        url, _, link = found[0].split()[:3]  # `http://…  sign-in http://…`
        return url, link


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
