"""Which key signs, which are shown, and how one follows another, by clocks that are told the time."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.auth.house import FakeClock, open_house

from runwire.auth import tokens
from runwire.auth.service import keyring as rings
from runwire.auth.service import users
from runwire.auth.service.keyring import JWKS_MAX_AGE_S, SKEW_S, Keyring
from runwire.errors import Conflict, NotFound, Unavailable
from runwire.storage.base import AuthStore, SigningKeyRow
from runwire.storage.memory.auth import MemoryAuthStore

TTL_S = 300
PASSWORD = "correct horse battery"


class _Away(MemoryAuthStore):
    """A store that can stop answering, and counts."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock.ms)
        self.is_away = False
        self.reads = 0

    async def signing_keys(self, *, with_ended: bool = False) -> list[SigningKeyRow]:
        self.reads += 1
        if self.is_away:
            raise Unavailable("away")
        return await super().signing_keys(with_ended=with_ended)


def _ring(store: AuthStore, clock: FakeClock) -> Keyring:
    return Keyring(store, access_ttl_s=TTL_S, wall_s=clock.s, monotonic_s=clock.s)


async def _kid(ring: Keyring) -> str:
    return (await ring.newest())[0]


async def test_services_that_start_at_once_agree_on_one_key() -> None:
    clock = FakeClock()
    store = MemoryAuthStore(clock=clock.ms)
    rings_ = [_ring(store, clock) for _ in range(5)]
    assert len({await _kid(ring) for ring in rings_}) == 1
    assert len(await store.signing_keys()) == 1


async def test_a_new_key_is_shown_at_once_signs_when_everybody_knows_it_and_the_old_one_stays_for_its_tokens() -> None:
    clock = FakeClock()
    store = MemoryAuthStore(clock=clock.ms)
    ring, other = _ring(store, clock), _ring(store, clock)
    old = await _kid(ring)
    assert await _kid(other) == old
    new = (await rings.rotate(store, access_ttl_s=TTL_S)).kid
    assert list(await ring.published()) == [old, new]
    clock.move(JWKS_MAX_AGE_S + SKEW_S - 1)
    assert (await _kid(ring), await _kid(other)) == (old, old)
    clock.move(1.5)
    assert (await _kid(ring), await _kid(other)) == (new, new)
    clock.move(TTL_S + tokens.LEEWAY_S)
    assert list(await other.keys()) == [old, new]  # a token that was signed at the last moment is good until now
    clock.move(SKEW_S)
    assert list(await other.keys()) == [new]


async def test_another_service_goes_on_within_a_second_without_a_key_that_was_revoked() -> None:
    clock = FakeClock()
    store = MemoryAuthStore(clock=clock.ms)
    ring, other = _ring(store, clock), _ring(store, clock)
    stolen = await _kid(ring)
    assert await _kid(other) == stolen
    await rings.revoke(store, stolen)
    ring.forget()
    new = await _kid(ring)
    assert new != stolen
    assert list(await ring.keys()) == [new]
    clock.move(1.01)
    assert await _kid(other) == new
    assert stolen not in await other.keys()
    with pytest.raises(NotFound):
        await rings.revoke(store, stolen)
    assert [row.private_jwk for row in await store.signing_keys(with_ended=True) if row.kid == stolen] == [b""]


async def test_a_key_that_leaves_before_its_tokens_would_signs_none_even_if_its_follower_was_revoked() -> None:
    clock = FakeClock()
    store = MemoryAuthStore(clock=clock.ms)
    ring = _ring(store, clock)
    old = await _kid(ring)
    follower = (await rings.rotate(store, access_ttl_s=TTL_S)).kid
    await rings.revoke(store, follower)
    ring.forget()
    assert await _kid(ring) == old
    clock.move(JWKS_MAX_AGE_S + SKEW_S + SKEW_S)
    third = await _kid(ring)
    assert third not in {old, follower}
    for _ in range(5):
        clock.move(2)
        assert await _kid(ring) == third
    assert len(await store.signing_keys(with_ended=True)) == 3


