"""Answers to waits: alike on a socket and over HTTP, first wins, and everybody who follows the thread sees it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest
from tests.unit.gateway.node import Node, Reader, running

from runwire.protocol.events import AgentWaiting, SubagentFailed, SubagentStarted
from runwire.storage.base import BusMessage, Wake
from runwire.storage.bus_local import LocalBus

APPROVAL = AgentWaiting(wait="wt_1", kind="approval", prompt="May I?")
INPUT = AgentWaiting(wait="wt_2", kind="input", prompt="Where?")


class RecordingBus(LocalBus):
    """A bus that remembers what it carried."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def publish(self, message: BusMessage) -> None:
        topic = message.topic if isinstance(message, Wake) else "committed"
        if topic != "beacon":
            self.heard.append(topic)
        super().publish(message)


@asynccontextmanager
async def joined(node: Node, name: str = "ann") -> AsyncIterator[Reader]:
    async with node.connect(name) as websocket:
        reader = Reader(websocket)
        await reader.frame()
        yield reader


@asynccontextmanager
async def waiting(*waits: AgentWaiting, bus: LocalBus | None = None, is_parked: bool = False) -> AsyncIterator[Any]:
    """A run of ann that waits, and her socket that started it."""
    async with running(bus=bus) as node, joined(node) as ann:
        run = (await ann.ask(op="send", content="hi"))["data"]["run"]
        await node.worker.wait(run, *waits, is_parked=is_parked)
        await seen(ann, "agent_waiting", count=len(waits))
        yield node, ann, run


async def seen(reader: Reader, kind: str, *, count: int = 1) -> list[dict[str, Any]]:
    """Apply frames until so many events of this type have come; return their data."""
    while len(found := [each["data"] for each in reader.events if each["type"] == kind]) < count:
        reader.apply(await reader.frame())
    return found


def person(node: Node, name: str = "ann") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=node.url, headers={"Authorization": f"Bearer t-{name}"}, timeout=10)


@pytest.mark.parametrize("is_parked", [False, True])
async def test_an_answer_reaches_every_socket_and_those_who_run_the_agent(is_parked: bool) -> None:
    bus = RecordingBus()
    async with waiting(APPROVAL, bus=bus, is_parked=is_parked) as (node, ann, run), joined(node) as tab:
        await tab.ask(op="subscribe", thread=ann.events[0]["thread"])
        bus.heard.clear()
        reply = await ann.ask(op="answer", run=run, wait="wt_1", value=True)
        assert reply["data"] == {"run": run, "wait": "wt_1"}
        for reader in (ann, tab):
            assert await seen(reader, "agent_resumed") == [{"wait": "wt_1", "value": True, "by": "usr_ann"}]
        assert bus.heard == ["committed", "runs" if is_parked else "signals"]


async def test_the_first_answer_wins_and_another_is_told_so() -> None:
    async with waiting(INPUT) as (node, ann, run), joined(node) as tab, person(node) as http:
        assert (await ann.ask(op="answer", run=run, wait="wt_2", value={"city": "Ulm", "n": 1}))["ok"]
        again = await tab.ask(op="answer", run=run, wait="wt_2", value={"n": 1.0, "city": "Ulm"})
        assert again["data"] == {"run": run, "wait": "wt_2"}
        other = await tab.ask(op="answer", run=run, wait="wt_2", value="Bonn")
        assert (other["error"]["code"], other["error"]["field"]) == ("conflict", "wait")
        assert "You have answered" in other["error"]["message"]
        assert "usr_" not in other["error"]["message"]
        over_http = await http.post(f"/v1/runs/{run}/answers", json={"wait": "wt_2", "value": "Bonn"})
        assert (over_http.status_code, over_http.json()["detail"]) == (409, other["error"]["message"])
        assert len(await seen(ann, "agent_resumed")) == 1


async def test_an_answer_over_http_is_the_same_and_may_be_repeated() -> None:
    async with waiting(APPROVAL) as (node, ann, run), person(node) as http:
        answers = [await http.post(f"/v1/runs/{run}/answers", json={"wait": "wt_1", "value": False}) for _ in range(2)]
        for answer in answers:
            assert (answer.status_code, answer.json()) == (200, {"run": run, "wait": "wt_1"})
        assert await seen(ann, "agent_resumed") == [{"wait": "wt_1", "value": False, "by": "usr_ann"}]
        assert (await ann.ask(op="answer", run=run, wait="wt_1", value=False))["ok"]


async def test_a_wait_that_is_over_says_how_it_ended() -> None:
    timer = AgentWaiting(wait="wt_3", kind="input", due_at=1)
    async with waiting(APPROVAL, timer) as (node, ann, run):
        await node.storage.runs.fire_timers()
        late = await ann.ask(op="answer", run=run, wait="wt_3", value="x")
        assert (late["error"]["code"], late["error"]["message"]) == ("conflict", "The time to answer this was over.")
        claim = await node.worker.claim(run)
        await node.worker.end(claim)
        ended = await ann.ask(op="answer", run=run, wait="wt_1", value=True)
        assert ended["error"]["code"] == "conflict"
        assert "has ended" in ended["error"]["message"]


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


