"""The category `ordering`: two tabs, two threads on one socket, and commands that came in one message."""

from __future__ import annotations

from typing import Final

import msgspec

from runwire.conformance import judge
from runwire.conformance.case import Case
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, found, whole
from runwire.protocol import frames
from runwire.protocol.events import EventType

__all__ = ["CASES"]

_MESSAGES: Final = 3  # in one array


async def _two_tabs(stage: Stage) -> list[Evidence]:
    thread = await stage.new_thread()
    async with stage.talk() as first, stage.talk(at=1) as second:
        begun = await second.follow(thread)
        sent = await first.send(stage.question, thread=thread, agent=stage.preferred("check_tool"))
        ours = await first.until_end(sent.run)
        theirs = await second.until_end(sent.run)
    return judge.difference(ours, theirs, names=("the socket that asked", "another socket of the same user")) or whole(
        theirs, after=begun.after
    )


async def _threads_apart(stage: Stage) -> list[Evidence]:
    threads = [await stage.new_thread() for _ in range(2)]
    evidence: list[Evidence] = []
    async with stage.talk() as talk:
        sents = [
            await talk.send(stage.question, thread=thread, agent=stage.preferred("check_tool")) for thread in threads
        ]
        for sent in sents:
            await talk.until_end(sent.run)
        for sent in sents:
            events = talk.events(thread=sent.thread)
            evidence += whole(events, after=sent.after)
            foreign = [event for event in events if event.run != sent.run]
            evidence += [
                found(f"only events of {sent.run} in its thread", f"one of {event.run}", position=event.seq)
                for event in foreign[:1]
            ]
    return evidence


async def _pipelined(stage: Stage) -> list[Evidence]:
    thread = await stage.new_thread()
    async with stage.talk() as talk:
        numbers = [talk.wire.new_id() for _ in range(_MESSAGES)]
        agent = stage.preferred("check_plain")
        sends = [frames.Send(id=number, thread=thread, agent=agent, content=stage.question) for number in numbers]
        await talk.wire.send_text(msgspec.json.encode(sends).decode())
        replies = [await talk.answer_to(number) for number in numbers]
        sents = [talk.sent(reply) for reply in replies]
        for sent in sents:
            await talk.until_end(sent.run)
        evidence = []
        places = [talk.wire.seen.index(reply) for reply in replies]
        if places != sorted(places):
            shown = [reply.clipped for reply in sorted(replies, key=talk.wire.seen.index)]
            evidence.append(found("replies in the order of the commands", "another order", shown=shown))
        begun = [event.run for event in talk.events(thread=thread) if event.type == EventType.AGENT_STARTED]
    wanted = [sent.run for sent in sents]
    if sorted(sents, key=lambda sent: sent.seq) != sents:
        seqs = ", ".join(str(sent.seq) for sent in sents)
        evidence.append(found("seqs that ascend in the order of the commands", seqs, position=sents[0].seq))
    elif begun != wanted and not evidence:
        evidence.append(found(f"runs that start in the order {wanted}", str(begun), position=sents[0].seq))
    return evidence


CASES: Final[tuple[Case[Stage], ...]] = (
    Case(name="two_tabs", promise="Two sockets of one user show the same events", look=_two_tabs),
    Case(name="threads_apart", promise="Each thread of a socket has an order of its own", look=_threads_apart),
    Case(name="pipelined", promise="Commands of one message are carried out in its order", look=_pipelined),
)
