"""The category `isolation`: what one user has, another neither sees nor can know of."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from runwire.conformance.case import Case, NotHere, Subject
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, Talk, found
from runwire.conformance.stage import play as open_stage
from runwire.conformance.wire import CouldNotCheck
from runwire.protocol import frames

__all__ = ["CASES", "Two", "play"]

_FRAMES: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("subscribe", "thread", {"after": 0}),
    ("send", "thread", {"content": "Let me in."}),
    ("cancel", "run", {}),
    ("answer", "run", {"wait": "w", "value": True}),
)
_ROUTES: Final[tuple[tuple[str, str, dict[str, Any] | None], ...]] = (
    ("GET", "/v1/threads/{thread}", None),
    ("GET", "/v1/threads/{thread}/events?after=0", None),
    ("GET", "/v1/threads/{thread}/messages", None),
    ("POST", "/v1/threads/{thread}/messages", {"content": "Let me in."}),
    ("PATCH", "/v1/threads/{thread}", {"title": "mine"}),
    ("GET", "/v1/runs/{run}", None),
    ("POST", "/v1/runs/{run}/cancel", {}),
    ("POST", "/v1/runs/{run}/answers", {"wait": "w", "value": True}),
    ("POST", "/v1/runs/{run}/retry", {}),
    ("DELETE", "/v1/threads/{thread}", None),
)


@dataclass(slots=True, kw_only=True)
class Two:
    """The first user's run, and the stage on which the second one tries to reach it."""

    stage: Stage
    canary: str = ""
    thread: str = ""
    run: str = ""
    key: str = ""
    heard: str = ""  # all that the second user's socket was told meanwhile
    why: str | None = None  # why there are no two

    @property
    def ids(self) -> dict[str, str]:
        """Return the first user's ids."""
        return {"thread": self.thread, "run": self.run}

    @property
    def unknown(self) -> dict[str, str]:
        """Return ids of the same look that nobody has."""
        return {name: _like(value) for name, value in self.ids.items()}


def _like(value: str) -> str:
    prefix, _, rest = value.rpartition("_")
    return f"{prefix}_{secrets.token_hex(64)[: len(rest)]}"


async def play(subject: Subject) -> Two:
    """Have the first user ask with a canary while the second one listens.

    Raises:
        CouldNotCheck: not reached, or one of the two is not let in.
    """
    stage = await open_stage(subject)
    two = Two(stage=stage, canary=f"canary {secrets.token_hex(12)}", key=f"check-{secrets.token_hex(8)}")
    try:
        token = stage.other_token
    except NotHere as error:
        two.why = error.message
        return two
    async with stage.talk(token) as other:
        if other.welcome.user == stage.user:
            two.why = "both tokens are of one user: give that of another as --other-token"
            return two
        async with stage.talk() as talk:
            sent = await _ask(stage, talk, two)
            two.thread, two.run = sent.thread, sent.run
            await talk.until_end(sent.run)
        # An answer of its own comes after all that was on its way to this socket.
        await other.say("unsubscribe", thread="th_nobody")
        two.heard = "\n".join(seen.text for seen in other.wire.seen)
    return two


async def _ask(stage: Stage, talk: Talk, two: Two) -> frames.SendData:
    try:
        return await talk.send(two.canary, agent=stage.preferred("check_tool"), key=two.key)
    except CouldNotCheck:
        raise
    except Exception as error:
        raise CouldNotCheck(f"The first user could not ask: {error}") from error


async def _nothing_crosses(two: Two) -> list[Evidence]:
    said = [line for line in two.heard.splitlines() if two.canary in line or two.thread in line or two.run in line]
    return [found("nothing of another user's run on this socket", "it was told", shown=said[:3])] if said else []


async def _forged_frames(two: Two) -> list[Evidence]:
    async with two.stage.talk(two.stage.other_token) as other:
        for op, name, said in _FRAMES:
            fields = {**said, "agent": two.stage.subject.agent} if op == "send" else said
            told = []
            for ids in (two.ids, two.unknown):
                seen = await other.say(op, **{name: ids[name]}, **fields)
                reply = seen.frame
                if not isinstance(reply, frames.Reply) or reply.ok:
                    return [found(f"{op} of a foreign {name}: not_found", "it was done", shown=[seen.clipped])]
                told.append(msgspec.json.encode(reply.error).decode().replace(ids[name], "ID"))
            if told[0] != told[1]:
                return [found(f"{op}: a foreign {name} like an unknown one, {told[1]}", told[0])]
    return []


async def _forged_routes(two: Two) -> list[Evidence]:
    unknown = two.unknown
    async with two.stage.http(two.stage.other_token) as http:
        for method, path, said in _ROUTES:
            body = {**said, "agent": two.stage.subject.agent} if said and "content" in said else said
            foreign = await http.request(method, path.format(**two.ids), json=body)
            nobody = await http.request(method, path.format(**unknown), json=body)
            theirs = (foreign.status, foreign.text.replace(two.thread, "ID").replace(two.run, "ID"))
            wanted = (nobody.status, nobody.text.replace(unknown["thread"], "ID").replace(unknown["run"], "ID"))
            if foreign.status != 404 or theirs != wanted:
                return [found(f"{method} {path}: like an unknown id, {nobody.clipped}", foreign.clipped)]
    return []


async def _lists(two: Two) -> list[Evidence]:
    async with two.stage.http(two.stage.other_token) as http:
        for path in ("/v1/threads?limit=200", "/v1/runs?limit=200"):
            answer = await http.request("GET", path)
            if answer.status != 200:
                return [found(f"200 for {path}", answer.clipped)]
            for told in (two.thread, two.run, two.canary):
                if told in answer.text:
                    return [found(f"{path} without what is another user's", f"{told} is in it")]
    return []


async def _own_keys(two: Two) -> list[Evidence]:
    async with two.stage.talk(two.stage.other_token) as other:
        agent = two.stage.preferred("check_tool")
        seen = await other.say("send", key=two.key, content=two.canary, agent=agent)
        sent = other.sent(seen)
        if two.run == sent.run or two.thread == sent.thread:
            return [found("a run of one's own for the key that another user has too", "theirs", shown=[seen.clipped])]
        await other.until_end(sent.run)
    return []


CASES: Final[tuple[Case[Two], ...]] = tuple(
    Case(name=name, promise=promise, look=look, applies=lambda two: two.why)
    for name, promise, look in (
        ("nothing_crosses", "Nothing of a user's run comes to another user's socket", _nothing_crosses),
        ("lists", "Lists show what is one's own and nothing else", _lists),
        ("own_keys", "An idempotency key is its user's own", _own_keys),
        ("forged_frames", "On a socket a foreign id is answered exactly as an unknown one", _forged_frames),
        ("forged_routes", "Over HTTP a foreign id is answered exactly as an unknown one", _forged_routes),
    )
)