# Value of the answer as JSON text, then code and field.
REFUSED: dict[str, tuple[str, str, str]] = {
    "a number for an approval": ("1", "bad_request", "value"),
    "null for an approval": ("null", "bad_request", "value"),
    "not a number": ("NaN", "bad_request", "value"),
    "infinite": ("[1e999]", "bad_request", "value"),
    "a NUL": ('{"a":"\\u0000"}', "bad_request", "value"),
    "a NUL in a name": ('{"\\u0000":1}', "bad_request", "value"),
    "a lone surrogate": ('["\\ud800"]', "bad_request", "value"),
    "over 64 KiB as it is stored": ("[" + ",".join(["1e15"] * 6_000) + "]", "too_large", "value"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_no_answer_may_be_is_refused_by_name_and_answers_nothing(case: str) -> None:
    value, code, field = REFUSED[case]
    async with waiting(APPROVAL) as (node, ann, run), person(node) as http:
        await ann.websocket.send(f'{{"op":"answer","id":"x","run":"{run}","wait":"wt_1","value":{value}}}')
        reply = await ann.frame()
        assert (reply["id"], reply["error"]["code"], reply["error"]["field"]) == ("x", code, field)
        answer = await http.post(f"/v1/runs/{run}/answers", content=f'{{"wait":"wt_1","value":{value}}}')
        assert (answer.json()["code"], answer.json()["field"]) == (code, field)
        assert (await ann.ask(op="answer", run=run, wait="wt_1", value=True))["ok"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"wait": "wt_1"}, 400, "value"),
        ({"value": True}, 400, "wait"),
        ({"wait": 1, "value": True}, 400, "wait"),
        ({"wait": "wt_1", "value": True, "user": "usr_bob"}, 400, "user"),
        ({"wait": "wt_\0", "value": True}, 400, "wait"),
        ({"wait": "wt_9", "value": True}, 404, "wait"),
        ({"wait": "", "value": True}, 404, "wait"),
        ({"wait": "wt_t", "value": None}, 400, "wait"),
    ],
)
async def test_a_wrong_body_is_refused_by_name(body: dict[str, Any], status: int, field: str) -> None:
    timer = AgentWaiting(wait="wt_t", kind="timer", due_at=2**42)
    async with waiting(APPROVAL, timer) as (node, ann, run), person(node) as http:
        refused = await http.post(f"/v1/runs/{run}/answers", json=body)
        assert (refused.status_code, refused.json()["field"]) == (status, field), refused.text
        reply = await ann.ask(op="answer", run=run, **body)
        assert (reply["error"]["code"], reply["error"]["field"]) == (refused.json()["code"], field)


async def test_a_value_that_is_too_deep_ends_a_socket_and_is_refused_over_http() -> None:
    """PROTOCOL §3: what is deeper than 64 is no frame."""
    async with waiting(INPUT) as (node, ann, run), person(node) as http:
        fits = await http.post(f"/v1/runs/{run}/answers", content=f'{{"wait":"wt_2","value":{deep(63)}}}')
        assert fits.status_code == 200, fits.text
        refused = await http.post(f"/v1/runs/{run}/answers", content=f'{{"wait":"wt_2","value":{deep(64)}}}')
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")
        await seen(ann, "agent_resumed")
        await ann.websocket.send(f'{{"op":"answer","id":"x","run":"{run}","wait":"wt_2","value":{deep(64)}}}')
        assert (await ann.closed())[1] == 4500


async def test_the_waits_of_others_do_not_exist() -> None:
    async with waiting(APPROVAL) as (node, ann, run), joined(node, "bob") as bob, person(node, "bob") as http:
        answers = []
        for each in (run, "run_" + "0" * 32):
            over_http = await http.post(f"/v1/runs/{each}/answers", json={"wait": "wt_1", "value": True})
            on_socket = await bob.ask(op="answer", run=each, wait="wt_1", value=True)
            answers.append((over_http.status_code, over_http.text, on_socket["error"]))
        assert answers[0] == answers[1]
        assert answers[0][0] == 404
        assert (await ann.ask(op="answer", run=run, wait="wt_1", value=False))["ok"]


async def test_a_cancel_never_waits_for_an_answer() -> None:
    async with waiting(APPROVAL, INPUT, is_parked=True) as (_, ann, run):
        said = [
            {"op": "answer", "id": "a", "run": run, "wait": "wt_1", "value": True},
            {"op": "cancel", "id": "c", "run": run},
        ]
        await ann.websocket.send(json.dumps(said))
        frames: dict[str, dict[str, Any]] = {}
        while len(frames) < 2:
            frame = await ann.frame()
            if not ann.apply(frame):
                frames[frame["id"]] = frame
        assert frames["c"]["ok"]


def types(reader: Reader) -> list[str]:
    return [each["type"] for each in reader.events]


