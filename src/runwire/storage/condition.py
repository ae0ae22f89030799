"""In which condition a database or Redis is found by somebody who only looks: nothing is made, changed or owned."""

from __future__ import annotations

import msgspec

__all__ = ["Condition", "RedisCondition"]


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What a database that answers says of itself."""

    server: str  # e.g. `PostgreSQL 16.4`
    revision: str | None  # of its tables; None: there are none, or none that is known
    # why no server of this release can use it as it is, each a sentence with what to do; none: it can
    refused: tuple[str, ...] = ()
    can_migrate: bool = False  # `runwire migrate` would mend what is refused
    skew_ms: float = 0.0  # its clock less ours; what may have been the time of the way is left out
    connections: tuple[int, int] | None = None  # that are open, and that may be; None: it has no such limit


class RedisCondition(msgspec.Struct, frozen=True, kw_only=True):
    """What a Redis that can be used says of itself, of several servers the one that is worst off."""

    server: str | None  # e.g. `Redis 7.2.4`; None: this user may not know
    nodes: int  # servers that were asked
    policy: str | None = None  # what it does when its memory is full, e.g. `noeviction`; None as above
    memory_bytes: int = 0  # that it may use; 0: it has no limit, or none is known
