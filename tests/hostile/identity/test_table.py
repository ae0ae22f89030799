"""Every case of abuse has a test that exists, and every line of the ASVS that we answer for is answered."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ASVS = ROOT / "docs" / "reference" / "asvs.md"
_HERE = "hostile/identity"
_CLIENT = "unit/auth/test_client.py"
_SERVICE = "unit/auth/test_service.py"
# B1 to B24: whatever is named `test_b01_…` proves B1 by its name; here is what proves a case under a name of its own.
ALSO: dict[int, tuple[str, ...]] = {
    1: ("jwt/test_verifier.py::test_a_verifier_without_one_of_its_checks_is_seen",),
    4: (f"{_CLIENT}::test_an_unknown_kid_leads_to_one_fetch_in_ten_seconds",),
    5: (f"{_CLIENT}::test_a_broken_key_document_leaves_the_last_good_keys_in_force",),
    6: (f"{_SERVICE}::test_two_services_on_one_store_sign_with_one_key",),
    8: (f"{_SERVICE}::test_of_twenty_refreshes_at_once_all_get_the_same_successor",),
    9: (f"{_SERVICE}::test_a_lost_reply_is_repeated_within_the_window_only",),
    10: (f"{_SERVICE}::test_a_used_token_after_its_successor_was_used_kills_the_session",),
    12: (
        "hostile/test_floods.py::test_300_sockets_that_never_say_hello_are_ended_and_forgotten",
        "unit/gateway/test_greetings.py::test_one_address_too_many_times_leaves_room_for_others",
        "unit/gateway/test_greetings.py::test_one_silent_socket_too_many_is_told_to_come_back_and_programs_are_not_concerned",
    ),
    13: (f"{_CLIENT}::test_a_ticket_is_redeemed_once_by_its_origin_in_thirty_seconds",),
    15: ("unit/gateway/test_sockets.py::test_an_expired_token_is_4005_and_a_refreshed_one_goes_on",),
    16: (
        "unit/auth/test_tokens.py::test_clocks_may_differ_by_thirty_seconds",
        "unit/auth/test_agreement.py::test_clocks_further_apart_than_tokens_allow_keep_new_clients_away_until_they_are_set",
    ),
    17: (
        f"{_SERVICE}::test_brute_force_on_an_account_is_slowed_and_a_live_session_is_not",
        f"{_SERVICE}::test_one_address_guessing_many_names_is_slowed",
    ),
    18: (
        f"{_SERVICE}::test_unknown_user_wrong_password_and_disabled_user_are_one_answer",
        f"{_SERVICE}::test_an_unknown_user_costs_as_many_hashes_as_a_known_one",
    ),
    19: (f"{_SERVICE}::test_hashing_is_bounded_and_refuses_with_a_time_to_come_back",),
    20: ("unit/auth/test_canary.py::test_nothing_secret_is_ever_shown",),
    21: (
        "hostile/test_ids.py::test_foreign_ids_in_every_field_are_answered_as_unknown_ones_byte_for_byte",
        "hostile/test_openapi.py::test_on_every_route_a_foreign_id_is_answered_as_an_unknown_one",
    ),
    23: (
        "unit/auth/test_agreement.py::test_a_refused_secret_is_the_reason_not_to_be_ready_until_it_is_taken",
        "unit/auth/test_agreement.py::test_two_secrets_are_taken_at_once_in_any_order_of_the_change",
    ),
    24: ("unit/auth/test_forward.py::test_service_believes_an_address_only_of_who_knows_the_secret",),
}
LINES = {
    *(f"4.4.{n}" for n in range(1, 5)),
    *(f"7.1.{n}" for n in range(1, 4)),
    *(f"7.2.{n}" for n in range(1, 5)),
    *(f"7.3.{n}" for n in range(1, 3)),
    *(f"7.4.{n}" for n in range(1, 6)),
    *(f"7.5.{n}" for n in range(1, 4)),
    *(f"7.6.{n}" for n in range(1, 3)),
    *(f"9.1.{n}" for n in range(1, 4)),
    *(f"9.2.{n}" for n in range(1, 5)),
    *(f"10.3.{n}" for n in range(1, 6)),
    *(f"10.4.{n}" for n in range(1, 17)),
}


def _tests_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def _named() -> Iterator[int]:
    for folder in (ROOT / "tests" / _HERE, ROOT / "tests" / "unit" / "auth"):
        for path in folder.glob("test_*.py"):
            yield from (int(name[6:8]) for name in _tests_of(path) if re.match(r"test_b\d\d_", name))


@pytest.mark.parametrize("number", range(1, 25))
def test_every_case_of_abuse_has_a_test_that_exists(number: int) -> None:
    for place in ALSO.get(number, ()):
        file, _, name = place.partition("::")
        assert name in _tests_of(ROOT / "tests" / file), place
    assert number in ALSO or number in set(_named()), f"B{number} has no test"


def test_every_line_of_the_asvs_is_answered_once_and_by_a_test_or_a_reason() -> None:
    rows = re.findall(r"^\| (\d+\.\d+\.\d+) \| ([123]) \| (.+?) \| (.+) \|$", ASVS.read_text("utf-8"), re.MULTILINE)
    answered = [line for line, *_ in rows]
    assert sorted(answered) == sorted(LINES)
    for line, _, _, shown in rows:
        assert "](../../tests/" in shown or len(shown) >= 10, line
    linked = [line for line, *_, shown in rows if "](../../tests/" in shown]
    assert len(linked) >= 28, "most lines are shown by tests"


def test_every_test_that_the_asvs_page_names_exists() -> None:
    links = re.findall(r"\]\(\.\./\.\./tests/([^)#]+)(?:#([^)]+))?\)", ASVS.read_text(encoding="utf-8"))
    missing = [
        f"{file}::{name}"
        for file, name in links
        if not (ROOT / "tests" / file).is_file() or (name and name not in _tests_of(ROOT / "tests" / file))
    ]
    assert missing == []
    assert len(links) >= 40