async def test_a_follower_that_waits_signs_at_once_when_the_key_before_it_was_revoked() -> None:
    clock = FakeClock()
    store = MemoryAuthStore(clock=clock.ms)
    ring = _ring(store, clock)
    old = await _kid(ring)
    follower = (await rings.rotate(store, access_ttl_s=TTL_S)).kid
    await rings.revoke(store, old)
    ring.forget()
    assert list(await ring.keys()) == [follower]
    assert await _kid(ring) == follower


async def test_keys_go_on_while_the_store_is_away_and_it_is_asked_once_a_second() -> None:
    clock = FakeClock()
    store = _Away(clock)
    ring = _ring(store, clock)
    store.is_away = True
    with pytest.raises(Unavailable):
        await ring.keys()
    store.is_away = False
    kid = await _kid(ring)
    store.is_away = True
    clock.move(10)
    before = store.reads
    for _ in range(20):
        assert list(await ring.published()) == [kid]
        assert await _kid(ring) == kid
    assert store.reads == before + 1
    store.is_away = False
    clock.move(2)
    assert await _kid(ring) == kid
    assert store.reads == before + 2


async def test_so_many_keys_are_in_force_at_most_and_the_next_rotation_waits_for_one_to_leave() -> None:
    clock = FakeClock()
    store = MemoryAuthStore(clock=clock.ms)
    ring = _ring(store, clock)
    await _kid(ring)
    for _ in range(7):
        await rings.rotate(store, access_ttl_s=TTL_S)
    with pytest.raises(Conflict):
        await rings.rotate(store, access_ttl_s=TTL_S)
    assert len(await ring.published()) == 8
    clock.move(JWKS_MAX_AGE_S + SKEW_S + TTL_S + SKEW_S + 1)
    await rings.rotate(store, access_ttl_s=TTL_S)
    assert len(await ring.published()) == 2


async def test_a14_a_running_service_goes_on_with_a_new_key_when_a_backup_is_put_back(tmp_path: Path) -> None:
    """A14: the keys of the backup are gone with its sessions, and what a running service had in memory goes too."""
    async with open_house("sqlite", tmp_path) as house:
        ring, other = _ring(house.store, house.clock), _ring(house.store, house.clock)
        old = await _kid(ring)
        assert await _kid(other) == old
        database = house.store._database  # type: ignore[attr-defined]  # no verb of ours restores under a running one
        await database.write(lambda db: db.execute("DELETE FROM auth_signing_key").rowcount)
        house.clock.move(1.01)
        new = await _kid(ring)
        assert new != old
        assert await _kid(other) == new, "both services, and one key"
        assert list(await other.published()) == [new]


async def test_b06_a_rotation_refuses_nobody_at_any_moment(tmp_path: Path) -> None:
    async with open_house("memory", tmp_path) as house:
        await users.add_user(house.store, "ada", password=PASSWORD, settings=house.settings)
        granted = await house.sign_in("ada", PASSWORD)
        assert await house.is_active(granted["access_token"])
        await house.client.authenticate(granted["access_token"])
        ttl_s = house.settings.access_ttl_s
        await rings.rotate(house.store, access_ttl_s=ttl_s)
        kids, asked = set(), 0
        held = [granted["access_token"]]
        step_s = 17.0
        for _ in range(int((JWKS_MAX_AGE_S + 2 * SKEW_S + 2 * ttl_s) / step_s) + 2):
            granted = (await house.refresh(granted["refresh_token"])).json()
            held.append(granted["access_token"])
            held = held[-int(ttl_s / step_s) :]  # those that are not over
            for token in (held[0], held[-1]):
                kids.add((await house.client.authenticate(token)).kid)
                assert await house.is_active(token)
                asked += 1
            house.clock.move(step_s)
        assert (len(kids), asked > 80) == (2, True)
        assert len(await house.store.signing_keys()) == 1
