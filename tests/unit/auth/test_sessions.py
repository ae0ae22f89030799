"""What becomes of a refresh token: every row of the decision."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from runwire.auth.sessions import Turn, is_key_live, is_session_live, turn
from runwire.storage.base import KeyRow, SessionRow, UserRow

NOW = 1_790_000_000_000
ADA = UserRow(user="usr_1", name="ada", status="active", epoch=3, roles=("user",), created_at=0)
OFF = msgspec.structs.replace(ADA, status="disabled")


def session(**changes: Any) -> SessionRow:
    good = SessionRow(
        session="ses_1",
        holder=ADA,
        client="runwire",
        epoch=3,
        refresh_key=b"k" * 32,
        counter=7,
        rotated_at=NOW - 5_000,
        created_at=NOW - 60_000,
        expires_at=NOW + 60_000,
        revoked_at=None,
        read_at=NOW,
    )
    return msgspec.structs.replace(good, **changes)


DEAD = [
    {"revoked_at": NOW},
    {"expires_at": NOW},
    {"holder": OFF},
    {"epoch": 2},
]


@pytest.mark.parametrize(
    ("counter", "rotated_ago_ms", "todo"),
    [
        (7, 0, Turn.ROTATE),
        (7, 99_999, Turn.ROTATE),
        (7, 100_000, Turn.REFUSED),  # idle for too long
        (6, 0, Turn.REPEAT),
        (6, 9_999, Turn.REPEAT),
        (6, 10_000, Turn.REUSED),
        (6, 99_999, Turn.REUSED),
        (6, 100_000, Turn.REFUSED),  # idle session: nothing left to kill
        (5, 0, Turn.REUSED),
        (1, 9_999, Turn.REUSED),
        (8, 0, Turn.REFUSED),  # never given out by this history
    ],
)
def test_every_number_has_its_turn(counter: int, rotated_ago_ms: int, todo: Turn) -> None:
    row = session(rotated_at=NOW - rotated_ago_ms)
    assert turn(row, counter, idle_ttl_s=100, window_s=10) is todo


@pytest.mark.parametrize("change", DEAD)
@pytest.mark.parametrize("counter", [5, 6, 7, 8])
def test_a_dead_session_refuses_every_number(change: dict[str, Any], counter: int) -> None:
    assert turn(session(**change), counter, idle_ttl_s=100, window_s=10) is Turn.REFUSED
    assert not is_session_live(session(**change))


def test_an_api_key_is_live_until_revoked_over_or_its_holder_disabled() -> None:
    key = KeyRow(
        key="key_1",
        holder=ADA,
        secret_hash=b"h",
        label="",
        created_at=0,
        expires_at=None,
        revoked_at=None,
        read_at=NOW,
    )
    assert is_key_live(key)
    assert is_key_live(msgspec.structs.replace(key, expires_at=NOW + 1))
    for change in ({"revoked_at": NOW}, {"expires_at": NOW}, {"holder": OFF}):
        assert not is_key_live(msgspec.structs.replace(key, **change))
