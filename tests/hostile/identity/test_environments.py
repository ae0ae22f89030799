"""In every environment alike: nothing about tokens is done for who proves nothing. There is no demo mode."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

import httpx2
import pytest
from tests.hostile.identity.household import SECRET
from tests.mission_critical.deployment import AGENTS
from tests.unit.auth.house import open_house

import runwire
from runwire.app.doors import Doors
from runwire.app.process import running
from runwire.auth.forward import Forwarded
from runwire.auth.service.app import make_auth_app
from runwire.auth.service.settings import AuthSettings
from runwire.errors import Unavailable
from runwire.gateway.health import HealthRoutes
from runwire.settings import Settings, load
from runwire.storage.memory.auth import MemoryAuthStore
from runwire.storage.open import open_storage

ENVIRONMENTS: Final[tuple[str, ...]] = get_args(Settings.model_fields["environment"].annotation)
# What mints, describes, ends or changes something: (method, path, body).
ASKED: Final[tuple[tuple[str, str, dict[str, str]], ...]] = (
    ("POST", "/auth/token", {"grant_type": "refresh_token", "refresh_token": "rwr_" + "0" * 32 + "_1_" + "a" * 43}),
    ("POST", "/auth/token", {"grant_type": "client_credentials", "client_id": "root", "client_secret": "root"}),
    ("POST", "/auth/token", {"grant_type": "password", "username": "admin", "password": "admin"}),
    ("POST", "/auth/sessions", {"user": "admin", "password": "admin"}),
    ("POST", "/auth/sessions", {"user": "demo", "password": "demo"}),
    ("POST", "/auth/sessions", {"link": "demo"}),
    ("POST", "/auth/introspect", {"token": "x"}),
    ("POST", "/internal/introspect", {"keys": "x"}),
    ("GET", "/internal/about", {}),
    ("DELETE", "/auth/sessions/current", {}),
    ("GET", "/v1/me", {}),
    ("GET", "/v1/threads/th_0/events", {}),
    ("GET", "/auth/users", {}),
    ("POST", "/auth/users", {"name": "thief"}),
    ("POST", "/auth/signing-keys", {}),
    ("GET", "/auth/audit", {}),
)
REFUSED: Final = {400, 401, 403, 404, 405, 501}
CREDENTIALS: Final[Mapping[str, Mapping[str, str]]] = {
    "none": {},
    "a wrong service secret": {"authorization": f"Bearer {SECRET}x"},
    "an empty one": {"authorization": "Bearer"},
    "a part of it": {"authorization": f"Bearer {SECRET[:-1]}"},
    "in the gateway's own header": {"x-runwire-service": SECRET + "x", "x-forwarded-for": "127.0.0.1"},
    "what a demo might take": {"authorization": "Bearer demo", "x-demo": "1", "x-user": "admin", "x-emergency": "1"},
}


async def refused(http: httpx2.AsyncClient) -> None:
    for method, path, body in ASKED:
        for name, headers in CREDENTIALS.items():
            if (method, path) == ("POST", "/auth/sessions") and name not in ("none", "what a demo might take"):
                continue  # a hash each
            is_form = path in ("/auth/token", "/auth/introspect")
            sent: dict[str, Any] = {} if not body else {"data": body} if is_form else {"json": body}
            answer = await http.request(method, path, headers=headers, **sent)
            if answer.status_code == 429:
                continue  # tried too often: no is no
            assert answer.status_code in REFUSED, (method, path, name, answer.status_code)
            assert "access_token" not in answer.text
            assert "active" not in answer.text


@pytest.mark.parametrize("environment", ENVIRONMENTS)
async def test_whoever_proves_nothing_is_refused_by_the_whole_server(tmp_path: Path, environment: str) -> None:
    flags = {
        "environment": environment,
        "data_dir": tmp_path / "data",
        "port": 0,
        "agents": (str(AGENTS),),
        "service_secret": SECRET,
        "log_level": "error",
    }
    async with (
        running(load(flags, environ={})) as (url, link),
        httpx2.AsyncClient(base_url=url, verify=False, trust_env=False, timeout=30) as http,
    ):
        assert (link is not None) is (environment == "development"), "a link only for the person at the machine"
        await refused(http)
        assert (await http.get("/health/live")).status_code == 200


@pytest.mark.parametrize("secrets", [(), (SECRET,), (SECRET, "next-" * 8)])
async def test_whoever_proves_nothing_is_refused_by_an_auth_service_of_its_own(secrets: tuple[str, ...]) -> None:
    store = MemoryAuthStore()
    settings = AuthSettings(service_secrets=secrets, argon2_memory_kib=8, argon2_passes=1, argon2_lanes=1)
    service = Forwarded(make_auth_app(store, settings), secrets=secrets)
    health = HealthRoutes(
        storages=[], is_running=lambda: True, is_draining=lambda: False, unready=lambda: None, figures=lambda: b""
    )
    transport = httpx2.ASGITransport(app=Doors(health, service))
    async with httpx2.AsyncClient(transport=transport, base_url="http://auth") as http:
        await refused(http)
        for secret in secrets:
            answer = await http.get("/internal/about", headers={"authorization": f"Bearer {secret}"})
            assert answer.status_code == 200, "and whoever proves it is answered"


def test_nothing_about_identity_depends_on_the_environment() -> None:
    """The setting is not even known there: nothing below the composition reads it."""
    root = Path(runwire.__file__).parent
    readers = [
        path.relative_to(root).as_posix()
        for room in ("auth", "gateway", "storage")
        for path in (root / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "environment"
    ]
    assert readers == []


async def test_b23_a_refused_service_secret_is_what_readiness_says(tmp_path: Path) -> None:
    storage = await open_storage("memory://")
    async with open_house("memory", tmp_path, secrets=("another" * 10,), checks=False) as house:
        health = HealthRoutes(
            storages=[storage],
            is_running=lambda: True,
            is_draining=lambda: False,
            unready=house.client.unready,
            figures=lambda: b"",
        )
        transport = httpx2.ASGITransport(app=Doors(health, None))
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as http:
            assert (await http.get("/health/live")).status_code == 200
            with pytest.raises(Unavailable):
                await house.client.check()
            answer = await http.get("/health/ready")
            assert (answer.status_code, answer.json()["reason"]) == (503, "service_secret_refused")
            assert (await http.get("/health/live")).status_code == 200, "nobody restarts it for that"
