"""B7: a signing key that a thief has."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.auth.house import open_house, withdrawn

from runwire.auth.service import users
from runwire.errors import Unauthenticated

PASSWORD = "correct horse battery"


@pytest.mark.parametrize("way", ["token", "ticket"])
async def test_b07_tokens_of_a_stolen_signing_key_die_within_a_second_however_they_came_in(
    tmp_path: Path, way: str
) -> None:
    async with open_house("memory", tmp_path) as house:
        await users.add_user(house.store, "ada", password=PASSWORD, settings=house.settings)
        stolen = (await house.sign_in("ada", PASSWORD))["access_token"]
        who = await house.client.authenticate(stolen)
        if way == "ticket":
            who = await house.client.redeem_ticket(await house.client.issue_ticket(who, None), None)
        assert who.kid is not None
        late = await house.client.issue_ticket(await house.client.authenticate(stolen), None)
        assert await house.store.revoke_signing_key(who.kid)
        await withdrawn(house, lambda: not house.client.view.is_current(who), within_s=1.0)
        for attempt in (house.client.authenticate(stolen), house.client.redeem_ticket(late, None)):
            with pytest.raises(Unauthenticated):
                await attempt
