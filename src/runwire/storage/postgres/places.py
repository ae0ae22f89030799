"""Which of several databases one is: written into each at the first start with a list, and checked at every other.

A person's database is known by arithmetic alone. With another order or number of databases people would not find what
is theirs, and begin anew beside it: nothing would fail, and nothing would be right. So this is refused at the start.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from runwire.errors import ConfigurationError
from runwire.storage.placed import PlaceOf
from runwire.storage.sql import load

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["examine", "fault_of"]

_SQL: Final = load("postgres_places.sql")


async def examine(connection: Connection[Record], place: PlaceOf) -> str:
    """Take the place in a database that has none yet, and return the set that it belongs to; "": it stands alone.

    Raises:
        ConfigurationError: it has another place, is of another set, or people live in it who would not be found.
    """
    row = await connection.fetchrow(_SQL["place"])
    if row is not None and row["place_set"] is None and place.places > 1:
        of_set = place.of_set or secrets.token_hex(6)
        await connection.execute(_SQL["take_place"], of_set, place.number, place.places)
        row = await connection.fetchrow(_SQL["place"])  # another process may have been first
    if row is None:
        raise ConfigurationError(["has lost its row in `meta`; run `runwire migrate`."])
    if row["place_set"] is None and place.places == 1:
        return ""
    fault = _fault(row, place)
    if fault:
        raise ConfigurationError([fault])
    of_set = row["place_set"]
    return str(of_set)


async def fault_of(connection: Connection[Record], place: PlaceOf) -> str | None:
    """Return why `examine` would refuse a database that has its tables; None: it would not. Takes no place."""
    row = await connection.fetchrow(_SQL["place"])
    if row is None or row["place_set"] is None:
        return (
            None  # without its row it is told elsewhere; without a place it is free, or people say otherwise at a start
        )
    return _fault(row, place)


def _fault(row: Record, place: PlaceOf) -> str | None:
    if row["place_set"] is None:
        return (
            "was used alone, and people live in it whom the list places elsewhere: export it, and import that into new"
            " databases."
        )
    if place.of_set not in (None, row["place_set"]):
        return "belongs to another set of databases than the first one."
    if row["places"] != place.places:
        return f"was made one of {row['places']} databases, and database_url names {place.places}: name all of them."
    if row["place"] != place.number:
        return f"is the {row['place'] + 1}. of its set, not the {place.number + 1}.: keep the order."
    return None
