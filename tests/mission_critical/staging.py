"""A deployment as staging is one: PostgreSQL, Redis, and each role a process of its own; or the one that is there."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import pytest
from tests.cluster.deployment import ROLE_AGENTS, Cluster
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer

from runwire.settings.sources import TEST_NAMES

__all__ = ["OwnStaging", "Staging"]

_VARIABLES: Final = "RUNWIRE_STAGING_TOKEN (an API key), RUNWIRE_STAGING_TOKEN_2 (of somebody else)"


@dataclass(frozen=True, kw_only=True)
class Staging:
    """What a test from outside needs of it."""

    urls: tuple[str, ...]  # of its gateways; the last one is where a reader comes back to
    keys: tuple[str, str]  # of two people
    agent: str | None  # that uses a tool; None: the deployment's default

    @classmethod
    def there(cls, url: str) -> Self:
        """Return the one that `RUNWIRE_STAGING_URL` names; what is missing to use it fails the test."""
        tokens = [_said("RUNWIRE_STAGING_TOKEN"), _said("RUNWIRE_STAGING_TOKEN_2")]
        if not all(tokens):
            pytest.fail(f"RUNWIRE_STAGING_URL is set to {url}; to use it, set {_VARIABLES}, too")
        return cls(urls=(url.rstrip("/"),), keys=(tokens[0], tokens[1]), agent=_said("RUNWIRE_STAGING_AGENT") or None)

    @classmethod
    async def of(cls, cluster: Cluster) -> Self:
        """Return our own."""
        keys = (await cluster.key("ann"), await cluster.key("bob"))
        return cls(urls=tuple(gateway.url for gateway in cluster.gateways), keys=keys, agent="golden")

    @staticmethod
    def url() -> str:
        """Return what `RUNWIRE_STAGING_URL` says; empty: nothing."""
        return _said("RUNWIRE_STAGING_URL")


class OwnStaging:
    """One that the tests start: two gateways, two workers, an auth service, in the environment `staging`."""

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self.redis = RedisServer.start(folder / "redis")
        url = asyncio.run(postgres.create_database())
        self.cluster = Cluster(
            folder / "staging", url, redis_url=self.redis.url, agents=ROLE_AGENTS, environment="staging"
        )

    def start(self) -> Self:
        """Start all, and make two people meanwhile: that asks nobody but the database."""

        async def begin() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.cluster.start())
                for name in ("ann", "bob"):
                    tasks.create_task(self.cluster.key(name))

        asyncio.run(begin())
        return self

    def end(self) -> None:
        """Kill what runs, and see that nobody has said what he should not."""
        try:
            asyncio.run(self.cluster.end())
        finally:
            self.redis.remove()


def _said(name: str) -> str:
    assert name in TEST_NAMES, f"{name} would keep every server here from starting"
    return os.environ.get(name, "")  # noqa: TID251 - no setting of a server: where one is
