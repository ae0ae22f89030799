"""A result goes to JSON and comes back as the type that its function says it returns."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, Protocol, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from runwire.agents.payload import plain
from runwire.agents.typed import Mismatch, declared, typed

NOW = datetime(2026, 11, 22, 23, 46, tzinfo=UTC)
AN_ID = UUID("12345678-1234-4234-8234-123456789abc")
OrderId = NewType("OrderId", int)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Struct(msgspec.Struct):
    n: int
    at: datetime | None = None


class Tagged(msgspec.Struct, tag=True, rename="camel"):
    some_name: str


@dataclasses.dataclass(frozen=True)
class Inner:
    when: datetime
    tags: frozenset[str]


@dataclasses.dataclass
class Outer:
    inner: Inner
    many: list[Inner]
    by_id: dict[UUID, Decimal]


@dataclasses.dataclass
class Circle:
    radius: float


@dataclasses.dataclass
class Square:
    side: float


class Options(TypedDict, total=False):
    limit: int
    since: date


class Point(NamedTuple):
    x: int
    y: int = 0


class Order(pydantic.BaseModel):
    number: int
    at: datetime
    total: Decimal
    sent_to: str = pydantic.Field(alias="sentTo")
    colour: Colour = Colour.RED


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")
    id: UUID
    pair: tuple[int, int]


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Holder(msgspec.Struct):
    order: Order
    lines: list[Order] = []


class Text(str):
    pass


class Speaks(Protocol):
    def speak(self) -> str: ...


ORDER = Order(number=7, at=NOW, total=Decimal("1.50"), sentTo="Ann")

ROUND_TRIPS = [
    (int, 7),
    (float, 1.5),
    (str, "text"),
    (bool, True),
    (bytes, b"\x00\xff"),
    (list[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (set[int], {3, 1, 2}),
    (frozenset[str], frozenset({"b", "a"})),
    (dict[str, list[int]], {"a": [1]}),
    (dict[int, str], {1: "one"}),
    (dict[UUID, Decimal], {AN_ID: Decimal("0.10")}),
    (dict[date, int], {date(2026, 1, 2): 1}),
    (int | None, None),
    (datetime, NOW),
    (date, date(2026, 11, 22)),
    (time, time(23, 46)),
    (timedelta, timedelta(days=1, seconds=2.5)),
    (UUID, AN_ID),
    (Decimal, Decimal("1.10")),
    (Colour, Colour.BLUE),
    (Level, Level.LOW),
    (list[Colour], [Colour.RED]),
    (Literal["a", "b"], "b"),
    (OrderId, 5),
    (Annotated[int, msgspec.Meta(ge=1)], 5),
    (Struct, Struct(n=1, at=NOW)),
    (Tagged, Tagged(some_name="x")),
    (Tagged | None, Tagged(some_name="x")),
    (Outer, Outer(inner := Inner(NOW, frozenset({"x", "y"})), [inner], {AN_ID: Decimal(3)})),
    (Circle | Square, Square(side=2.0)),
    (Options, {"limit": 3, "since": date(2026, 1, 1)}),
    (Point, Point(1, 2)),
    (list[Point], [Point(1)]),
    (Order, ORDER),
    (list[Order], [ORDER]),
    (Order | None, ORDER),
    (Order | Circle, ORDER),
    (dict[str, Order], {"a": ORDER}),
    (Strict, Strict(id=AN_ID, pair=(1, 2))),
    (Numbers, Numbers([1, 2])),
    (Holder, Holder(order=ORDER, lines=[ORDER])),
    (Text, Text("own")),
    (Sequence[int], [1]),
    (Mapping[str, int], {"a": 1}),
    (Any, {"a": [1, None]}),
]


@pytest.mark.parametrize(("kind", "value"), ROUND_TRIPS, ids=[str(kind) for kind, _ in ROUND_TRIPS])
def test_a_value_comes_back_from_json_as_it_was(kind: Any, value: Any) -> None:
    wire = msgspec.json.decode(msgspec.json.encode(plain(value)))
    back = typed(wire, kind, is_asked_for=True)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (int, "x", "Expected `int`, got `str`"),
        (list[int], [1, "x"], "Expected `int`, got `str` - at `$[1]`"),
        (Inner, {"when": "soon", "tags": []}, "at `$.when`"),
        (Order, {"number": "many", "at": 1, "total": 2, "sentTo": "x"}, "number: Input should be a valid integer"),
        (list[Order], [{}], "number: Field required"),
        (Circle | Square, {"edge": 1}, "Circle.radius: Field required"),
    ],
)
def test_what_does_not_fit_says_where_and_why_and_not_what_it_holds(kind: Any, value: Any, says: str) -> None:
    with pytest.raises(Mismatch) as raised:
        typed(value, kind, is_asked_for=False)
    assert says in str(raised.value)
    assert "many" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_text_is_a_number_only_where_a_person_wrote_it() -> None:
    assert typed("5", int, is_asked_for=True, is_strict=False) == 5
    assert typed("yes", Literal["yes"], is_asked_for=True, is_strict=False) == "yes"
    with pytest.raises(Mismatch):
        typed("5", int, is_asked_for=True)


def test_a_type_that_nobody_can_make_gives_the_plain_value_unless_it_was_asked_for() -> None:
    assert typed({"a": 1}, Speaks, is_asked_for=False) == {"a": 1}
    assert typed({"a": 1}, Callable[[], int], is_asked_for=False) == {"a": 1}
    with pytest.raises(Mismatch, match="nothing of type Speaks can be made from JSON"):
        typed({"a": 1}, Speaks, is_asked_for=True)


class Shop:
    async def __call__(self) -> Order:
        return ORDER

    def place(self) -> Point:
        return Point(1)


async def find() -> Order:
    return ORDER


def find_later() -> Awaitable[Order]:
    return find()


@functools.wraps(find)
async def wrapped() -> Any:
    return await find()


def forgetful():  # type: ignore[no-untyped-def] # that it has no annotation is the point
    return 1


def unknown() -> Missing:  # type: ignore[name-defined] # noqa: F821 - that it is not there is the point
    return 1


def partly(_kind: Missing) -> int:  # type: ignore[name-defined] # noqa: F821 - likewise
    return 1


def silent() -> None: ...


@pytest.mark.parametrize(
    ("fn", "kind"),
    [
        (find, Order),
        (find_later, Order),
        (functools.partial(functools.partial(find)), Order),
        (wrapped, Order),
        (Shop(), Order),
        (Shop().place, Point),
        (partly, int),
        *((fn, Any) for fn in (silent, forgetful, unknown, len, dict, Order, lambda: 1)),
    ],
)
def test_the_type_is_read_from_the_annotation_of_whatever_is_called(fn: Callable[..., Any], kind: Any) -> None:
    assert declared(fn) is kind


def test_a_local_class_is_found_where_its_function_uses_it() -> None:
    @dataclasses.dataclass
    class Local:
        n: int

    def made() -> Local:
        return Local(1)

    def unused() -> Local:
        raise NotImplementedError

    assert declared(made) is Local
    assert declared(unused) is Any  # its name is nowhere to be looked up


class Choosy(str):
    def __new__(cls, value: str) -> Choosy:
        raise LookupError(f"the secret {value}")


@dataclasses.dataclass
class Refusing:
    n: int

    def __post_init__(self) -> None:
        raise ValueError(f"the secret {self.n}")


@dataclasses.dataclass
class Broken:
    n: int

    def __post_init__(self) -> None:
        raise LookupError(f"the secret {self.n}")


class Guarded(pydantic.BaseModel):
    n: int

    @pydantic.field_validator("n")
    @classmethod
    def check(cls, n: int) -> int:
        raise (ValueError if n == 1 else LookupError)(f"the secret {n}")


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (Choosy, "secret", "Choosy takes no such value (LookupError)"),
        (Refusing, {"n": 1}, "Refusing takes no such value (ValueError)"),
        (list[Broken], [{"n": 1}], "takes no such value (LookupError)"),
        (Guarded, {"n": 1}, "n: Guarded takes no such value (ValueError)"),
        (Guarded, {"n": 2}, "Guarded takes no such value (LookupError)"),
        (Colour, "secret", "Invalid enum value"),
        (Literal["red"], "secret", "Invalid enum value"),
    ],
)
def test_what_a_type_of_the_authors_raises_is_a_mismatch_and_its_text_is_not_shown(
    kind: Any, value: Any, says: str
) -> None:
    with pytest.raises(Mismatch) as raised:
        typed(value, kind, is_asked_for=True)
    assert says in str(raised.value)
    assert "secret" not in str(raised.value)
