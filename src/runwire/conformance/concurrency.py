"""The category `concurrency`: what happens to a message while a run is active, and to one that is sent many times."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final

import msgspec

from runwire.conformance import judge
from runwire.conformance.case import Case, NotHere
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, Talk, error_code, find_end, found
from runwire.conformance.wire import Seen
from runwire.protocol import frames
from runwire.protocol.codes import ErrorCode
from runwire.protocol.events import EventType

__all__ = ["CASES"]

_TOO_FAST: Final = "runs end before another message comes: name a slower --agent, or use --with-conformance-agents"
_SOCKETS: Final = 5


async def _both(
    talk: Talk, stage: Stage, thread: str, agents: tuple[str | None, str | None], policy: Any
) -> list[Seen]:
    """Send two messages in one flight, the second with a policy, and return the replies."""
    first, second = (frames.Send(id=talk.wire.new_id(), thread=thread, agent=a, content=stage.question) for a in agents)
    second = msgspec.structs.replace(second, on_active=policy)
    await talk.wire.send_text(msgspec.json.encode([first, second]).decode())
    return [await talk.answer_to(first.id), await talk.answer_to(second.id)]


async def _one_at_a_time(stage: Stage) -> list[Evidence]:
    thread, agent = await stage.new_thread(), stage.preferred("check_tool")
    async with stage.talk() as talk:
        sents = [talk.sent(seen) for seen in await _both(talk, stage, thread, (agent, agent), "enqueue")]
        for sent in sents:
            await talk.until_end(sent.run)
        events = judge.sorted_once(talk.events(thread=thread))
    end = find_end([event for event in events if event.run == sents[0].run])
    begin = next((e for e in events if e.run == sents[1].run and e.type == EventType.AGENT_STARTED), None)
    assert end
    if begin is None or begin.seq < end.seq:
        seen = f"agent_started at seq {begin.seq}, before seq {end.seq}" if begin else "it never started"
        shown = [judge.show(event) for event in (begin, end) if event]
        wanted = f"{sents[1].run} to start after the end of {sents[0].run}"
        return [found(wanted, seen, position=begin.seq if begin else end.seq, shown=shown)]
    return []


async def _reject(stage: Stage) -> list[Evidence]:
    thread, agent = await stage.new_thread(), stage.preferred("check_slow")
    async with stage.talk() as talk:
        first, second = await _both(talk, stage, thread, (agent, agent), "reject")
        await talk.say("cancel", run=talk.sent(first).run)
    if error_code(second) == ErrorCode.RUN_ACTIVE:
        return []
    if "check_slow" not in stage.agents:
        raise NotHere(_TOO_FAST)
    return [found("run_active for on_active reject while a run is active", "this", shown=[second.clipped])]


async def _interrupt(stage: Stage) -> list[Evidence]:
    thread = await stage.new_thread()
    agents = (stage.preferred("check_slow"), stage.preferred("check_plain"))
    async with stage.talk() as talk:
        first, second = (talk.sent(seen) for seen in await _both(talk, stage, thread, agents, "interrupt"))
        bound_s = min(stage.subject.budget["cancel_ms"] / 1000, stage.subject.timeout_s)
        end = find_end(await talk.until_end(first.run, timeout_s=bound_s))
        assert end
        await talk.until_end(second.run)
    if end.type == EventType.AGENT_CANCELLED:
        return []
    if "check_slow" not in stage.agents:
        raise NotHere(_TOO_FAST)
    return [
        found("agent_cancelled for the run that is interrupted", end.type, shown=[judge.show(end)], position=end.seq)
    ]


async def _same_key(stage: Stage) -> list[Evidence]:
    key, content, agent = f"check-{secrets.token_hex(8)}", stage.question, stage.preferred("check_plain")

    async def once(at: int) -> Seen:
        async with stage.talk(at=at) as talk:
            # All are signed in before any sends, so that they meet.
            together.release()
            async with asyncio.timeout(stage.subject.short_s):
                await all_here.wait()
            return await talk.say("send", key=key, content=content, agent=agent)

    together, all_here = asyncio.Semaphore(0), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(once(at)) for at in range(_SOCKETS)]
        async with asyncio.timeout(stage.subject.short_s):
            for _ in range(_SOCKETS):
                await together.acquire()
        all_here.set()
    replies = [task.result() for task in asked]
    data = {msgspec.json.encode(seen.frame.data) for seen in replies if isinstance(seen.frame, frames.Reply)}
    is_ok = all(isinstance(seen.frame, frames.Reply) and seen.frame.ok for seen in replies)
    if not is_ok or len(data) != 1:
        shown = [seen.clipped for seen in replies]
        return [
            found(f"the same ok reply to {_SOCKETS} sends with one key at once", f"{len(data)} of them", shown=shown)
        ]
    return []


CASES: Final[tuple[Case[Stage], ...]] = (
    Case(name="one_at_a_time", promise="A thread has one run at a time", look=_one_at_a_time),
    Case(name="reject", promise="A message that must not wait is refused while a run is active", look=_reject),
    Case(name="interrupt", promise="A message that interrupts ends the run before it", look=_interrupt),
    Case(name="same_key", promise="A message sent by many sockets at once, with one key, is one", look=_same_key),
)
