"""A real server in its own process, as the mission-critical tests see it: from outside."""

from __future__ import annotations

import time
from pathlib import Path

from runwire.testing.server import ServerProcess

AGENTS = Path(__file__).resolve().parent.parent / "agents" / "golden.py"


class Deployment:
    """One server, its users' keys, and the folder where its agents leave marks."""

    def __init__(self, folder: Path, *, agents: Path = AGENTS, **settings: float) -> None:
        self.probes = folder / "probes"
        self.probes.mkdir(parents=True)
        toml = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self.probes / "runwire.toml").write_text(toml, encoding="utf-8")
        self.process = ServerProcess(f"{agents}", data_dir=folder / "data", cwd=self.probes)
        self._keys: dict[str, str] = {}

    def marks(self, name: str) -> list[str]:
        """Give the lines that agents left under a name."""
        return (self.probes / name).read_text(encoding="utf-8").splitlines()

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def keys(self) -> list[str]:
        """Give the API keys of all users made here."""
        return list(self._keys.values())

    async def key(self, name: str) -> str:
        """Give the user's API key; the user is made on first use."""
        if name not in self._keys:
            self._keys[name] = await self.process.create_user(name)
        return self._keys[name]

    async def start(self) -> None:
        await self.process.start()

    async def kill9(self) -> None:
        await self.process.kill9()

    async def stop(self) -> int:
        """Send SIGTERM, wait, and give the exit status."""
        return await self.process.stop()

    async def disable(self, name: str) -> float:
        """Disable a user beside the running server; give the monotonic time at which that was done."""
        await self.process.cli("user", "disable", name)
        return time.monotonic()
