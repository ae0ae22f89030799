"""What the command line does with users, keys and links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from argon2 import PasswordHasher

from runwire.auth import tokens
from runwire.auth.service import users
from runwire.auth.service.settings import AuthSettings
from runwire.errors import Conflict, NotFound, ProtocolError
from runwire.storage.memory.auth import MemoryAuthStore

FAST = AuthSettings(argon2_memory_kib=8, argon2_passes=1, argon2_lanes=1)


def test_a_user_is_added_with_a_hashed_password() -> None:
    async def check() -> None:
        store = MemoryAuthStore()
        ada = await users.add_user(store, "ada", password="long enough", roles=("operator",), settings=FAST)
        assert ada.roles == ("operator",)
        stored = await store.password_hash(ada.user)
        assert stored is not None
        assert stored.startswith("$argon2id$v=19$m=8,t=1,p=1$")
        assert PasswordHasher().verify(stored, "long enough")
        assert (await users.add_user(store, "bob")).roles == ("user",)
        with pytest.raises(Conflict, match="There is a user ada already"):
            await users.add_user(store, "ada")

    asyncio.run(check())


def test_the_default_cost_of_a_hash_is_that_of_rfc_9106() -> None:
    settings = AuthSettings()
    assert (settings.argon2_memory_kib, settings.argon2_passes, settings.argon2_lanes) == (65_536, 3, 4)


@pytest.mark.parametrize("name", ["", " ", "a b", "-rf", "a/b", "a\n", "x" * 129, "a;b", "\ud800", "`id`"])
def test_a_bad_name_is_refused_naming_the_field(name: str) -> None:
    with pytest.raises(ProtocolError) as refusal:
        asyncio.run(users.add_user(MemoryAuthStore(), name))
    assert refusal.value.field == "name"


def test_names_have_one_spelling() -> None:
    assert users.normal_name("zoe\u0308") == users.normal_name("zo\u00eb") == "zo\u00eb"
    assert users.normal_name("ada.l+test@example.org") == "ada.l+test@example.org"


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_a_bad_password_is_refused_and_nobody_is_added(password: str) -> None:
    async def check() -> None:
        store = MemoryAuthStore()
        with pytest.raises(ProtocolError) as refusal:
            await users.add_user(store, "ada", password=password, settings=FAST)
        assert refusal.value.field == "password"
        assert await store.list_users() == []

    asyncio.run(check())


def test_an_unknown_role_is_refused_listing_the_known_ones() -> None:
    with pytest.raises(ProtocolError, match="there are user, operator, admin, service"):
        asyncio.run(users.add_user(MemoryAuthStore(), "ada", roles=("root",)))


@pytest.mark.parametrize(
    "verb", [users.create_api_key, users.create_sign_in_link, users.disable_user, users.enable_user, users.find_user]
)
def test_an_unknown_user_is_told_with_the_line_to_run(verb: Callable[..., object]) -> None:
    async def check(name: str) -> str:
        with pytest.raises(NotFound) as refusal:
            await verb(MemoryAuthStore(), name)  # type: ignore[misc]  # a list of verbs has no common signature
        return refusal.value.message

    assert "runwire user add ada" in asyncio.run(check("ada")).splitlines()
    assert "runwire user add 'a; rm -rf ~'" in asyncio.run(check("a; rm -rf ~")).splitlines()


def test_only_the_hash_of_a_key_is_stored() -> None:
    async def check() -> None:
        store = MemoryAuthStore()
        ada = await users.add_user(store, "ada")
        text = await users.create_api_key(store, "ada", label="ci")
        (row,) = await store.list_keys(ada.user)
        presented = tokens.read_api_key(text)
        assert (presented.key, presented.secret_hash, row.expires_at) == (row.key, row.secret_hash, None)
        assert text not in repr(row)
        assert await users.create_api_key(store, "ada") != text

    asyncio.run(check())


def test_a_disabled_user_gets_no_key_and_no_link() -> None:
    async def check() -> None:
        store = MemoryAuthStore()
        await users.add_user(store, "ada")
        assert (await users.disable_user(store, "ada")).status == "disabled"
        for verb in (users.create_api_key, users.create_sign_in_link):
            with pytest.raises(Conflict):
                await verb(store, "ada")
        assert (await users.enable_user(store, "ada")).epoch == 2
        assert len(await users.create_sign_in_link(store, "ada")) == 43

    asyncio.run(check())
