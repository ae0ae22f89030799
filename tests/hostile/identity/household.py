"""A server whose secrets are all known to the test, so that it can forge what an attacker would have to steal."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

import httpx2
from joserfc.jwk import ECKey
from tests.jwt.corpus import Mint
from tests.mission_critical.deployment import AGENTS

from runwire import app
from runwire.auth import tokens
from runwire.settings import load
from runwire.testing.server import ServerProcess

__all__ = ["CANARY", "SECRET", "Household", "claims_of"]

CANARY: Final = "canary-of-a-password-91c4"
SECRET: Final = "canary-of-the-service-" + "s" * 32
PROXY: Final = "127.0.0.77"  # of all that this machine calls its own: who comes from there is a trusted proxy


class Household:
    """One server and its people: ada and bob have passwords, root is an administrator."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        told = {"service_secret": SECRET, "log_level": "debug", "trusted_proxies": [PROXY], "registration": "invite"}
        told |= settings
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in told.items()]
        (folder / "runwire.toml").write_text("".join(lines), encoding="utf-8")
        self.process = ServerProcess(str(AGENTS), data_dir=folder / "data", cwd=folder, start_timeout_s=90.0)
        self.secrets: set[str] = {SECRET}  # everything that no log may show

    async def start(self) -> None:
        """Start the server, with people in it."""
        await self.process.start()
        for name, role in (("ada", "user"), ("bob", "user"), ("root", "admin")):
            await self.ask("user_add", name=name, password=self.password(name), roles=[role])

    async def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Carry out a verb of the command line beside the server, without the second that a process takes to start."""
        settings = load({"data_dir": self.process.data_dir}, environ={}, serves=False).settings
        return await app.administer(settings, verb, **arguments)

    async def api_key(self, name: str) -> str:
        """Return a new API key of a person."""
        key: str = (await self.ask("token_create", name=name))["key"]
        self.secrets.add(key)
        return key

    def password(self, name: str) -> str:
        """Return a person's password."""
        password = f"{CANARY}-{name}"
        self.secrets.add(password)
        return password

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def port(self) -> int:
        return self.process.port

    def http(self, **options: Any) -> httpx2.AsyncClient:
        """Return a client of the server."""
        # Without certificates: reading them takes longer than many a test.
        return httpx2.AsyncClient(base_url=self.url, timeout=30, verify=False, trust_env=False, **options)

    async def sign_in(self, name: str) -> dict[str, Any]:
        """Sign a person in; give what the server granted."""
        async with self.http() as http:
            answer = await http.post("/auth/sessions", json={"user": name, "password": self.password(name)})
        assert answer.status_code == 201, answer.text
        granted: dict[str, Any] = answer.json()
        self.secrets |= {granted["access_token"], granted["refresh_token"]}
        return granted

    def signing_key(self) -> tuple[str, ECKey]:
        """Return the newest signing key: what an attacker who has the database could sign with."""
        file = f"file:{self.process.data_dir / 'runwire.db'}?mode=ro"
        connection = sqlite3.connect(file, uri=True)
        try:
            rows = connection.execute("SELECT kid, private_jwk FROM auth_signing_key ORDER BY created_at").fetchall()
        finally:
            connection.close()
        kid, private_jwk = rows[-1]
        return str(kid), tokens.read_signing_key(bytes(private_jwk))

    async def mint(self, name: str) -> Mint:
        """Return what makes tokens of a person's real session, and such that differ from these by one fault."""
        kid, key = self.signing_key()
        claims = claims_of((await self.sign_in(name))["access_token"])
        now_s = int(time.time())  # noqa: TID251 - the server's clock
        return Mint(key=key, kid=kid, now_s=now_s, slack_s=120, good={**claims, "iat": now_s, "exp": now_s + 300})

    async def introspected(self, token: str, *, http: httpx2.AsyncClient) -> dict[str, Any]:
        """Ask the service what a token is good for."""
        answer = await http.post(
            "/auth/introspect", data={"token": token}, headers={"authorization": f"Bearer {SECRET}"}
        )
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json()
        return said

    async def end(self) -> None:
        """Kill the server."""
        await self.process.kill9()


def claims_of(token: str) -> dict[str, Any]:
    """Return what an access token says, unchecked."""
    body = token.split(".")[1]
    claims: dict[str, Any] = json.loads(tokens._decoded(body))
    return claims


def started(folder: Path) -> Household:
    """Start one in a test that is not asynchronous itself."""
    household = Household(folder)
    asyncio.run(household.start())
    return household