CLOSING = (SubagentFailed(span="sp_1", code="cancelled", message="The run was called off."),)


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_calling_off_a_parked_run_shows_its_end_in_order_on_every_socket(how: str) -> None:
    async with running() as node, AsyncExitStack() as stack:
        ann = await stack.enter_async_context(joined(node))
        sent = (await ann.ask(op="send", content="hi"))["data"]
        tab = await stack.enter_async_context(joined(node))
        await tab.ask(op="subscribe", thread=sent["thread"])
        claim = await node.worker.claim(sent["run"])
        await node.worker.append(claim, [SubagentStarted(span="sp_1", agent="helper")])
        await node.worker.wait(sent["run"], APPROVAL, is_parked=True, closing=CLOSING)
        await seen(tab, "agent_waiting")
        if how == "cancel":
            assert (await ann.ask(op="cancel", run=sent["run"]))["data"]["status"] == "cancelled"
        else:
            reply = await ann.ask(op="send", thread=sent["thread"], content="ho", on_active="interrupt")
            assert reply["data"]["after"] == reply["data"]["seq"] - 4  # before what the same write ended
        ended = ["subagent_failed", "agent_resumed", "agent_cancelled"] + (
            ["user_message"] if how == "interrupt" else []
        )
        for reader in (ann, tab):
            await seen(reader, "agent_cancelled")
            if how == "interrupt":
                await seen(reader, "user_message", count=2)
            assert types(reader)[-len(ended) :] == ended
        if how == "interrupt":
            assert (await node.worker.claim(reply["data"]["run"])).run == reply["data"]["run"]


@pytest.mark.parametrize("is_parked", [False, True])
async def test_other_policies_see_a_run_that_waits(is_parked: bool) -> None:
    async with waiting(APPROVAL, is_parked=is_parked) as (node, ann, _):
        thread = ann.events[0]["thread"]
        refused = await ann.ask(op="send", thread=thread, content="ho", on_active="reject")
        assert refused["error"]["code"] == "run_active"
        queued = (await ann.ask(op="send", thread=thread, content="ho"))["data"]["run"]
        assert await node.storage.runs.claim("w2", agents=["echo"], limit=9, user_limit=9) == []
        assert (await node.storage.runs.get("usr_ann", queued)).status == "queued"


async def test_a_run_and_its_thread_show_what_it_waits_for() -> None:
    async with waiting(APPROVAL, INPUT, is_parked=True) as (node, ann, run), person(node) as http:
        thread = ann.events[0]["thread"]
        shown = (await http.get(f"/v1/runs/{run}")).json()
        assert (shown["status"], [each["by"] for each in shown["waits"]]) == ("waiting", [None, None])
        assert shown["waits"][0] == {
            "wait": "wt_1",
            "kind": "approval",
            "prompt": "May I?",
            "call": None,
            "due_at": None,
            "value": None,
            "by": None,
        }
        await ann.ask(op="answer", run=run, wait="wt_1", value=True)
        await ann.ask(op="answer", run=run, wait="wt_2", value="Ulm")
        shown = (await http.get(f"/v1/runs/{run}")).json()
        assert shown["status"] == "running"  # for people; the row waits to be claimed
        assert [(each["value"], each["by"]) for each in shown["waits"]] == [(True, "usr_ann"), ("Ulm", "usr_ann")]
        (in_thread,) = (await http.get(f"/v1/threads/{thread}")).json()["runs"]
        assert in_thread["waits"] == shown["waits"]
        assert in_thread["status"] == "running"
        listed = (await http.get("/v1/runs", params={"status": "waiting"})).json()["items"]
        assert [each["run"] for each in listed] == [run]


async def test_a_run_shows_its_steps_spans_and_output() -> None:
    async with running() as node, joined(node) as ann, person(node) as http:
        run = (await ann.ask(op="send", content="hi"))["data"]["run"]
        queued = (await http.get(f"/v1/runs/{run}")).json()
        assert (queued["status"], queued["steps"], queued["waits"], queued["spans"]) == ("queued", [], [], [])
        await node.worker.whole_run(run)
        shown = (await http.get(f"/v1/runs/{run}")).json()
        assert (shown["status"], shown["output"]) == ("completed", "word0 word1 word2 word3 word4 ")
        assert [(step["name"], step["ok"], step["result"]) for step in shown["steps"]] == [("t", True, 1)]
        listed = (await http.get("/v1/runs")).json()["items"]
        assert shown == listed[0] | {name: shown[name] for name in ("steps", "waits", "spans", "output")}


async def test_an_answer_is_stored_though_its_socket_is_gone() -> None:
    async with waiting(APPROVAL) as (node, ann, run):
        await ann.say(op="answer", run=run, wait="wt_1", value=True)
        await ann.websocket.close()
        async with joined(node) as again:
            await again.ask(op="subscribe", thread=ann.events[0]["thread"])
            assert await seen(again, "agent_resumed") == [{"wait": "wt_1", "value": True, "by": "usr_ann"}]
