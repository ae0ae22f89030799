"""B1, B2, B3: forged, misused and monstrous tokens at a server that runs, by every way that a token can take."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
import websockets
from tests.hostile.identity.household import SECRET, Household
from tests.jwt import __main__ as aiming
from tests.jwt.aim import Answer, aimed
from tests.jwt.corpus import Mint, corpus
from websockets.asyncio.client import ClientConnection

_HELLO_BYTES = 4_096  # a larger first frame is refused unread (PROTOCOL §1)


@pytest.fixture(scope="module")
def mint(household: Household) -> Mint:
    return asyncio.run(household.mint("ada"))


def assert_refused_alike(answers: dict[str, Answer]) -> None:
    taken = {name: answer for name, answer in answers.items() if not answer.is_refused}
    assert taken == {}
    kinds = Counter(answer.status for answer in answers.values())
    assert kinds[401] >= 110, kinds
    refusals = {(answer.body, answer.challenge) for answer in answers.values() if answer.status == 401}
    empty = {(answers["empty"].body, "Bearer")}  # no token at all is told that one is missing
    assert len(refusals - empty) == 1, refusals
    for body, challenge in refusals:
        assert challenge == "Bearer"
        assert json.loads(body)["code"] == "unauthenticated"


async def test_b01_forged_tokens_are_refused_alike_by_the_api(household: Household, mint: Mint) -> None:
    async with household.http() as http:
        good = (await aimed(http, "/v1/me", {"good": mint.signed()}, method="GET"))["good"]
        assert good.status == 200, "the corpus differs from a good token by its faults only"
        assert_refused_alike(await aimed(http, "/v1/me", corpus(mint), method="GET"))


async def test_b01_forged_tokens_are_refused_alike_by_the_auth_service(household: Household, mint: Mint) -> None:
    async with household.http() as http:
        assert_refused_alike(await aimed(http, "/auth/sessions/current", corpus(mint), method="DELETE"))
        for name, token in corpus(mint).items():
            if token and len(token) < 8_000 and "surrogate" not in name:
                assert await household.introspected(token, http=http) == {"active": False}, name
        assert (await household.introspected(mint.signed(), http=http))["active"] is True


async def test_b01_forged_tokens_are_refused_alike_by_a_socket(household: Household, mint: Mint) -> None:
    ends: dict[str, tuple[int, str]] = {}
    turns = asyncio.Semaphore(8)

    async def one(name: str, token: str) -> None:
        async with turns, asyncio.timeout(30):
            ends[name] = await ending(household, token)

    async with asyncio.TaskGroup() as tasks:
        for name, token in {**corpus(mint), "good": mint.signed()}.items():
            tasks.create_task(one(name, token))
    assert ends.pop("good") == (0, "welcome")
    large = {name for name, (code, _) in ends.items() if code == 1009}
    assert large == {name for name, token in corpus(mint).items() if len(hello(token)) > _HELLO_BYTES}
    others = {name: end for name, end in ends.items() if name not in large}
    assert {code for code, _ in others.values()} == {4501}, Counter(ends.values())
    unsound = {name for name, (_, reason) in others.items() if "hello" in reason}
    assert unsound <= {"empty", "a lone surrogate", "not ASCII", "NUL"}, "a token that no frame carries"
    assert len({reason for name, (_, reason) in others.items() if name not in unsound}) == 1


def hello(token: str) -> bytes:
    return json.dumps({"op": "hello", "token": token, "client": "corpus/1"}).encode()


async def ending(household: Household, token: str) -> tuple[int, str]:
    """Say hello with a token; give how the socket ends, code and reason, or (0, "welcome")."""
    url = household.url.replace("http", "ws", 1) + "/v1/ws"
    async with websockets.connect(url, max_size=None) as socket:
        try:
            await socket.send(hello(token).decode())
            async for raw in socket:
                said = json.loads(raw)
                for frame in said if isinstance(said, list) else [said]:
                    if frame["op"] == "welcome":
                        return 0, "welcome"
        except websockets.ConnectionClosed:
            pass
        return closing(socket)


def closing(socket: ClientConnection) -> tuple[int, str]:
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


async def test_b02_what_is_no_access_token_of_ours_is_refused_as_one(household: Household, mint: Mint) -> None:
    granted = await household.sign_in("ada")
    misused = {
        "a refresh token": granted["refresh_token"],
        "an ID token": mint.signed({**mint.claims(), "nonce": "n", "auth_time": mint.now_s}, typ="JWT"),
        "for another audience": mint.signed(mint.claims(aud="somebody-else")),
        "of another issuer": mint.signed(mint.claims(iss="https://auth.elsewhere.example")),
        "of a session that is somebody else's": mint.signed(mint.claims(sub="usr_" + "0" * 32)),
        "of a session that never was": mint.signed(mint.claims(sid="ses_" + "0" * 32, sub="usr_" + "0" * 32)),
        "of an epoch to come": mint.signed(mint.claims(epo=10_000)),
        "the service secret": SECRET,
    }
    async with household.http() as http:
        for path, method in (("/v1/me", "GET"), ("/auth/sessions/current", "DELETE")):
            answers = await aimed(http, path, misused, method=method)
            assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(misused, 401), path
    for name, token in misused.items():
        assert (await ending(household, token))[0] in (4501, 4507), name


async def test_b03_monstrous_tokens_cost_a_server_nothing(household: Household, mint: Mint) -> None:
    """Refused by their length before anything is parsed: others wait no longer for it."""
    monsters = {name: corpus(mint)[name] for name in ("one megabyte", "ten thousand claims", "fifty thousand deep")}
    loop = asyncio.get_running_loop()
    waits: list[float] = []
    async with household.http() as http, asyncio.TaskGroup() as tasks:
        floods = [
            tasks.create_task(aimed(http, "/v1/me", {f"{name} {n}": token for n in range(20)}, method="GET"))
            for name, token in monsters.items()
        ]
        while not all(flood.done() for flood in floods):
            began_s = loop.time()
            assert (await http.get("/health/live")).status_code == 200
            waits.append(loop.time() - began_s)
    for flood in floods:
        assert all(answer.is_refused for answer in flood.result().values())
    assert sorted(waits)[len(waits) // 2] < 1.0, "half of all requests beside it wait for nothing"


async def test_b01_the_corpus_can_be_aimed_at_any_server(
    household: Household, mint: Mint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `docs/how-to/test-tokens.md` says; a server that takes what it should not is told so."""
    key, claims = tmp_path / "key.json", tmp_path / "claims.json"
    key.write_text(json.dumps({**mint.key.as_dict(private=True), "kid": mint.kid}), encoding="utf-8")
    claims.write_text(json.dumps(dict(mint.good)), encoding="utf-8")
    words = ["--key", str(key), "--claims", str(claims), "--section", "headers", "--section", "claims"]
    assert await aiming.run(aiming.parse([f"{household.url}/v1/me", *words])) == 0
    assert " 0 taken" in capsys.readouterr().out
    assert await aiming.run(aiming.parse([f"{household.url}/health/live", *words])) == 1, "it takes anything"
    assert "TAKEN (200): no exp" in capsys.readouterr().out
    assert await aiming.run(aiming.parse([f"{household.url}/v1/me", *words, "--audience", "other"])) == 2
