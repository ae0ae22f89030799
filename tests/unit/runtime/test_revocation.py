"""Withdrawn access ends runs, also those that use no tools and those that slipped in beside the withdrawal."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tests.unit.runtime.bench import Gate, bench, types_of

from runwire.agents.context import Context
from runwire.errors import Unavailable
from runwire.protocol.events import decode_data


async def test_a_run_claimed_after_its_user_lost_access_is_not_executed() -> None:
    executed: list[str] = []

    async def agent(ctx: Context, message: str) -> str:
        executed.append(ctx.user.id)
        return "done"

    async with bench(agent, is_allowed=lambda user: user != "usr_eve") as b:
        eves, anns = await b.send(user="usr_eve"), await b.send(user="usr_ann")
        (end,) = (await b.ended(eves, user="usr_eve"))[-1:]
        await b.ended(anns)
    assert end.type == "agent_cancelled"
    assert decode_data(end).by == "revoked"
    assert executed == ["usr_ann"]


async def test_a_person_of_whom_the_worker_has_not_heard_yet_is_not_taken_for_one_whose_access_was_withdrawn() -> None:
    known: set[str] = set()
    asked = 0

    async def confirm() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:  # in doubt it is neither executed nor ended, and asked about again
            raise Unavailable("Nobody's standing can be confirmed.")
        known.add("usr_new")

    async def agent(ctx: Context, message: str) -> str:
        return "done"

    async with bench(agent, is_allowed=known.__contains__, confirm=confirm) as b:
        news = await b.ended(await b.send(user="usr_new"), user="usr_new")
        eves = await b.ended(await b.send(user="usr_eve"), user="usr_eve")
    assert decode_data(news[-1]).output == "done"
    assert decode_data(eves[-1]).by == "revoked"
    assert asked == 3


async def test_a_running_run_ends_when_its_user_loses_access_and_nobody_elses() -> None:
    allowed = {"usr_ann", "usr_eve"}
    gates = {"usr_ann": Gate(), "usr_eve": Gate()}

    async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
        yield "begun"
        await gates[ctx.user.id].pass_()
        yield " and ended"

    async with bench(agent, is_allowed=allowed.__contains__) as b:
        runs = {user: await b.send(user=user) for user in gates}
        for gate in gates.values():
            await gate.arrival()
        allowed.discard("usr_eve")
        b.worker.recheck()
        ended = await b.ended(runs["usr_eve"], user="usr_eve")
        gates["usr_ann"].open()
        anns = await b.ended(runs["usr_ann"])
    assert types_of(ended)[-2:] == ["message_completed", "agent_cancelled"]
    assert decode_data(ended[-1]).by == "revoked"
    assert decode_data(anns[-1]).output == "begun and ended"
