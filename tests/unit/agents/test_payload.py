"""Any value becomes plain JSON, or a typed error that says what to do."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import os
import subprocess
import sys
import uuid
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.agents.payload import MAX_FIELD_BYTES, is_ref, plain, put_aside, told
from runwire.errors import PayloadError


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


class Model(pydantic.BaseModel):
    at: datetime.date
    colour: Colour


class Anything(pydantic.BaseModel):
    value: Any


@dataclasses.dataclass
class Pair:
    left: object
    right: object


class Struct(msgspec.Struct):
    inner: Any


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC), "2026-11-22T00:00:00Z"),
        (datetime.date(2026, 11, 22), "2026-11-22"),
        (Colour.RED, "red"),
        ([Level.HIGH], [3]),
        (Text("t"), "t"),
        (b"abc", "YWJj"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.50"), "1.50"),
        ((1, (2,)), [1, [2]]),
        (frozenset({1}), [1]),
        ({1: "one", None: 2, Colour.RED: 3, 1.5: 4}, {"1": "one", "null": 2, "red": 3, "1.5": 4}),
        (Model(at=datetime.date(2026, 1, 2), colour=Colour.RED), {"at": "2026-01-02", "colour": "red"}),
        (
            Pair(Model(at=datetime.date(2026, 1, 2), colour=Colour.RED), Struct({1})),
            {"left": {"at": "2026-01-02", "colour": "red"}, "right": {"inner": [1]}},
        ),
        (
            Pair({uuid.UUID(int=1): b"abc", datetime.date(2026, 1, 2): decimal.Decimal("1.50")}, bytearray(b"abc")),
            {"left": {"00000000-0000-0000-0000-000000000001": "YWJj", "2026-01-02": "1.50"}, "right": "YWJj"},
        ),
        (Anything(value={1: "a", "2": [1.5, None]}), {"value": {"1": "a", "2": [1.5, None]}}),
    ],
)
def test_every_usual_type_has_its_json(value: object, expected: object) -> None:
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def _pair_cycle() -> Pair:
    pair = Pair(None, None)
    pair.left = pair
    return pair


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("-inf"),
        "a\0b",
        "\ud800",
        {"a\0": 1},
        {"deep": [{"x": float("nan")}]},
        Pair("\ud800", 1),
        Pair(1, float("inf")),
        object(),
        Pair(object(), 1),
        lambda: 1,
        2**64,
        {(1, 2): 3},
        {1: "a", "1": "b"},
        {"deep": [{None: 1, "null": 2}]},
        {Colour.RED: 1, "red": 2},
        Pair({1: "a", "1": "b"}, 1),
        Pair(1, {uuid.UUID(int=1): "a", str(uuid.UUID(int=1)): "b"}),
        Anything(value={1: "a", "1": "b"}),
        [Anything(value=Pair({1: "a", "1": "b"}, 1))],
        _cycle(),
        _pair_cycle(),
        Model.model_construct(at=object(), colour=1),
    ],
    ids=lambda value: type(value).__name__,  # no address in an id: workers must collect the same tests
)
def test_what_is_not_json_is_a_payload_error(value: object) -> None:
    with pytest.raises(PayloadError) as caught:
        plain(value)
    assert caught.value.code == "agent_error"


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(_json)
def test_plain_json_is_left_alone_and_survives_the_log(value: Any) -> None:
    assert plain(value) == value
    assert msgspec.json.decode(msgspec.json.encode(plain(value))) == value


@given(st.one_of(st.text(), st.floats(), st.binary(), st.lists(st.text())))
def test_what_plain_lets_through_can_always_be_encoded(value: object) -> None:
    try:
        encoded = msgspec.json.encode(plain(value))
    except PayloadError:
        return
    assert b"\\u0000" not in encoded.replace(b"\\\\", b"")


@pytest.mark.parametrize("value", ["ä" * 40_000, ["x" * 70_000], {"k": "\x01" * 12_000}])
def test_a_large_field_is_put_aside_by_its_content(value: Any) -> None:
    blobs: dict[str, bytes] = {}
    field = put_aside(value, blobs)
    assert is_ref(field)
    assert msgspec.json.decode(blobs[field["$ref"]]) == value
    assert field["bytes"] == len(blobs[field["$ref"]]) > MAX_FIELD_BYTES
    assert len(field["head"].encode()) <= 1024
    assert put_aside(value, {}) == field


@pytest.mark.parametrize("value", ["x" * 10_000, "x" * 65_000, [1] * 1000, None, 7])
def test_a_small_field_stays(value: Any) -> None:
    blobs: dict[str, bytes] = {}
    assert put_aside(value, blobs) is value
    assert blobs == {}


def test_a_value_that_looks_like_a_reference_is_put_aside_so_that_it_is_never_followed() -> None:
    forged = {"$ref": "blob_of_somebody_else", "bytes": 1, "head": ""}
    blobs: dict[str, bytes] = {}
    field = put_aside(forged, blobs)
    assert field["$ref"] != forged["$ref"]
    assert msgspec.json.decode(blobs[field["$ref"]]) == forged


def test_a_value_over_8_mib_is_too_large() -> None:
    with pytest.raises(PayloadError) as caught:
        put_aside(["x" * 9_000_000], {})
    assert caught.value.code == "payload_too_large"
    with pytest.raises(PayloadError) as caught:
        plain("x" * 9_000_000)
    assert caught.value.code == "payload_too_large"


class Mute:
    def __str__(self) -> str:
        raise LookupError("not even that")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("There is no such city.", "There is no such city."),
        (ValueError("boom"), "boom"),
        (42, "42"),
        (None, "None"),
        (Mute(), "Mute"),
        ("a\0b", "ab"),
        ("half \ud800 a pair", "half ? a pair"),
        ("\0" * 5_000 + "x" * 200_000, "x" * 2_000),
    ],
)
def test_what_an_error_says_can_always_be_stored(given: object, expected: str) -> None:
    assert told(given) == expected


@dataclasses.dataclass(frozen=True)
class Frozen:
    name: str


_SETS: Any = {
    "plain": {"b", "a", "c", "aa"},
    "nested": [{"k": frozenset({"b", "a", "c", "aa"})}],
    "tuples": {("b", 1), ("a", 2), ("c", 3), ("aa", 4)},
    "values": {Frozen("b"), Frozen("a"), Frozen("c"), Frozen("aa")},
    "mixed": {"b", 1, ("a", 2), None, "aa"},
    "dataclass": Pair({"b", "a", "c", "aa"}, [{"b", 1, "c", ("aa", 2)}]),
    "struct": Struct(inner={"k": {"b", "a", "c", "aa"}}),
    "model": Anything(value=Anything(value=[{"b", "a", "c", "aa"}])),
    "model in a dataclass": Pair(Anything(value={"b", "a", "c", "aa"}), 1),
}
_PRINT_SETS = """
import json
from runwire.agents.payload import plain
from tests.unit.agents.test_payload import _SETS
print(json.dumps({name: plain(value) for name, value in _SETS.items()}))
"""


def test_a_set_is_the_same_list_in_every_process() -> None:
    def printed(seed: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", _PRINT_SETS],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        )
        return json.loads(done.stdout)

    one, other, another = printed("1"), printed("2"), printed("3")
    assert one == other == another
    assert one["plain"] == ["a", "aa", "b", "c"]
