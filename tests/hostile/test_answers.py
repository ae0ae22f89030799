"""Answers that are not theirs to give, too many answers, and waits that nobody has."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

from tests.hostile.raw import say, socket
from tests.hostile.target import CANARY, Target
from tests.hostile.test_ids import exact
from tests.outside import Outside

_UNKNOWN_RUN = "run_" + "f" * 32
_SHAPES = ("wt_0", "", " ", "*", "%", "_", "../wt", "WT_" + "f" * 32, "' OR 1=1 --", "x" * 60_000, "null", "💥")


async def waiting(client: Outside) -> tuple[str, str]:
    """Start a run that asks for approval; return it and what it waits for."""
    sent = await client.send("careful now", agent="careful")
    found: list[str] = []

    def is_waiting(event: dict[str, Any]) -> bool:
        if event["type"] == "agent_waiting" and event["run"] == sent["run"]:
            found.append(event["data"]["wait"])
        return bool(found)

    await client.until(is_waiting)
    return sent["run"], found[0]


async def test_another_persons_wait_is_answered_as_one_that_does_not_exist(target: Target) -> None:
    ann, mallory = target.client(await target.key("ann")), target.client(await target.key("mallory"))
    async with ann.connected():
        run, wait = await waiting(ann)
        async with socket(target.port, await target.key("mallory")) as raw:
            for value in (True, False, None, CANARY):
                command = {"op": "answer", "wait": wait, "value": value}
                told = [await exact(raw, {**command, "run": each}) for each in (run, _UNKNOWN_RUN)]
                assert told[0] == told[1]
                assert json.loads(told[0])["error"]["code"] == "not_found"
        for path, body in (("answers", {"wait": wait, "value": True}), ("retry", {}), ("cancel", {})):
            answers = [
                await asyncio.to_thread(mallory.http, "POST", f"/v1/runs/{each}/{path}", body)
                for each in (run, _UNKNOWN_RUN)
            ]
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
        assert (await ann.command("answer", run=run, wait=wait, value=False))["ok"]
        events = await ann.until_end(run)
    (resumed,) = [event["data"] for event in events if event["type"] == "agent_resumed"]
    assert resumed["value"] is False, "a forged answer was taken"


async def test_of_1000_answers_at_once_one_wins_and_each_is_answered(target: Target) -> None:
    token = await target.key("flooder")
    ann = target.client(token)
    async with ann.connected(), AsyncExitStack() as stack:
        run, wait = await waiting(ann)
        raws = [await stack.enter_async_context(socket(target.port, token)) for _ in range(4)]
        values = [n % 2 == 0 for n in range(250)]
        random.Random(4).shuffle(values)
        said = [{"op": "answer", "id": f"{n}", "run": run, "wait": wait, "value": v} for n, v in enumerate(values)]

        async def flood(raw: Any) -> list[tuple[int, str]]:
            await raw.write(b"".join(say(said[n : n + 50]) for n in range(0, 250, 50)))
            told: list[tuple[int, str]] = []
            while len(told) < 250:
                frame = await raw.next()
                if frame["op"] == "reply":
                    told.append((int(frame["id"]), "ok" if frame["ok"] else frame["error"]["code"]))
            return told

        async with asyncio.TaskGroup() as tasks:
            flooding = [tasks.create_task(flood(raw)) for raw in raws]
        events = await ann.until_end(run)
    (resumed,) = [event["data"] for event in events if event["type"] == "agent_resumed"]
    for task in flooding:
        told = task.result()
        assert sorted(number for number, _ in told) == list(range(250))
        assert {code for _, code in told} <= {"ok", "conflict", "rate_limited"}, Counter(code for _, code in told)
        assert all(values[number] is resumed["value"] for number, code in told if code == "ok")
        assert all(values[number] is not resumed["value"] for number, code in told if code == "conflict")
        assert any(code != "rate_limited" for _, code in told)


async def test_waits_that_nobody_has_are_refused_and_answer_nothing(target: Target) -> None:
    ann = target.client(await target.key("ann"))
    async with ann.connected(), socket(target.port, await target.key("ann")) as raw:
        run, wait = await waiting(ann)
        for shape in _SHAPES:
            told = json.loads(await exact(raw, {"op": "answer", "run": run, "wait": shape, "value": True}))
            assert told["error"]["code"] == "not_found", (shape[:40], told)
            status, body = await asyncio.to_thread(
                ann.http, "POST", f"/v1/runs/{run}/answers", {"wait": shape, "value": True}
            )
            assert (status, body["code"]) == (404, "not_found"), (shape[:40], body)
        told = json.loads(await exact(raw, {"op": "answer", "run": run, "wait": "wt_\0", "value": True}))
        assert (told["error"]["code"], told["error"]["field"]) == ("bad_request", "wait")
        other, _ = await waiting(ann)
        told = json.loads(await exact(raw, {"op": "answer", "run": other, "wait": wait, "value": True}))
        assert told["error"]["code"] == "not_found", "the wait of another run"
        for each in (run, other):
            assert (await ann.command("cancel", run=each))["ok"]
            await ann.until_end(each)
