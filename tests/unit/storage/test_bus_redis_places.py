"""The bus on a cluster, behind sentinels and over TLS: real processes, where this machine has a Redis of version 7."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.redis_server import PASSWORD, RedisServer, installed_binary
from tests.unit.storage.test_bus_redis import BEACON, RUNS, Process, carrying, committed

from runwire.errors import ConfigurationError
from runwire.storage.bus_redis import _shard

SLOTS = 16_384
_BINARY = installed_binary()

# Sharded channels came with Redis 7, and the wheel's 6.2 has no TLS either.
pytestmark = pytest.mark.skipif(_BINARY is None, reason="no redis-server on PATH: clusters, sentinels, TLS untested")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Start three nodes, each with a third of the slots."""
    folder = tmp_path_factory.mktemp("cluster")
    nodes = [
        RedisServer.start(
            folder / str(number),
            binary=_BINARY,
            password=PASSWORD,
            options=[
                ("cluster-enabled", "yes"),
                ("cluster-port", str(RedisServer(folder).port)),  # else 10,000 more than its own, which may be too much
                ("cluster-node-timeout", "2000"),
                ("masterauth", PASSWORD),
            ],
        )
        for number in range(3)
    ]
    for number, node in enumerate(nodes):
        first, after = SLOTS * number // 3, SLOTS * (number + 1) // 3
        assert node.execute("CLUSTER", "ADDSLOTSRANGE", str(first), str(after - 1)) == b"+OK\r\n"
        node.execute("CLUSTER", "MEET", "127.0.0.1", str(nodes[0].port), nodes[0].option("cluster-port"))
    yield nodes
    for node in nodes:
        node.remove()


async def until(node: RedisServer, command: tuple[str, ...], said: bytes) -> None:
    async with asyncio.timeout(15):
        while said not in node.execute(*command):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


def users(count: int) -> list[str]:
    return [f"usr_{number}" for number in range(count)]


async def test_cluster_carries_every_users_commits(cluster: list[RedisServer]) -> None:
    for node in cluster:
        await until(node, ("CLUSTER", "INFO"), b"cluster_state:ok")
    # One of the named nodes is nobody: the other knows them all.
    url = f"redis+cluster://:{PASSWORD}@127.0.0.1:1,{cluster[1].address}"
    one, other = Process(url), Process(url)
    for user in users(100):
        other.bus.follow(user)
    async with carrying(one, other):
        assert len(one.bus._links) == 3
        said = [committed(user=user) for user in users(100)]
        for message in said:
            one.bus.publish(message)
        one.bus.publish(RUNS)
        await other.hears(*said, RUNS)
        counts = [node.execute("PUBSUB", "SHARDCHANNELS") for node in cluster]
        assert all(count.count(b"runwire:") > 10 for count in counts)  # each carries its part
        # A beacon proves all three ways.
        one.bus.publish(BEACON)
        await one.hears(BEACON)
        ear = one.bus._links[2]._ear
        assert ear._writer is not None
        ear._writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport, too
        await asyncio.sleep(0.25)
        one.heard.clear()
        for _ in range(5):
            one.bus.publish(BEACON)
            await asyncio.sleep(0.01)
        assert BEACON not in one.heard
        ear._writer.transport.resume_reading()  # type: ignore[attr-defined]
        cluster[2].pause()
        try:
            await one.hears_no_beacon()
        finally:
            cluster[2].resume()
        async with asyncio.timeout(15):
            while not set(said) <= set(other.heard):
                for message in said:
                    one.bus.publish(message)
                await asyncio.sleep(0.1)


async def test_slot_that_moves_takes_its_channels_along(cluster: list[RedisServer]) -> None:
    url = f"redis+cluster://:{PASSWORD}@{cluster[0].address}"
    for node in cluster:
        await until(node, ("CLUSTER", "INFO"), b"cluster_state:ok")
    one, other = Process(url), Process(url)
    user = next(user for user in users(1_000) if one.bus._channels[_shard(user)] == b"runwire:0")
    async with carrying(one, other):
        await other.follow(user)
        slot = cluster[0].execute("CLUSTER", "KEYSLOT", "runwire:0").decode().strip(":\r\n")
        place = one.bus._route.place(b"runwire:0")
        owner = next(node for node in cluster if node.port == one.bus._route.nodes[place][1])
        heir = next(node for node in cluster if node is not owner)
        name = heir.execute("CLUSTER", "MYID").decode().split("\r\n")[1]
        for node in (heir, *(node for node in cluster if node is not heir)):
            assert node.execute("CLUSTER", "SETSLOT", slot, "NODE", name) == b"+OK\r\n"
        async with asyncio.timeout(15):
            while committed(user=user) not in other.heard:
                one.bus.publish(committed(user=user))
                await asyncio.sleep(0.05)


async def test_bus_follows_the_master_that_sentinels_name(tmp_path: Path) -> None:
    login = [("masterauth", PASSWORD), ("repl-diskless-sync-delay", "0")]
    master, replica = (
        RedisServer.start(tmp_path / name, binary=_BINARY, password=PASSWORD, options=login) for name in ("a", "b")
    )
    replica.execute("REPLICAOF", "127.0.0.1", str(master.port))
    await until(replica, ("INFO", "replication"), b"master_link_status:up")  # so that the sentinel sees it at once
    sentinel = RedisServer.start(
        tmp_path / "sentinel",
        binary=_BINARY,
        sentinel=[
            f"sentinel monitor main 127.0.0.1 {master.port} 1",
            f"sentinel auth-pass main {PASSWORD}",
            "sentinel down-after-milliseconds main 300",
        ],
    )
    try:
        sentinel.execute("SENTINEL", "DEBUG", "info-period", "100")
        await until(sentinel, ("SENTINEL", "REPLICAS", "main"), str(replica.port).encode())
        url = f"redis+sentinel://:{PASSWORD}@127.0.0.1:1,{sentinel.address}/main"
        one, other = Process(url), Process(url)
        async with carrying(one, other):
            await other.follow()
            assert one.bus._route.nodes == (("127.0.0.1", master.port),)
            # As when a master is taken down: nobody waits for the sentinel to miss it.
            await until(sentinel, ("SENTINEL", "FAILOVER", "main"), b"OK")
            async with asyncio.timeout(15):
                while committed() not in other.heard or one.bus._route.nodes[0][1] != replica.port:
                    one.bus.publish(committed())
                    await asyncio.sleep(0.05)
    finally:
        for server in (sentinel, master, replica):
            server.remove()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(tz=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "redis.crt", folder / "redis.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


async def test_bus_speaks_tls_and_believes_no_other_certificate(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    server = RedisServer(tmp_path / "server", binary=_BINARY, password=PASSWORD)
    with_tls = RedisServer(tmp_path / "tls", binary=_BINARY)
    server.options += [
        ("tls-port", str(with_tls.port)),
        ("tls-cert-file", str(certificate)),
        ("tls-key-file", str(key)),
        ("tls-ca-cert-file", str(certificate)),
        ("tls-auth-clients", "no"),
    ]
    server.restart()
    try:
        url = f"rediss://:{PASSWORD}@{with_tls.address}"
        one, other = (Process(f"{url}?ssl_ca_certs={certificate}") for _ in range(2))
        async with carrying(one, other):
            await other.follow()
            one.bus.publish(committed())
            assert await other.hears(committed()) == [committed()]
        with pytest.raises(ConfigurationError, match="certificate"):
            await Process(url).bus.run()
    finally:
        server.remove()
