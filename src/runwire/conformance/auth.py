"""The category `auth`: each way in, what is refused at every door, and how soon a withdrawal is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from runwire.conformance import forged
from runwire.conformance.case import Case, NotHere
from runwire.conformance.report import Evidence
from runwire.conformance.stage import Stage, expect, found
from runwire.conformance.wire import Answer, Closed, NoUpgrade, Silence, Wire
from runwire.protocol import frames
from runwire.protocol.codes import CloseCode

__all__ = ["CASES"]

_REFUSED: Final = (CloseCode.UNAUTHENTICATED, CloseCode.NO_HELLO)
_NO_HELLO_S: Final = 5.0  # PROTOCOL §1
_SKEW_S: Final = 60  # what a deployment may forgive (RFC 7519 §4.1.4: "usually no more than a few minutes"); ours 30
_SOCKETS: Final = 4  # forged tokens that are also tried on a socket: each costs a connection
_PATHS: Final = ("/v1/me", "/v1/agents", "/v1/threads", "/v1/runs")


# ── ways in ──────────────────────────────────────────────────────────────────────────────────────────────


async def _ways_in(stage: Stage) -> list[Evidence]:
    token = stage.subject.token
    ways: tuple[tuple[str, Mapping[str, Any], str | None], ...] = (
        ("hello", {}, token),
        ("ticket", {"query": f"ticket={await _ticket(stage)}"}, None),
        ("subprotocol", {"subprotocols": (frames.SUBPROTOCOL, f"bearer.{token}")}, None),
    )
    evidence = []
    for name, how, hello in ways:
        try:
            async with Wire.open(stage.subject.url, None, timeout_s=stage.subject.short_s, **how) as wire:
                if hello is not None:
                    await wire.send(frames.Hello(token=hello, client="runwire-check/1"))
                user = (await wire.welcome(timeout_s=stage.subject.short_s)).user
                if user != stage.user:
                    evidence.append(found(f"signed in by {name} as {stage.user}", user))
                if wire.subprotocol != frames.SUBPROTOCOL:
                    evidence.append(found(f"only {frames.SUBPROTOCOL} echoed, by {name}", wire.subprotocol))
        except (Silence, Closed, NoUpgrade) as error:
            evidence.append(found(f"a welcome for a sign-in by {name}", error.message))
    return evidence


async def _ticket(stage: Stage) -> str:
    async with stage.http() as http:
        answer = await http.request("POST", "/v1/ws-ticket")
    expect(answer.status in (200, 201), "201 and a ticket", answer.clipped)
    return str(answer.json()["ticket"])


async def _ticket_once(stage: Stage) -> list[Evidence]:
    query = f"ticket={await _ticket(stage)}"
    async with Wire.open(stage.subject.url, None, timeout_s=stage.subject.short_s, query=query) as wire:
        await wire.welcome(timeout_s=stage.subject.short_s)
    outcome = await _outcome(stage, None, query=query)
    return [] if outcome in _REFUSED else [found("4501 for a ticket that was used", outcome)]


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────


async def _outcome(stage: Stage, token: str | None, *, says: frames.ClientFrame | None = None, **how: Any) -> int | str:
    """Return how a socket is received: `welcome`, `silence`, or the close code."""
    try:
        async with Wire.open(stage.subject.url, token, timeout_s=stage.subject.short_s, **how) as wire:
            if says is not None:
                await wire.send(says)
            await wire.welcome(timeout_s=min(stage.subject.timeout_s, _NO_HELLO_S + 3))
            return "a welcome"
    except NoUpgrade as error:
        return f"status {error.status}"
    except Silence:
        return "silence"
    except Closed as error:
        return error.close_code


async def _no_credentials(stage: Stage) -> list[Evidence]:
    evidence = []
    async with stage.http(is_signed_in=False) as http:
        for path in _PATHS:
            answer = await http.request("GET", path)
            if answer.status != 401:
                evidence.append(found(f"401 for {path} without a token", answer.clipped))
    command = frames.Subscribe(id="1", thread="th_nobody")
    outcome = await _outcome(stage, None, says=command)
    if outcome not in _REFUSED:
        evidence.append(found("4501 for a socket that begins without a hello", outcome))
    return evidence


async def _forged(stage: Stage) -> list[Evidence]:
    tokens = forged.tokens(stage.subject.token, user=stage.user, url=stage.subject.url)
    shapes: dict[str, str] = {}
    async with stage.http(is_signed_in=False) as http:
        for name, token in tokens.items():
            answer = await http.request("GET", "/v1/me", headers={"Authorization": f"Bearer {token}"})
            if answer.status != 401:
                return [found(f"401 for a token: {name}", answer.clipped)]
            shapes[name] = answer.text
    for name in list(tokens)[:_SOCKETS]:
        outcome = await _outcome(stage, tokens[name])
        if outcome != CloseCode.UNAUTHENTICATED:
            return [found(f"4501 for a socket with a token: {name}", outcome)]
    if len(set(shapes.values())) > 1:
        first, *rest = shapes.items()
        other = next(each for each in rest if each[1] != first[1])
        return [
            found(f"one answer to all of them, as to {first[0]}: {first[1][:200]}", f"{other[0]}: {other[1][:200]}")
        ]
    return []


async def _me(stage: Stage, token: str) -> Answer:
    async with stage.http(token) as http:
        return await http.request("GET", "/v1/me")


async def _expired(stage: Stage) -> list[Evidence]:
    token = stage.subject.expired_token
    if token is None:
        raise NotHere("needs a token that has ended: --expired-token, such as one of an earlier sign-in")
    if (forged.ends_at(token) or 0.0) > datetime.now(tz=UTC).timestamp() - _SKEW_S:
        raise NotHere(f"the --expired-token has not ended {_SKEW_S} s ago, which a difference of clocks may explain")
    answer = await _me(stage, token)
    if answer.status != 401:
        return [found("401 for a token that has ended", answer.clipped)]
    outcome = await _outcome(stage, token)
    wanted = (CloseCode.UNAUTHENTICATED, CloseCode.TOKEN_EXPIRED)
    return [] if outcome in wanted else [found("4501 or 4005 for a token that has ended", outcome)]


async def _origin(stage: Stage) -> list[Evidence]:
    evidence = []
    for origin in ("https://elsewhere.example", "null"):
        outcome = await _outcome(stage, stage.subject.token, headers={"Origin": origin})
        if outcome != "status 403":
            evidence.append(found(f"403 for the Origin {origin}", outcome))
    return evidence


async def _query(stage: Stage) -> list[Evidence]:
    # Not the real one: whatever is in an address may be in somebody's log.
    outcome = await _outcome(stage, stage.subject.token, query="token=not-a-token")
    return [] if outcome == "status 400" else [found("400 for a token in the query", outcome)]


# ── while it is open ─────────────────────────────────────────────────────────────────────────────────────


async def _refresh(stage: Stage) -> list[Evidence]:
    async with stage.talk() as talk:
        seen = await talk.say("refresh", token=stage.subject.token)
        frame = seen.frame
        if not isinstance(frame, frames.Reply) or not frame.ok or "expires_at" not in dict(frame.data):
            return [found("ok with expires_at for a refresh with one's own token", "this", shown=[seen.clipped])]
    tokens = {"a token that is none": "rw_not-a-token", "another user's token": stage.subject.other_token}
    for name, token in tokens.items():
        if token is None:
            continue
        async with stage.talk() as talk:
            try:
                seen = await talk.say("refresh", token=token)
            except Closed as error:
                if error.close_code in (CloseCode.FORBIDDEN, CloseCode.UNAUTHENTICATED):
                    continue
                return [found(f"4503 for a refresh with {name}", error.message)]
            if not isinstance(seen.frame, frames.Reply) or seen.frame.ok:
                return [found(f"a refusal for a refresh with {name}", "it was taken", shown=[seen.clipped])]
    return []


async def _revocation(stage: Stage) -> list[Evidence]:
    token, method, path, options = await _withdrawable(stage)
    bound_ms = stage.subject.budget["revocation_ms"]
    async with stage.talk(token) as talk, stage.http(None, is_signed_in=False) as http:
        answer = await http.request(method, path, **options)
        expect(answer.status in (200, 204), "200 or 204 for the withdrawal", answer.clipped)
        began_s = time.monotonic()
        try:
            await talk.wire.until(lambda frame: False, timeout_s=max(bound_ms / 1000, 0.1))
        except Closed as error:
            took_ms = round((time.monotonic() - began_s) * 1000, 1)
            stage.subject.figures["revocation_ms"] = took_ms
            if error.close_code != CloseCode.REVOKED:
                return [found("4507 for a withdrawn sign-in", error.message)]
        except Silence as error:
            wanted = f"4507 within {bound_ms:g} ms of the withdrawal"
            return [found(wanted, "the socket stays open", shown=error.frames)]
    await asyncio.sleep(0)
    after = await _me(stage, token)
    return [] if after.status == 401 else [found("401 for the withdrawn sign-in over HTTP too", after.clipped)]


async def _withdrawable(stage: Stage) -> tuple[str, str, str, dict[str, Any]]:
    """Return a sign-in of its own, and the request that withdraws it.

    Raises:
        NotHere: none can be made with what was given.
    """
    async with stage.http() as http:
        if stage.subject.person is not None:
            user, password = stage.subject.person
            answer = await http.request("POST", "/auth/sessions", json={"user": user, "password": password})
            if answer.status == 201:
                token = str(answer.json()["access_token"])
                signed = {"headers": {"Authorization": f"Bearer {token}"}}
                return token, "DELETE", "/auth/sessions/current", signed
        answer = await http.request("POST", "/auth/keys", json={"label": "runwire check", "ttl_s": 600})
        if answer.status == 201:
            key = str(answer.json()["secret"])
            return key, "POST", "/auth/revoke", {"data": {"token": key}}
    raise NotHere("needs a sign-in that may be withdrawn: check with --user and --password-stdin")


CASES: Final[tuple[Case[Stage], ...]] = (
    Case(name="ways_in", promise="hello, ticket and subprotocol sign in the same user", look=_ways_in),
    Case(name="ticket_once", promise="A ticket opens one socket", look=_ticket_once, needs=("ways_in",)),
    Case(name="no_credentials", promise="Nobody is let in without a credential", look=_no_credentials),
    Case(name="forged", promise="Forged tokens are refused, all alike", look=_forged),
    Case(name="expired", promise="A token that has ended is refused", look=_expired),
    Case(name="origin", promise="A page of a foreign origin opens no socket", look=_origin),
    Case(name="query", promise="A token in an address is refused, so that no log has one", look=_query),
    Case(name="refresh", promise="A socket is refreshed by its own user's token and by no other", look=_refresh),
    Case(name="revocation", promise="A withdrawn sign-in ends its open sockets in time", look=_revocation),
)
