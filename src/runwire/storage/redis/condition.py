"""Looking at Redis without using it: whether it lets us do what a bus does, its release, and what it forgets."""

from __future__ import annotations

from collections.abc import Mapping

from runwire.errors import ConfigurationError
from runwire.storage.condition import RedisCondition
from runwire.storage.redis.address import Address, Node, parse_address
from runwire.storage.redis.link import Link, ask
from runwire.storage.redis.route import find_route

__all__ = ["look"]


async def look(url: str, *, prefix: str) -> RedisCondition:
    """Look at each server of a Redis; each answer within `link.GIVE_UP_S`.

    Args:
        url: of Redis (`storage/redis/address.py`).
        prefix: what the names of the deployment's channels begin with.

    Raises:
        ConfigurationError: the URL cannot be meant, or Redis refuses the password, or what is done there.
        Unavailable: one does not answer.
    """
    address = parse_address(url)
    route = await find_route(address)
    told = [await _told(address, node) for node in route.nodes]
    if not route.slots:
        link = Link(address, route.nodes[0], is_sharded=False)
        try:
            await link.open([f"{prefix}:doctor".encode()])
        finally:
            await link.close()
    limited = [one for one in told if _limit(one)] or told
    policies = sorted({one["maxmemory_policy"] for one in limited if "maxmemory_policy" in one})
    return RedisCondition(
        server=_server(told[0]),
        nodes=len(told),
        # The one that forgets the most comes first.
        policy=min(policies, default=None),
        memory_bytes=min((_limit(one) for one in limited), default=0),
    )


async def _told(address: Address, node: Node) -> Mapping[str, str]:
    """Return what a server says of itself; nothing, if it may not be asked."""
    await ask(address, node, "PING", login=address.login)
    try:
        said = await ask(address, node, "INFO", login=address.login)
    except ConfigurationError:
        return {}  # who may publish and subscribe need not be allowed more
    lines = said.decode("utf-8", "replace").splitlines() if isinstance(said, bytes) else []
    return {name: value for name, _, value in (line.partition(":") for line in lines) if value}


def _server(told: Mapping[str, str]) -> str | None:
    if "valkey_version" in told:
        return f"Valkey {told['valkey_version']}"
    return f"Redis {told['redis_version']}" if "redis_version" in told else None


def _limit(told: Mapping[str, str]) -> int:
    said = told.get("maxmemory", "0")
    return int(said) if said.isdigit() else 0
