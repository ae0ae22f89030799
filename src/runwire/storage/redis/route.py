"""Which server carries which channel."""

from __future__ import annotations

from dataclasses import dataclass

from redis.crc import key_slot

from runwire.errors import ConfigurationError, Unavailable
from runwire.storage.redis.address import Address, Node
from runwire.storage.redis.link import ask

__all__ = ["Route", "find_route"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The servers, and in a cluster the slots that each has."""

    nodes: tuple[Node, ...]
    slots: tuple[tuple[int, int, int], ...] = ()  # first, last, place in `nodes`; empty: one server has all

    def place(self, channel: bytes) -> int:
        """Return the place in `nodes` of the server that carries a channel. Raises Unavailable."""
        if not self.slots:
            return 0
        slot = key_slot(channel)
        for first, last, place in self.slots:
            if first <= slot <= last:
                return place
        raise Unavailable("The cluster has slots that no node serves.")


async def find_route(address: Address) -> Route:
    """Ask where the channels are, if the address does not say it.

    Raises:
        Unavailable: nobody who was asked knows.
        ConfigurationError: they refuse the password.
    """
    if address.kind == "server":
        return Route(nodes=address.nodes)
    refused: ConfigurationError | None = None
    for node in address.nodes:
        try:
            return await (_master(address, node) if address.kind == "sentinel" else _slots(address, node))
        except Unavailable:
            continue  # the next may know
        except ConfigurationError as error:
            refused = error
    if refused:
        raise refused
    whom = "sentinel knows a master that answers" if address.kind == "sentinel" else "node of the cluster answers"
    raise Unavailable(f"No {whom}.")


async def _master(address: Address, sentinel: Node) -> Route:
    found = await ask(
        address, sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.master, login=address.sentinel_login
    )
    if not isinstance(found, list):
        raise Unavailable("A sentinel does not know the master.")
    node = found[0].decode(), int(found[1])
    # For some seconds of a fail-over a sentinel names a master that is none any more: nobody hears what is said there.
    role = await ask(address, node, "ROLE", login=address.login)
    if role[0] != b"master":
        raise Unavailable("A sentinel names a master that is none.")
    return Route(nodes=(node,))


async def _slots(address: Address, seed: Node) -> Route:
    places: dict[Node, int] = {}
    slots = []
    for first, last, (host, port, *_), *_replicas in await ask(address, seed, "CLUSTER", "SLOTS", login=address.login):
        node = (host.decode() if host else seed[0]), int(port)  # no host: the one that was asked
        slots.append((int(first), int(last), places.setdefault(node, len(places))))
    if not slots:
        raise Unavailable("The cluster has no slots yet.")
    return Route(nodes=tuple(places), slots=tuple(slots))
