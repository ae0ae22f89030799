"""Backend and auth service agree before there is traffic, and say it when they do not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.unit.auth.house import SECRET, House, open_house

from runwire.auth import client as client_module
from runwire.auth.contract import About, disagreements
from runwire.auth.remote import SecretRefused
from runwire.errors import ConfigurationError, Unavailable


def differing(**there: Any) -> list[str]:
    said: dict[str, Any] = {"version": "1.4.2", "issuer": "https://a.example", "audience": "runwire", "now_ms": 0}
    about = About(**{**said, **there})
    return disagreements(about, version="1.4.0", issuer="https://a.example", audience="runwire")


@pytest.mark.parametrize("version", ["1.3.9", "1.4.0", "1.4.0.dev1", "1.4.0rc1", "1.5.0", "1.5"])
def test_one_minor_version_more_or_less_goes_together(version: str) -> None:
    assert differing(version=version) == []


@pytest.mark.parametrize("version", ["1.2.9", "1.6.0", "0.4.0", "2.4.0", "", "nonsense", "1"])
def test_any_other_version_is_named(version: str) -> None:
    (fault,) = differing(version=version)
    assert "1.4.0" in fault
    assert "minor version" in fault


def test_all_faults_are_named_at_once() -> None:
    assert len(differing(version="3.0.0", issuer="https://b.example", audience="other")) == 3


class Way(httpx2.AsyncBaseTransport):
    """A way to the service that counts, and does not lead there while it is cut."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self.inner = inner
        self.is_cut = False
        self.missing = ""  # a path that this service does not have
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.path)
        if self.is_cut:
            raise httpx2.ConnectError("a URL and a secret")
        if request.url.path == self.missing:
            return httpx2.Response(404)
        return await self.inner.handle_async_request(request)


class Ways:
    way: Way

    def lay(self, inner: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport:
        self.way = Way(inner)
        return self.way


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ({"issuer": "https://other.example"}, ("public_url", "https://other.example")),
        ({"audience": "somebody"}, ("audience", "somebody")),
        ({"version": "7.0.0"}, ("7.0.0", "minor version")),
    ],
)
async def test_a_wrong_service_is_a_fault_of_configuration(
    tmp_path: Path, service: Mapping[str, str], words: tuple[str, ...]
) -> None:
    async with open_house("memory", tmp_path, service=service, checks=False) as house:
        with pytest.raises(ConfigurationError) as refused:
            await house.client.check()
        (fault,) = refused.value.faults
        assert all(word in fault for word in words)
        assert house.client.unready() == "auth_service_differs"


async def test_a_service_of_one_minor_version_more_is_taken(tmp_path: Path) -> None:
    async with open_house("memory", tmp_path, service={"version": "1.5.0"}, backend={"version": "1.4.7"}) as house:
        assert house.client.unready() is None


async def test_a_service_that_cannot_say_who_it_is_is_judged_by_its_metadata(tmp_path: Path) -> None:
    ways = Ways()
    async with open_house("memory", tmp_path, transport=ways.lay) as house:
        ways.way.missing = "/internal/about"
        await house.client.check()
        assert house.client.unready() is None
        assert "/auth/introspect" in ways.way.asked, "its secret is proved all the same"


@pytest.mark.parametrize("skew_s", [-40.0, 40.0])
async def test_clocks_further_apart_than_tokens_allow_keep_new_clients_away_until_they_are_set(
    tmp_path: Path, skew_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_house("memory", tmp_path) as house:
        skewed(house, skew_s)
        with pytest.raises(Unavailable, match="clock"):
            await house.client.check()
        assert house.client.unready() == "clock_skewed"
        skewed(house, skew_s / 2)
        await house.client.check()
        assert house.client.unready() is None
        assert capsys.readouterr().out.count("auth_clock_skewed") == 1, "told once, for as long as it lasts"
        skewed(house, 0.0)
        await house.client.check()


def skewed(house: House, skew_s: float) -> None:
    """Have the backend's wall clock be off the service's."""
    house.client._wall_s = lambda: house.clock.s() - skew_s


async def test_a_refused_secret_is_the_reason_not_to_be_ready_until_it_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_AMISS_S", 0.01)
    async with open_house("memory", tmp_path, secrets=("another" * 10,), checks=False) as house:
        for _ in range(3):
            with pytest.raises(SecretRefused, match="service secret"):
                await house.client.check()
        assert house.client.unready() == "service_secret_refused"
        # The service learns our secret: nobody has to start this backend anew.
        object.__setattr__(house.settings, "service_secrets", ("another" * 10, SECRET))
        await until_ready(house)
    said = capsys.readouterr().out
    assert said.count("service_secret_refused") == 1, "told once, however often it is tried"
    assert said.count("service_secret_accepted") == 1
    assert SECRET not in said


async def until_ready(house: House) -> None:
    async with asyncio.timeout(5):
        while house.client.unready():  # noqa: ASYNC110 - what is waited for is a task that tells nobody
            await asyncio.sleep(0.01)


async def test_two_secrets_are_taken_at_once_in_any_order_of_the_change(tmp_path: Path) -> None:
    for secrets in ((SECRET, "next-" * 10), ("next-" * 10, SECRET)):
        async with open_house("memory", tmp_path, secrets=secrets) as house:
            assert house.client.unready() is None


async def test_a_service_that_is_away_is_asked_a_few_times_and_then_by_one_at_a_time(tmp_path: Path) -> None:
    ways = Ways()
    async with open_house("memory", tmp_path, transport=ways.lay) as house:
        ways.way.is_cut = True
        ways.way.asked.clear()
        for _ in range(200):
            with pytest.raises(Unavailable, match="does not answer"):
                await house.client._remote.introspect("-")
        assert 5 <= len(ways.way.asked) < 20, "the others are told at once"
        ways.way.is_cut = False
        await until_answered(house)


async def until_answered(house: House) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await house.client._remote.introspect("-")
            except Unavailable:
                await asyncio.sleep(0.02)  # the pause of the one that asks no more
            else:
                return
