"""Every role, the database, Redis and the people, each in a network namespace of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.deployment import ROLE_AGENTS, Cluster, RoleProcess
from tests.partitions.network import Network, NoNamespaces, enter
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer

NAMES = ("people", "database", "redis", "auth1", "gateway1", "gateway2", "worker1", "worker2")


@dataclass
class Apart:
    """A deployment, and the network that it is on."""

    cluster: Cluster
    network: Network
    key: str  # of a person


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    try:
        network = Network(*NAMES)
    except NoNamespaces:
        pytest.skip("not run: no network namespaces")
    if shutil.which("nsenter") is None:
        network.close()
        pytest.skip("not run: no nsenter")
    folder = tmp_path_factory.mktemp("apart")
    home = f"/proc/{os.getpid()}/fd/{os.open('/proc/thread-self/ns/net', os.O_RDONLY)}"
    with network:
        try:
            yield from _started(folder, network)
        finally:
            enter(home)
            os.close(int(home.rpartition("/")[2]))


def _started(folder: Path, network: Network) -> Iterator[Apart]:
    address = network.address
    enter(network.place["database"])
    postgres = PostgresServer.start(folder / "postgres", trusts="10.77.0.0/24")
    redis = None
    cluster: Cluster | None = None
    try:
        url = asyncio.run(postgres.create_database()).replace("127.0.0.1", address["database"])
        enter(network.place["redis"])
        listens = [("bind", f"127.0.0.1 {address['redis']}"), ("protected-mode", "no")]
        redis = RedisServer.start(folder / "redis", options=listens)
        enter(network.place["people"])
        redis_url = f"redis://{address['redis']}:{redis.port}"
        cluster = Cluster(folder / "cluster", url, redis_url=redis_url, agents=ROLE_AGENTS)
        for process in cluster.processes:
            _settle(process, network, cluster.auths[0].port)
        key = asyncio.run(_begin(cluster))
        yield Apart(cluster, network, key)
        asyncio.run(cluster.end())
    finally:
        for process in () if cluster is None else cluster.processes:
            asyncio.run(process.kill9())
        if redis is not None:
            redis.kill()
        postgres.remove()


async def _begin(cluster: Cluster) -> str:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(cluster.start())
        key = tasks.create_task(cluster.key("ada"))  # meanwhile: it asks nobody but the database
    return key.result()


def _settle(process: RoleProcess, network: Network, auth_port: int) -> None:
    """Have a process live in its namespace, and find the auth service in another."""
    process.within = ("nsenter", f"--net={network.place[process.name]}")
    process.options = ("--host", network.address[process.name])
    text = process.config.read_text(encoding="utf-8")
    text = text.replace(f"127.0.0.1:{auth_port}", f"{network.address['auth1']}:{auth_port}")
    process.config.write_text(text, encoding="utf-8")
