"""What a person may rely on besides the events: offline runs, cancel, slow readers, withdrawn access, drain."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest
import websockets
from tests.mission_critical.deployment import Deployment
from tests.outside import Dismissed, Outside, assert_one_run, http


async def test_a_run_without_any_listener_is_whole_and_no_slower(deployment: Deployment) -> None:
    key = await deployment.key("offline")
    ann = Outside(deployment.url, key)
    async with ann.connected():
        sent = await ann.send("with me", agent="golden")
        watched = (await ann.until_end(sent["run"]))[-1]["data"]["duration_ms"]
    status, posted = await asyncio.to_thread(http, "POST", deployment.url + "/v1/threads", {}, token=key)
    assert status in (200, 201)
    thread = posted["thread"]
    status, run = await asyncio.to_thread(
        http,
        "POST",
        f"{deployment.url}/v1/threads/{thread}/messages",
        {"content": "alone", "agent": "golden"},
        token=key,
    )
    assert status == 202
    while (await asyncio.to_thread(ann.http, "GET", f"/v1/runs/{run['run']}"))[1]["status"] != "completed":
        pass  # each turn is a request: the deadline is the test's
    async with ann.connected():
        await ann.subscribe(thread, after=0)
        events = await ann.until_end(run["run"])
    assert_one_run(events, run["run"])
    assert events[-1]["data"]["duration_ms"] < 3 * watched + 200


async def test_cancel_stops_the_code_while_the_same_socket_streams(deployment: Deployment) -> None:
    ann = Outside(deployment.url, await deployment.key("ann"))
    async with ann.connected():
        sent = await ann.send("go on", agent="steady")
        probe = f"steady-{sent['run']}"
        await ann.until(lambda e: e["type"] == "text_delta", timeout_s=10)
        asked = time.monotonic()
        reply = await ann.command("cancel", run=sent["run"])
        assert reply["ok"], reply
        assert reply["data"]["run"] == sent["run"]
        held = ann.events[sent["thread"]]
        events = held if held[-1]["type"] == "agent_cancelled" else await ann.until_end(sent["run"])
        took_s = time.monotonic() - asked
        marks = deployment.marks(probe)
        assert events[-1]["type"] == "agent_cancelled"
        assert events[-1]["data"]["by"] == "user"
        assert took_s < 0.5, f"cancel took {took_s:.2f} s"
        # The same socket goes on streaming another run, by whose end the cancelled code has left no new mark.
        other = await ann.send("next", agent="golden")
        await ann.until_end(other["run"])
        assert deployment.marks(probe) == marks
        again = await ann.command("cancel", run=sent["run"])
        assert again["ok"]
        assert again["data"]["status"] == "cancelled"
    assert_one_run(ann.events[sent["thread"]], sent["run"])


@pytest.mark.timeout(90)
async def test_a_reader_that_never_reads_is_dropped_and_harms_nobody(
    own_deployment: Deployment, request: pytest.FixtureRequest
) -> None:
    server = own_deployment  # started with a short `slow_reader_s`
    key = await server.key("ann")
    bob = Outside(server.url, await server.key("bob"))
    stuck = Outside(server.url, key)
    raw = socket.socket()
    request.addfinalizer(raw.close)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072)
    host, port = server.url.removeprefix("http://").split(":")
    raw.connect((host, int(port)))
    raw.settimeout(30)
    raw.sendall(
        f"GET /v1/ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {key}\r\n\r\n".encode()
    )
    assert b"101" in raw.recv(4_096)
    ann = Outside(server.url, key)
    async with ann.connected():
        flood = await ann.send("1900", agent="flood")  # 7.6 MB, less than the 8 MiB an output may have
        body = json.dumps({"op": "subscribe", "id": "1", "thread": flood["thread"], "after": 0}).encode()
        mask = b"\x00\x00\x00\x00"
        raw.sendall(bytes([0x81, 0x80 | len(body)]) + mask + body)  # RFC 6455 §5.2, a masked text frame under 126 bytes
        async with bob.connected():  # somebody else, meanwhile, notices nothing
            other = await bob.send("hello", agent="golden")
            await bob.until_end(other["run"], timeout_s=10)
        events = await ann.until_end(flood["run"], timeout_s=60)
        assert events[-1]["type"] == "agent_completed"
    async with asyncio.timeout(3 * (3.0 + 2.0)):  # `slow_reader_s`, then 2 s for the close; three times that
        while "4008" not in await asyncio.to_thread(_metrics, server.url):
            pass  # each turn is a request
    assert await asyncio.to_thread(_drain_until_closed, raw), "the stuck socket was never ended"
    async with stuck.connected():  # it comes back and has everything
        await stuck.subscribe(flood["thread"], after=0)
        assert await stuck.until_end(flood["run"], timeout_s=60) == events


def _drain_until_closed(raw: socket.socket) -> bool:
    """Read what is still in the buffers; the server must have ended the connection."""
    try:
        while raw.recv(65_536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def _metrics(url: str) -> str:
    import urllib.request

    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


async def test_disabling_a_user_closes_its_sockets_in_a_second_and_nobody_elses(deployment: Deployment) -> None:
    eve, ann = (
        Outside(deployment.url, await deployment.key("eve")),
        Outside(deployment.url, await deployment.key("ann")),
    )
    async with ann.connected(), eve.connected():
        mine = await eve.send("go on", agent="steady")
        theirs = await ann.send("go on", agent="steady")
        await eve.until(lambda e: e["type"] == "text_delta")
        done = await deployment.disable("eve")
        closed = await _until_closed(eve)
        took_s = time.monotonic() - done
        assert closed == 4507
        assert took_s < 1, f"closed after {took_s:.2f} s"
        await ann.until(lambda e: e["type"] == "text_delta")
        await ann.command("cancel", run=theirs["run"])
    # The run of the disabled user ends as revoked, and its code acts for nobody: by the time that a whole other run
    # has passed it has left no new mark.
    async with ann.connected():
        await ann.until_end((await ann.send("hello", agent="golden"))["run"])
        marks = deployment.marks(f"steady-{mine['run']}")
        await ann.until_end((await ann.send("hello", agent="golden"))["run"])
    assert deployment.marks(f"steady-{mine['run']}") == marks
    await deployment.process.cli("user", "enable", "eve")
    again = Outside(deployment.url, await deployment.process.create_token("eve"))
    async with again.connected():
        await again.subscribe(mine["thread"], after=0)
        events = await again.until_end(mine["run"])
    assert events[-1]["type"] == "agent_cancelled"
    assert events[-1]["data"]["by"] == "revoked"
    with pytest.raises(Dismissed, match="4501"):  # the key from before stays dead
        async with eve.connected():
            pass


async def _until_closed(client: Outside, byes: list[tuple[int, bool]] | None = None) -> int | None:
    """Apply frames until the server ends the socket; give the close code, and note what `bye` says."""
    try:
        async with asyncio.timeout(15):
            while True:
                frame = await client.frame()
                client.apply(frame)
                if frame["op"] == "bye" and byes is not None:
                    byes.append((frame["code"], frame["reconnect"]))
    except websockets.ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


@pytest.mark.timeout(60)
async def test_sigterm_tells_clients_to_come_back_and_the_run_goes_on(own_deployment: Deployment) -> None:
    server = own_deployment
    ann = Outside(server.url, await server.key("ann"))
    async with ann.connected():
        sent = await ann.send("drain me", agent="journey")
        await ann.until(lambda e: e["type"] == "text_delta")
        codes: list[tuple[int, bool]] = []
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(server.stop())
            closed = await _until_closed(ann, codes)
    assert stopping.result() == 0
    assert not (server.process.data_dir / "control.sock").exists(), "it stopped whole, not by the signal"
    assert codes == [(4001, True)]
    assert closed == 4001
    await server.start()
    async with ann.connected():
        await ann.subscribe(sent["thread"])
        if ann.events[sent["thread"]][-1]["type"] != "agent_completed":
            await ann.until_end(sent["run"])
    assert_one_run(ann.events[sent["thread"]], sent["run"])
