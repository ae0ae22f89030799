"""The files of `deploy/proxy` in front of a real server: sockets, streams, limits, addresses, and what is logged."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.deploy.live.proxy import CADDY_FILE, NGINX_FILE, READ_TIMEOUT_S, Proxy, free_port, program
from tests.mission_critical.deployment import Deployment
from tests.outside import Outside, assert_one_run

PING_S = 0.25  # a twelfth of the proxy's patience
ATTEMPTS = 30  # failed sign-ins of one address until it must wait
SECRET = "s3cr3t" * 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("server"), ping_s=PING_S, pong_s=10.0)
    settings = deployment.probes / "runwire.toml"
    settings.write_text(settings.read_text(encoding="utf-8") + 'trusted_proxies = ["127.0.0.1"]\n', encoding="utf-8")
    asyncio.run(deployment.start())
    try:
        asyncio.run(deployment.key("ann"))
        yield deployment
    finally:
        asyncio.run(deployment.kill9())


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxy(
    request: pytest.FixtureRequest, server: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    started = Proxy(request.param, server.process.port, tmp_path_factory.mktemp(request.param))
    yield started
    started.stop()


@pytest.fixture
async def ann(server: Deployment, proxy: Proxy) -> Outside:
    return Outside(proxy.url, await server.key("ann"))


async def test_a_run_is_seen_whole_over_a_socket_through_the_proxy(ann: Outside) -> None:
    async with ann.connected() as welcome:
        assert welcome["ping_s"] == PING_S
        sent = await ann.send("tin and copper", agent="golden")
        assert_one_run(await ann.until_end(sent["run"]), sent["run"])


async def test_events_of_a_stream_come_while_the_run_goes_on(ann: Outside, server: Deployment) -> None:
    go_on = server.probes / "go on"
    go_on.unlink(missing_ok=True)
    async with ann.connected():
        sent = await ann.send("listen", agent="pausing")
    path = f"{ann.url}/v1/threads/{sent['thread']}/events?after=0&log={sent['log']}&until={sent['run']}"
    headers = {"Authorization": f"Bearer {ann.token}", "Accept": "text/event-stream"}
    kinds: list[str] = []
    async with (
        asyncio.timeout(15),
        httpx2.AsyncClient(trust_env=False) as client,
        client.stream("GET", path, headers=headers) as stream,
    ):
        assert stream.status_code == 200
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                kinds.append(json.loads(line.removeprefix("data: ")).get("type", ""))
            if kinds.count("message_started") == 3 and not go_on.exists():
                # The run stands still until this file is there: nothing of what came waited for its end.
                go_on.touch()
    assert kinds[-1] == "agent_completed"


def _post(url: str, body: bytes, token: str) -> tuple[int, bytes]:
    with httpx2.Client(trust_env=False, timeout=15) as client:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        answer = client.post(f"{url}/v1/threads", content=body, headers=headers)
        return answer.status_code, answer.content


async def test_a_body_over_the_servers_limit_is_refused_by_it_and_a_huge_one_by_the_proxy(
    ann: Outside, proxy: Proxy
) -> None:
    status, said = _post(ann.url, b'{"title":"' + b"x" * 100_000 + b'"}', ann.token)
    assert (status, json.loads(said)["code"]) == (413, "too_large")
    status, said = _post(ann.url, b'{"title":"' + b"x" * 1_000_000 + b'"}', ann.token)
    # Caddy sends on what it has until the limit, and old ones say that the server has failed.
    assert status in ((413,) if proxy.kind == "nginx" else (413, 502))
    assert b"too_large" not in said


def _sign_in(proxy: Proxy, *, source: str, claimed: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=15, source_address=(source, 0))
    try:
        body = json.dumps({"link": SECRET[:43]})
        headers = {"Content-Type": "application/json", "X-Forwarded-For": claimed, "Forwarded": f"for={claimed}"}
        connection.request("POST", "/auth/sessions", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_server_learns_who_asks_from_the_proxy_and_not_from_who_asks(proxy: Proxy) -> None:
    # Of its own, so that proxies do not share what is left of an address' attempts.
    guesser, other = ("127.0.0.21", "127.0.0.22") if proxy.kind == "nginx" else ("127.0.0.31", "127.0.0.32")
    told = [_sign_in(proxy, source=guesser, claimed=f"192.0.2.{n}") for n in range(ATTEMPTS * 2)]
    assert told[0] == 401
    assert told[-1] == 429, "each claimed address had attempts of its own"
    assert _sign_in(proxy, source=other, claimed="192.0.2.1") == 401, "all people share the proxy's attempts"


async def test_figures_and_health_are_not_for_everybody(ann: Outside, server: Deployment) -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        for path in ("/metrics", "/health/ready", "/health/live"):
            assert (await client.get(server.url + path)).status_code == 200
            assert (await client.get(ann.url + path)).status_code == 404
        assert (await client.get(f"{ann.url}/")).status_code == 200


def _ask_with_secrets(port: int) -> list[int]:
    """Ask in every way in which a secret may be told; give the answers' statuses."""
    statuses: list[int] = []
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    for path, headers in (
        (f"/v1/ws?ticket={SECRET}", upgrade | {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}),
        (f"/v1/me?token={SECRET}", {"Authorization": f"Bearer {SECRET}", "Cookie": f"a={SECRET}"}),
        (f"/?link={SECRET}", {"Referer": f"https://agents.example.org/?link={SECRET}"}),
        ("/v1/ws", upgrade | {"Sec-WebSocket-Protocol": f"runwire.v1, bearer.{SECRET}"}),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        try:
            connection.request("GET", path, headers=headers)
            statuses.append(connection.getresponse().status)
        finally:
            connection.close()
    return statuses


def test_no_secret_is_logged(proxy: Proxy) -> None:
    assert _ask_with_secrets(proxy.port)[2] == 200
    assert "/v1/me" in proxy.logs(), "requests are logged"
    assert SECRET not in proxy.logs()


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_no_secret_is_logged_when_the_server_is_away(kind: str, tmp_path: Path) -> None:
    proxy = Proxy(kind, free_port(), tmp_path)
    try:
        assert set(_ask_with_secrets(proxy.port)) <= {502, 503}
    finally:
        proxy.stop()
    assert "/v1/me" in proxy.logs(), "requests are logged"
    assert SECRET not in proxy.logs()


async def test_a_quiet_socket_outlives_the_patience_of_nginx_and_a_reload(server: Deployment, tmp_path: Path) -> None:
    key = await server.key("ann")
    proxy = Proxy("nginx", server.process.port, tmp_path)
    ann = Outside(proxy.url, key)
    try:
        async with ann.connected():
            with pytest.raises(TimeoutError):
                # Nothing but pings comes; a socket that was closed would raise something else.
                async with asyncio.timeout(READ_TIMEOUT_S + 1.0):
                    await ann.frame()
            await asyncio.to_thread(proxy.reload)  # which cuts no socket either
            sent = await ann.send("still here", agent="plain")
            assert_one_run(await ann.until_end(sent["run"]), sent["run"])
            again = Outside(proxy.url, ann.token)
            async with again.connected():
                sent = await again.send("here, too", agent="plain")
                assert_one_run(await again.until_end(sent["run"]), sent["run"])
    finally:
        await asyncio.to_thread(proxy.stop)


def test_nginx_takes_the_file_as_it_is(tmp_path: Path) -> None:
    nginx, openssl = program("nginx"), program("openssl")
    pair = [str(tmp_path / name) for name in ("privkey.pem", "fullchain.pem")]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words = [openssl, "req", "-x509", *kind, "-subj", "/CN=x", "-days", "1", "-keyout", pair[0], "-out", pair[1]]
    subprocess.run(words, check=True, capture_output=True, timeout=20)
    text = NGINX_FILE.read_text(encoding="utf-8").replace("/etc/ssl/runwire", f"{tmp_path}")
    text = text.replace("/var/log/nginx", f"{tmp_path}").replace("listen 443", f"listen 127.0.0.1:{free_port()}")
    (tmp_path / "runwire.conf").write_text(text, encoding="utf-8")
    main = f"pid {tmp_path}/pid; events {{}} http {{ include {tmp_path}/runwire.conf; }}"
    (tmp_path / "nginx.conf").write_text(main, encoding="utf-8")
    words = [nginx, "-t", "-p", f"{tmp_path}", "-c", f"{tmp_path}/nginx.conf", "-e", f"{tmp_path}/error.log"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


def test_caddy_takes_the_file_as_it_is(tmp_path: Path) -> None:
    words = [program("caddy"), "validate", "--config", f"{CADDY_FILE}", "--adapter", "caddyfile"]
    environ = {"HOME": f"{tmp_path}", "RUNWIRE_DOMAIN": "agents.example.org", "RUNWIRE_UPSTREAMS": "one:8000 two:8000"}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
