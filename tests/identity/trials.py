"""Revocation trials: somebody's access is withdrawn, or re-scoped, while a thousand sockets are open on three gateways.

Each trial measures from the change's own time in the log (the database's clock, which on one machine is everybody's) to
the end of the last socket that it concerns, on any gateway; a socket that ends without reason is counted as wrong.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from tests.identity.house import House, Person
from tests.identity.sockets import RawSocket, opened

__all__ = ["CONDITIONS", "KINDS", "Crowd", "Outcome", "Trial", "run_trials"]

KINDS: Final = ("logout", "disable", "delete", "role", "password", "key")
CONDITIONS: Final = ("normal", "wake-up lost", "Redis killed", "auth killed")

_REVOKED: Final = 4507
_WAIT_S: Final = 15.0  # for what takes less than one second
_SHARE: Final = {"first": 2, "second": 1, "key": 1}  # of a person's sockets, in parts
_AT_ONCE: Final = 32
_PASSWORD: Final = "the password of everybody"
_AGE_S: Final = 400.0  # a socket stands on an access token of 900 s


@dataclass(slots=True, kw_only=True)
class Trial:
    """What one trial has shown."""

    number: int
    kind: str
    condition: str
    took_s: float  # inf: somebody was still connected at the end
    sockets: int  # that had to end
    wrong: int  # that ended though nobody meant them
    said_after: int  # frames after a goodbye

    def line(self) -> str:
        return (
            f"{self.number:4} {self.kind:9} {self.condition:13} {self.sockets:3} sockets {self.took_s * 1000:8.1f} ms"
            f"  wrong {self.wrong}"
        )


@dataclass(slots=True, kw_only=True)
class Outcome:
    """All trials of a campaign."""

    trials: list[Trial] = field(default_factory=list)
    sockets: int = 0

    def percentile(self, share: float, *, condition: str | None = None) -> float:
        took = sorted(trial.took_s for trial in self.trials if condition in (None, trial.condition))
        return took[max(0, math.ceil(len(took) * share) - 1)]

    def text(self) -> str:
        """Return the figures."""
        lines = [
            f"{len(self.trials)} trials over {self.sockets} sockets; wrong closes {sum(t.wrong for t in self.trials)}"
        ]
        for condition in (None, *CONDITIONS):
            took = [trial.took_s for trial in self.trials if condition in (None, trial.condition)]
            if took:
                lines.append(
                    f"  {condition or 'all':13} n={len(took):3}  p50 {statistics.median(took) * 1000:7.1f} ms"
                    f"  p99 {self.percentile(0.99, condition=condition) * 1000:7.1f} ms  max {max(took) * 1000:7.1f} ms"
                )
        kinds = Counter((trial.kind, trial.condition) for trial in self.trials)
        lines.append(
            "  " + ", ".join(f"{kind}/{condition} {count}" for (kind, condition), count in sorted(kinds.items()))
        )
        return "\n".join(lines)


@dataclass(slots=True, kw_only=True)
class Member:
    """A person with sockets: of two sessions and a key, each of them on all gateways as far as there are enough."""

    person: Person
    sockets: list[RawSocket] = field(default_factory=list)


class Crowd:
    """People with open sockets, made again as trials use them up.

    Args:
        house: where they are connected.
        people: how many.
        each: sockets of one person, 6 or more.
    """

    def __init__(self, house: House, *, people: int, each: int) -> None:
        self.house = house
        self.members: list[Member] = []
        self._people = people
        self._each = each
        self._turns = asyncio.Semaphore(_AT_ONCE)

    @property
    def sockets(self) -> list[RawSocket]:
        return [socket for member in self.members for socket in member.sockets]

    async def gather(self) -> None:
        """Make everybody."""
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(self._member()) for _ in range(self._people)]
        self.members = [task.result() for task in made]

    async def replace(self, member: Member) -> Member:
        """Send somebody away, and have another in the place."""
        for socket in member.sockets:
            socket.drop()
        self.members[self.members.index(member)] = other = await self._member()
        return other

    async def renewed(self, member: Member) -> Member:
        """Return somebody whose sockets are all there, with tokens that last: this one, or another in the place."""
        since_s = time.monotonic() - _AGE_S
        if all(socket.is_alive and socket.opened_s > since_s for socket in member.sockets):
            return member
        return await self.replace(member)

    def leave(self) -> None:
        """Drop everybody's sockets."""
        for socket in self.sockets:
            socket.drop()

    async def _member(self) -> Member:
        async with self._turns:
            person = await self.house.person("ada", password=_PASSWORD)
            at = random.randrange(len(self.house.gateways))
            first, second = [await self.house.sign_in(person, at=at) for _ in range(2)]
            key = await self.house.give_key(person)
            whose = {
                "first": (first.access_token, first.session),
                "second": (second.access_token, second.session),
                "key": (key, person.key_id),
            }
            parts = sum(_SHARE.values())
            words = [word for word, share in _SHARE.items() for _ in range(max(1, self._each * share // parts))]
            words += ["first"] * (self._each - len(words))
            ports = [gateway.port for gateway in self.house.gateways]
            sockets = [
                await opened(ports[(at + n) % len(ports)], *whose[word]) for n, word in enumerate(words[: self._each])
            ]
            return Member(person=person, sockets=sockets)


Act = Callable[[House, Person], Coroutine[Any, Any, Any]]


async def _log_out(house: House, person: Person) -> Any:
    return await house.ask("DELETE", "/auth/sessions/current", person.sessions[0].access_token)


async def _disable(house: House, person: Person) -> Any:
    return await house.admin("POST", f"/auth/users/{person.user}/disable")


async def _delete(house: House, person: Person) -> Any:
    return await house.admin("DELETE", f"/auth/users/{person.user}")


async def _change_role(house: House, person: Person) -> Any:
    return await house.admin("POST", f"/auth/users/{person.user}/roles", roles=["operator", "user"])


async def _change_password(house: House, person: Person) -> Any:
    password = "another password of ada"
    return await house.ask("POST", "/auth/password", person.sessions[0].access_token, old=_PASSWORD, new=password)


async def _revoke_key(house: House, person: Person) -> Any:
    return await house.ask("POST", "/auth/revoke", data={"token": person.key})  # RFC 7009: whoever holds it may


_ACTS: Final[dict[str, Act]] = {
    "logout": _log_out,
    "disable": _disable,
    "delete": _delete,
    "role": _change_role,
    "password": _change_password,
    "key": _revoke_key,
}


def _concerned(kind: str, member: Member) -> list[RawSocket]:
    """Return the sockets that must end."""
    first, second = (session.session for session in member.person.sessions)
    dead = {
        "logout": {first},
        "disable": {first, second, member.person.key_id},
        "delete": {first, second, member.person.key_id},
        "role": set[str](),
        "password": {second},
        "key": {member.person.key_id},
    }[kind]
    return [socket for socket in member.sockets if socket.credential in dead]


async def run_trials(
    crowd: Crowd, plan: list[tuple[str, str]], *, say: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Carry out trials, (kind, condition) each, one after the other."""
    outcome = Outcome()
    await crowd.gather()
    outcome.sockets = len(crowd.sockets)
    for number, (kind, condition) in enumerate(plan, 1):
        member = await crowd.renewed(crowd.members[number % len(crowd.members)])
        trial = await _trial(crowd, member, number, kind, condition)
        say(trial.line())
        outcome.trials.append(trial)
        await crowd.house.mend()
        await crowd.replace(member)
    crowd.leave()
    return outcome


async def _trial(crowd: Crowd, member: Member, number: int, kind: str, condition: str) -> Trial:
    house, person = crowd.house, member.person
    await house.administrator()  # signs in before anything fails
    concerned = _concerned(kind, member)
    others = [socket for socket in crowd.sockets if socket not in concerned and socket.is_alive]
    async with AsyncExitStack() as stack:
        change = await stack.enter_async_context(house.changing(person))
        if condition in ("wake-up lost", "auth killed"):
            await stack.enter_async_context(house.ordered("publish", "lost" if condition == "wake-up lost" else "kill"))
        asked = await _carry_out(house, person, kind, kills_redis=condition == "Redis killed")
    assert asked is None or asked.status_code < 300 or condition == "auth killed", (kind, asked.status_code, asked.text)
    took_s = await _until_over(concerned, change.at_s)
    if kind == "role":
        took_s = await _until_rescoped(house, person, change.at_s)
    return Trial(
        number=number,
        kind=kind,
        condition=condition,
        took_s=took_s,
        sockets=len(concerned),
        wrong=sum(not socket.is_alive and socket.code in (None, _REVOKED) for socket in others),
        said_after=sum(socket.said_after for socket in concerned),
    )


async def _carry_out(house: House, person: Person, kind: str, *, kills_redis: bool) -> Any:
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(_ACTS[kind](house, person))
        if kills_redis:
            await asyncio.sleep(random.uniform(0, 0.03))  # before, during or after the wake-up
            tasks.create_task(asyncio.to_thread(house.redis.kill))
    return asking.result()


async def _until_over(concerned: list[RawSocket], at_s: float) -> float:
    if not concerned:
        return 0.0
    try:
        async with asyncio.timeout(_WAIT_S):
            for socket in concerned:
                await socket.over
    except TimeoutError:
        return math.inf
    assert all(socket.code == _REVOKED for socket in concerned), Counter(socket.code for socket in concerned)
    return max(socket.ended_at_s for socket in concerned) - at_s


async def _until_rescoped(house: House, person: Person, at_s: float) -> float:
    """Return when the last gateway has answered the same token by the new roles."""
    token, last_s = person.sessions[0].access_token, 0.0
    try:
        async with asyncio.timeout(_WAIT_S):
            for at in range(len(house.gateways)):
                while "operator" not in (await house.get("/v1/me", token, at=at)).json()["roles"]:
                    pass
                last_s = time.time_ns() / 1e9
    except TimeoutError:
        return math.inf
    return last_s - at_s
