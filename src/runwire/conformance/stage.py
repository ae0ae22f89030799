"""Where most cases look: sockets and requests of one or two users, with as few words as possible."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from runwire.conformance import judge
from runwire.conformance.case import Broken, NotHere, Subject
from runwire.conformance.conversation import require_welcome
from runwire.conformance.report import Evidence
from runwire.conformance.wire import Answer, CouldNotCheck, Seen, Wire, WireHttp
from runwire.protocol import frames
from runwire.protocol.codes import ErrorCode
from runwire.protocol.events import TERMINAL_TYPES
from runwire.protocol.frames import Event

__all__ = ["Stage", "Talk", "error_code", "expect", "find_end", "found", "play", "require_room", "whole"]

_ANSWERS: Final = (frames.Reply, frames.Subscribed, frames.Unsubscribed)


def expect(
    is_so: object, expected: str, seen: object, *, shown: Sequence[str] = (), position: int | None = None
) -> None:
    """Go on if it is so.

    Raises:
        Broken: with this evidence.
    """
    if not is_so:
        raise Broken(Evidence(expected=expected, seen=str(seen), position=position, frames=tuple(shown)))


def found(expected: str, seen: object, *, shown: Sequence[str] = (), position: int | None = None) -> Evidence:
    """Return one piece of evidence."""
    return Evidence(expected=expected, seen=str(seen), position=position, frames=tuple(shown))


class Talk:
    """One signed-in socket: commands and their answers, and the events that came."""

    def __init__(self, wire: Wire, subject: Subject, welcome: frames.Welcome) -> None:
        self.wire = wire
        self.welcome = welcome
        self.subject = subject

    async def say(self, op: str, **fields: Any) -> Seen:
        """Send a command, as it is, and return its answer.

        Raises:
            Silence, Closed: there is none.
        """
        number = self.wire.new_id()
        await self.wire.send_text(msgspec.json.encode({"op": op, "id": number, **fields}).decode())
        return await self.answer_to(number)

    async def answer_to(self, number: str) -> Seen:
        """Return the answer to a command that was sent."""
        for seen in self.wire.seen:
            if isinstance(seen.frame, _ANSWERS) and seen.frame.id == number:
                return seen
        return await self.wire.until(
            lambda frame: isinstance(frame, _ANSWERS) and frame.id == number, timeout_s=self.subject.short_s
        )

    async def send(self, content: str, *, agent: str | None = None, **fields: Any) -> frames.SendData:
        """Send a message and return what its reply says.

        Raises:
            Broken: it is refused.
        """
        fields = {"agent": agent or self.subject.agent, "key": f"check-{secrets.token_hex(8)}", **fields}
        return self.sent(await self.say("send", content=content, **fields))

    def sent(self, seen: Seen) -> frames.SendData:
        """Return what the reply to a send says.

        Raises:
            Broken: it is no ok.
        """
        reply = seen.frame
        if isinstance(reply, frames.Reply) and reply.ok:
            return msgspec.convert(reply.data, frames.SendData)
        if error_code(seen) in (ErrorCode.RATE_LIMITED, ErrorCode.UNAVAILABLE):
            raise CouldNotCheck(f"The deployment has no room for more now; try again. {seen.clipped}")
        raise Broken(found("an ok reply to send", "a refusal", shown=[seen.clipped]))

    def events(self, *, thread: str | None = None, run: str | None = None) -> list[Event]:
        """Return the events that came, of one thread or run."""
        return [
            seen.frame
            for seen in self.wire.seen
            if isinstance(seen.frame, Event) and thread in (None, seen.frame.thread) and run in (None, seen.frame.run)
        ]

    async def until(self, wanted: Callable[[Event], bool], *, timeout_s: float | None = None) -> Event:
        """Return the first event that is wanted, of those that came or come."""
        for event in self.events():
            if wanted(event):
                return event
        seen = await self.wire.until(
            lambda frame: isinstance(frame, Event) and wanted(frame), timeout_s=timeout_s or self.subject.timeout_s
        )
        assert isinstance(seen.frame, Event)
        return seen.frame

    async def until_end(self, run: str, *, timeout_s: float | None = None) -> list[Event]:
        """Return the events of a run, once its terminal event has come."""
        await self.until(lambda event: event.run == run and event.type in TERMINAL_TYPES, timeout_s=timeout_s)
        return self.events(run=run)

    async def follow(self, thread: str, *, after: int = 0, view: str = "all") -> frames.Subscribed:
        """Subscribe.

        Raises:
            Broken: it is refused.
        """
        seen = await self.say("subscribe", thread=thread, after=after, view=view)
        expect(isinstance(seen.frame, frames.Subscribed), "subscribed", "a refusal", shown=[seen.clipped])
        assert isinstance(seen.frame, frames.Subscribed)
        return seen.frame


def error_code(seen: Seen) -> str | None:
    """Return the code of a refusal; None: it is none."""
    frame = seen.frame
    if isinstance(frame, frames.Reply) and not frame.ok and isinstance(frame.error, frames.ErrorBody):
        return frame.error.code
    return None


def find_end(events: Sequence[Event]) -> Event | None:
    """Return the first terminal event."""
    return next((event for event in events if event.type in TERMINAL_TYPES), None)


@dataclass(slots=True, kw_only=True)
class Stage:
    """A deployment as one or two users see it."""

    subject: Subject
    welcome: frames.Welcome
    agents: frozenset[str]

    @property
    def user(self) -> str:
        """Return who the first user is."""
        return self.welcome.user

    @property
    def question(self) -> str:
        """Return a message that was never sent."""
        return f"{self.subject.questions[0]} (check {secrets.token_hex(6)})"

    def needed(self, agent: str) -> str:
        """Return the name of a conformance agent.

        Raises:
            NotHere: it is not offered.
        """
        if agent not in self.agents:
            raise NotHere(f"needs the agent {agent}: start the server with --with-conformance-agents")
        return agent

    def preferred(self, agent: str) -> str | None:
        """Return a conformance agent if it is offered, else whom the caller named."""
        return agent if agent in self.agents else self.subject.agent

    @property
    def other_token(self) -> str:
        """Return the second user's token.

        Raises:
            NotHere: none was given.
        """
        if self.subject.other_token is None:
            raise NotHere("needs a second user: --other-token with a key of one")
        return self.subject.other_token

    @asynccontextmanager
    async def talk(self, token: str | None = None, *, at: int = 0, is_slow: bool = False) -> AsyncIterator[Talk]:
        """Give a signed-in socket, at the n-th gateway."""
        subject = self.subject
        url = subject.urls[at % len(subject.urls)]
        async with Wire.open(url, token or subject.token, timeout_s=subject.short_s, is_slow=is_slow) as wire:
            yield Talk(wire, subject, await require_welcome(wire, subject))

    def http(self, token: str | None = None, *, is_signed_in: bool = True) -> WireHttp:
        """Return what makes requests."""
        chosen = (token or self.subject.token) if is_signed_in else None
        return WireHttp(self.subject.url, chosen, timeout_s=self.subject.short_s)

    async def new_thread(self) -> str:
        """Make an empty thread.

        Raises:
            Broken: it was not made.
        """
        async with self.http() as http:
            answer = await http.request("POST", "/v1/threads", json={})
        require_room(answer)
        expect(answer.status in (200, 201), "201 and a new thread", answer.clipped)
        return str(answer.json()["thread"])

    async def run_of(self, run: str) -> dict[str, Any]:
        """Return a run as HTTP shows it.

        Raises:
            Broken: it does not.
        """
        async with self.http() as http:
            answer = await http.request("GET", f"/v1/runs/{run}")
        require_room(answer)
        expect(answer.status == 200, f"200 for the run {run}", answer.clipped)
        return dict(answer.json())


def require_room(answer: Answer) -> None:
    """Go on unless the deployment asks to wait.

    Raises:
        CouldNotCheck: it does.
    """
    if answer.status in (429, 503):
        raise CouldNotCheck(f"The deployment has no room for more now; try again. {answer.clipped}")


async def play(subject: Subject) -> Stage:
    """Look who we are and which agents may be asked.

    Raises:
        CouldNotCheck: not reached, or not let in.
    """
    async with Wire.open(subject.url, subject.token, timeout_s=subject.short_s) as wire:
        try:
            welcome = await require_welcome(wire, subject)
        except CouldNotCheck:
            raise
        except Exception as error:
            raise CouldNotCheck(f"No welcome came: {error}") from error
    async with WireHttp(subject.url, subject.token, timeout_s=subject.short_s) as http:
        answer = await http.request("GET", "/v1/agents")
    if answer.status != 200:
        raise CouldNotCheck(f"The agents cannot be listed. {answer.clipped}")
    names = frozenset(str(item["agent"]) for item in answer.json()["items"])
    return Stage(subject=subject, welcome=welcome, agents=names)


def whole(events: Sequence[Event], *, after: int, exact: bool = False) -> list[Evidence]:
    """Judge events of one thread: each once, in order, and none missing."""
    return judge.once(events) + judge.ordered(events) + judge.no_hole(events, after=after, exact=exact)
