"""The view: what events do to it, who is current, how old it may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.auth.identity import Identity
from runwire.auth.view import RETAIN_S, AuthView
from runwire.storage.base import AuthEvent, AuthKind, AuthPage, AuthSnapshot, UserRow

NOW = 1_790_000_000_000
ADA = UserRow(user="usr_ada", name="ada", status="active", epoch=1, roles=("user",), created_at=0)
BOB = UserRow(user="usr_bob", name="bob", status="active", epoch=4, roles=("user",), created_at=0)


def changed(row: UserRow, **changes: Any) -> UserRow:
    return msgspec.structs.replace(row, **changes)


def identity(row: UserRow = ADA, **changes: Any) -> Identity:
    kind: Literal["session", "key"] = "key" if changes.get("key") else "session"
    fields: dict[str, Any] = {"session": "ses_1", "key": None, "epoch": row.epoch, **changes}
    if kind == "key":
        fields["session"] = None
    return Identity(user=row.user, name=row.name, roles=frozenset(row.roles), kind=kind, expires_at=None, **fields)


def event(seq: int, kind: AuthKind, **fields: Any) -> AuthEvent:
    return AuthEvent(seq=seq, kind=kind, at=fields.pop("at", NOW), **fields)


def page(events: Sequence[AuthEvent], *, head: int | None = None, **fields: Any) -> AuthPage:
    last = events[-1].seq if events else 0
    return AuthPage(
        generation=fields.pop("generation", "g"),
        head=last if head is None else head,
        read_at=fields.pop("read_at", NOW),
        events=list(events),
    )


def snapshot(**changes: Any) -> AuthSnapshot:
    whole = AuthSnapshot(generation="g", head=10, read_at=NOW, users=[ADA, BOB], revoked_sessions=[], revoked_keys=[])
    return msgspec.structs.replace(whole, **changes)


def loaded(**changes: Any) -> AuthView:
    view = AuthView()
    assert view.load(snapshot(**changes), began_s=100.0)
    return view


def test_before_the_first_snapshot_nobody_is_current() -> None:
    view = AuthView()
    assert not view.is_loaded
    assert not view.is_current(identity())
    assert view.freshness(0.0) == "expired"
    assert view.user(ADA.user) is None


def test_a_known_active_user_of_this_epoch_is_current() -> None:
    view = loaded()
    assert view.is_loaded
    assert view.is_current(identity())
    assert view.is_current(identity(key="key_1"))
    assert view.user(ADA.user) == ADA
    assert not view.is_current(identity(changed(ADA, user="usr_unknown")))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (AuthKind.USER_DISABLED, {"user": ADA.user, "holder": changed(ADA, status="disabled", epoch=2)}),
        (AuthKind.SESSION_REVOKED, {"user": ADA.user, "session": "ses_1"}),
    ],
)
def test_a_withdrawal_is_seen_at_once_and_by_nobody_else(kind: AuthKind, fields: dict[str, Any]) -> None:
    view = loaded()
    assert view.apply(page([event(11, kind, **fields)]), began_s=101.0)
    assert not view.is_current(identity())
    assert view.is_current(identity(BOB, session="ses_bob"))
    assert (view.cursor, view.confirmed_s) == (11, 101.0)


def test_a_revoked_key_takes_its_identity_only() -> None:
    view = loaded()
    assert view.apply(page([event(11, AuthKind.KEY_REVOKED, user=ADA.user, key="key_1")]), began_s=101.0)
    assert not view.is_current(identity(key="key_1"))
    assert view.is_current(identity(key="key_2"))
    assert view.is_current(identity())


def test_a_reenabled_user_is_current_with_the_new_epoch_only() -> None:
    view = loaded()
    off = changed(ADA, status="disabled", epoch=2)
    view.apply(page([event(11, AuthKind.USER_DISABLED, holder=off)]), began_s=101.0)
    assert not view.is_current(identity(epoch=2))
    assert view.is_behind(identity(epoch=2))
    on = changed(off, status="active")
    assert not view.apply(page([event(12, AuthKind.USER_ENABLED, holder=on)]), began_s=102.0)
    assert not view.is_current(identity(epoch=1))
    assert view.is_current(identity(epoch=2))
    assert not view.is_behind(identity(epoch=1))


def test_a_view_that_has_not_reached_an_epoch_says_no_and_that_it_is_behind() -> None:
    view = loaded()
    assert not view.is_current(identity(epoch=2))
    assert view.is_behind(identity(epoch=2))
    assert view.is_behind(identity(changed(ADA, user="usr_new")))
    assert not view.is_behind(identity())


def test_roles_come_from_the_view_and_changing_them_asks_everybody_again() -> None:
    view = loaded()
    more = changed(ADA, roles=("operator", "user"))
    assert view.apply(page([event(11, AuthKind.ROLES_CHANGED, holder=more)]), began_s=101.0)
    shown = view.user(ADA.user)
    assert shown is not None
    assert shown.roles == ("operator", "user")
    assert view.is_current(identity())


@pytest.mark.parametrize(
    "kind",
    [AuthKind.USER_CREATED, AuthKind.SESSION_CREATED, AuthKind.KEY_CREATED, AuthKind.SIGNING_KEY_CREATED],
)
def test_what_makes_something_new_asks_nobody_again(kind: AuthKind) -> None:
    assert not loaded().apply(page([event(11, kind)]), began_s=101.0)


def test_a_part_of_the_log_moves_the_cursor_but_confirms_nothing() -> None:
    view = loaded()
    view.apply(page([event(11, AuthKind.SESSION_CREATED)], head=12), began_s=101.0)
    assert (view.cursor, view.confirmed_s) == (11, 100.0)
    view.apply(page([event(12, AuthKind.SESSION_CREATED)], head=12), began_s=101.0)
    assert (view.cursor, view.confirmed_s) == (12, 101.0)


def test_an_empty_page_confirms_and_an_older_read_does_not_turn_time_back() -> None:
    view = loaded()
    view.apply(page([], head=10), began_s=105.0)
    view.apply(page([], head=10), began_s=103.0)
    assert view.confirmed_s == 105.0


def test_events_that_are_in_the_view_already_change_nothing() -> None:
    view = loaded()
    off = changed(ADA, status="disabled", epoch=2)
    old = event(9, AuthKind.USER_DISABLED, holder=off)
    assert not view.apply(page([old], head=10), began_s=101.0)
    assert view.is_current(identity())


def test_another_generation_or_a_log_behind_the_cursor_does_not_continue() -> None:
    view = loaded()
    assert view.continues(page([], head=10))
    assert not view.continues(page([], head=10, generation="other"))
    assert not view.continues(page([], head=9))
    assert not AuthView().continues(page([], head=0))


def test_a_snapshot_replaces_everything() -> None:
    view = loaded()
    view.apply(page([event(11, AuthKind.SESSION_REVOKED, session="ses_1")]), began_s=101.0)
    view.load(snapshot(generation="h", head=3, users=[ADA], revoked_keys=[("key_1", NOW)]), began_s=102.0)
    assert view.is_current(identity())
    assert not view.is_current(identity(key="key_1"))
    assert not view.is_current(identity(BOB))
    assert (view.cursor, view.continues(page([], head=3, generation="h"))) == (3, True)


def test_revocations_of_a_snapshot_count() -> None:
    view = loaded(revoked_sessions=[("ses_1", NOW)])
    assert not view.is_current(identity())
    assert view.is_current(identity(session="ses_2"))


def test_a14_a_signing_key_revoked_since_the_backup_stays_so_when_that_is_put_back() -> None:
    """A14: the backup does not know, and JWKS that were read before may still show the key for minutes."""
    view = AuthView()
    view.load(snapshot(users=[ADA], revoked_kids=["stolen"]), began_s=0)
    view.load(snapshot(users=[ADA], revoked_kids=["older"], generation="restored"), began_s=1)
    assert [view.is_kid_revoked(kid) for kid in ("stolen", "older", "good")] == [True, True, False]


def test_freshness_goes_from_fresh_over_stale_to_expired() -> None:
    view = loaded()
    ages = (0.0, 1.0, 1.001, 30.0, 30.001, 1e9)
    assert [view.freshness(100.0 + age) for age in ages] == ["fresh", "fresh", "stale", "stale", "expired", "expired"]


def test_revocations_are_forgotten_only_after_every_token_is_dead() -> None:
    view = loaded(revoked_sessions=[("ses_1", NOW)], revoked_keys=[("key_1", NOW)])
    late = NOW + RETAIN_S * 1000
    view.apply(page([], head=10, read_at=late), began_s=101.0)
    assert not view.is_current(identity())
    view.apply(page([], head=10, read_at=late + 1), began_s=102.0)
    assert view.is_current(identity())
    assert RETAIN_S > 3600 + 60


def test_a_change_is_timed_by_the_database_clock_alone_and_forgotten_after_a_minute() -> None:
    view = loaded()
    revoked = event(11, AuthKind.SESSION_REVOKED, user="usr_ada", session="ses_1", at=NOW - 400)
    other = event(12, AuthKind.SESSION_CREATED, user="usr_bob", session="ses_2", at=NOW)
    view.apply(page([revoked, other], read_at=NOW), began_s=200.0)
    assert view.changed_s("usr_ada") == pytest.approx(199.6)
    assert view.changed_s("usr_bob") is None, "nothing of his was withdrawn"
    view.apply(page([], head=12), began_s=259.0)
    assert view.changed_s("usr_ada") is not None
    view.apply(page([], head=12), began_s=260.0)
    assert view.changed_s("usr_ada") is None


_USERS = [f"usr_{n}" for n in range(3)]
_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["disable", "enable"]), st.sampled_from(_USERS)),
        st.tuples(st.just("session"), st.sampled_from(["ses_1", "ses_2"])),
    ),
    max_size=30,
)


@given(_EVENTS, st.integers(1, 7), st.integers(0, 30))
def test_any_paging_and_any_snapshot_lead_to_the_same_view(
    changes: list[tuple[str, str]], size: int, taken_at: int
) -> None:
    users = {user: changed(ADA, user=user) for user in _USERS}
    history: list[AuthEvent] = []
    states = [dict(users)]
    for seq, (what, whom) in enumerate(changes, start=1):
        if what == "session":
            history.append(event(seq, AuthKind.SESSION_REVOKED, session=whom))
        else:
            row = users[whom]
            is_off = what == "disable"
            status: Literal["active", "disabled"] = "disabled" if is_off else "active"
            users[whom] = changed(row, status=status, epoch=row.epoch + is_off)
            kind = AuthKind.USER_DISABLED if is_off else AuthKind.USER_ENABLED
            history.append(event(seq, kind, holder=users[whom]))
        states.append(dict(users))
    taken_at = min(taken_at, len(history))
    revoked = [(e.session or "", NOW) for e in history[:taken_at] if e.session]
    view = AuthView()
    start = snapshot(head=taken_at, users=list(states[taken_at].values()), revoked_sessions=revoked)
    view.load(start, began_s=0.0)
    while view.cursor < len(history):
        view.apply(page(history[view.cursor : view.cursor + size], head=len(history)), began_s=1.0)
    dead = {e.session for e in history if e.session}
    for user in _USERS:
        for session in ("ses_1", "ses_2"):
            for epoch in range(1, 6):
                expected = users[user].status == "active" and users[user].epoch == epoch and session not in dead
                assert view.is_current(identity(users[user], session=session, epoch=epoch)) is expected
