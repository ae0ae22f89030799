"""What cannot work is said at the start: every fault at once, exit status 78, no password shown."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from tests.cluster.deployment import SECRET, Cluster

from runwire.app import parts
from runwire.auth.client import AuthClient, AuthClientSettings
from runwire.auth.follower import Follower
from runwire.errors import Unavailable
from runwire.storage.bus_local import LocalBus
from runwire.storage.memory.auth import MemoryAuthStore


def start(folder: Path, *words: str) -> tuple[int, list[str]]:
    """Start a server that must not start; give its exit status and what it said."""
    command = [sys.executable, "-m", "runwire", "serve", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


def test_role_without_what_it_needs_gets_one_list(tmp_path: Path) -> None:
    (tmp_path / "runwire.toml").write_text('redis_url = "http://ada:hush@redis"\n', encoding="utf-8")
    status, said = start(tmp_path, "--role", "gateway", "--role", "worker", "--port", "0")
    assert status == 78
    named = [line.removeprefix("configuration: ").split()[0].rstrip(":") for line in said]
    assert sorted(named) == ["auth_url", "database_url", "public_url", "redis_url", "service_secret"]
    assert "hush" not in "".join(said)


def test_unknown_role_is_named(tmp_path: Path) -> None:
    status, said = start(tmp_path, "--role", "gatway")
    assert status == 78
    assert any("`gatway` (did you mean `gateway`?)" in line for line in said)


def test_worker_without_agents_and_with_a_taken_port_is_told_both(cluster: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "worker.toml"
    config.write_text(f'database_url = "{cluster.url}"\nenvironment = "test"\n', encoding="utf-8")
    taken = str(cluster.auths[0].port)
    status, said = start(tmp_path, "--role", "worker", "--config", str(config), "--port", taken)
    assert status == 78
    agents, port = (line.removeprefix("configuration: ") for line in said if line.startswith("configuration: "))
    assert "agent" in agents
    assert port.startswith(f"port: cannot listen on 127.0.0.1:{taken}")


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda _request: httpx2.Response(401), "shows no usable keys"),
        (None, "does not answer"),
    ],
)
async def test_gateway_waits_for_its_auth_service_in_sight_and_then_gives_up(
    monkeypatch: pytest.MonkeyPatch, answer: object, word: str
) -> None:
    def away(_request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("https://auth.internal and a secret")

    monkeypatch.setattr(parts, "_AUTH_PATIENCE_S", 0.4)
    monkeypatch.setattr(parts, "_AUTH_RETRY_S", 0.05)
    said: list[str] = []
    transport = httpx2.MockTransport(answer or away)  # type: ignore[arg-type]  # a handler, as parametrised above
    store = MemoryAuthStore()
    follower = Follower(store=store, bus=LocalBus())
    async with httpx2.AsyncClient(transport=transport, base_url="https://auth.internal") as http:
        settings = AuthClientSettings(service_secret=SECRET)
        client = AuthClient(http=http, store=store, follower=follower, settings=settings)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.run()) for each in (follower, client)]
            with pytest.raises(Unavailable, match=r"auth_url https://auth\.internal") as refused:
                await parts._await_auth(client, "https://auth.internal", lambda _part, line: said.append(line))
            for task in running:
                task.cancel()
    assert word in refused.value.message
    assert "and a secret" not in refused.value.message
    assert len(said) == len(set(said)) >= 1, "each reason is said once"
