"""What production and staging refuse: each rule alone, all together, and each allowed alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest

from runwire.errors import ConfigurationError
from runwire.settings import RULES, Loaded, facts, load, unsafe

SECRET: Final = "5e9b0c27d1f4a386" * 2
SAFE: Final[Mapping[str, Any]] = {
    "public_url": "https://agents.example.org",
    "management_port": 9000,
    "service_secret": SECRET,
    "trusted_proxies": "10.1.2.3",
    "database_url": "postgresql://ada:hush@db.example/runwire?sslmode=verify-full",
    "redis_url": "rediss://:hush@redis.example/0",
}
HTTP_ISSUER: Final = (
    '[{"name": "a", "issuer": "http://localhost:9/x", "audience": "r", "allow_private_addresses": true}]'
)
# Each: the rule, and what breaks it and nothing else (None: not set).
BROKEN: Final[list[tuple[str, dict[str, Any]]]] = [
    ("no-public-url", {"public_url": None, "host": "0.0.0.0"}),
    ("no-public-url", {"public_url": None, "host": "agents.internal"}),
    ("no-public-url", {"public_url": None, "trusted_proxies": "127.0.0.1"}),
    ("http-public-url", {"public_url": "http://agents.example.org"}),
    ("http-public-url", {"public_url": "http://localhost.evil.example"}),
    ("http-origins", {"allowed_origins": "https://a.example, http://192.168.1.7:3000"}),
    ("http-issuers", {"issuers": HTTP_ISSUER}),
    ("weak-secret", {"service_secret": "a" * 40}),
    ("weak-secret", {"service_secret": "ChangeMe-" + SECRET}),
    ("weak-secret", {"service_secret_before": "ab" * 30}),
    ("trust-all-proxies", {"trusted_proxies": "0.0.0.0/0"}),
    ("trust-all-proxies", {"trusted_proxies": "10.0.0.1, ::/0"}),
    ("trust-all-proxies", {"trusted_proxies": "0.0.0.0/1, 128.0.0.0/1"}),
    ("open-metrics", {"management_port": None}),
    ("open-metrics", {"management_port": None, "host": "0.0.0.0"}),
    ("database-without-tls", {"database_url": "postgresql://ada:hush@db.example/runwire"}),
    ("database-without-tls", {"database_url": "postgresql://ada:hush@db/runwire?sslmode=prefer"}),
    ("database-without-tls", {"database_url": "postgresql://ada:hush@127.0.0.1,db.example/runwire"}),
    ("database-without-tls", {"database_url": "postgresql://ada:hush@/runwire?host=db.example"}),
    (
        "database-without-tls",
        {"database_url": f"{SAFE['database_url']} postgresql://ada:hush@two.example/runwire"},
    ),
    ("redis-without-tls", {"redis_url": "redis://:hush@redis.example/0"}),
    ("redis-without-tls", {"redis_url": "redis+sentinel://127.0.0.1,10.0.0.2/main"}),
    ("redis-without-tls", {"redis_url": "redis+cluster://[fd00::1]:7000"}),
    ("otel-without-tls", {"otel_endpoint": "http://collector.internal:4318"}),
    ("memory-database", {"database_url": "memory://"}),
    ("debug-log", {"log_level": "debug"}),
    ("conformance-agents", {"with_conformance_agents": True}),
]
# What is like them, and safe.
HARMLESS: Final[list[dict[str, Any]]] = [
    {},
    {"otel_endpoint": "http://127.0.0.1:4318"},
    {"otel_endpoint": "https://collector.internal"},
    {"public_url": "http://localhost:8000"},
    {"allowed_origins": "http://localhost:3000, http://127.0.0.1:3000"},
    {"trusted_proxies": "10.0.0.0/8, fd00::/8"},
    {"database_url": "postgresql://ada:hush@127.0.0.1/runwire"},
    {"database_url": "postgresql://ada:hush@localhost:5433,[::1]:5432/runwire"},
    {"database_url": "postgresql:///runwire?host=/run/postgresql"},
    {"database_url": "postgresql:///runwire"},
    {"database_url": None},
    {"redis_url": "unix:///run/redis.sock"},
    {"redis_url": "redis://127.0.0.1:6379/0"},
    {"redis_url": None, "log_level": "info"},
    {"service_secret": None},
]


def loaded(changes: Mapping[str, Any], **more: Any) -> Loaded:
    return load({**SAFE, **changes, **more}, environ={})


def refused(changes: Mapping[str, Any], **more: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as refusal:
        loaded(changes, **more)
    assert "hush" not in refusal.value.message
    return refusal.value.faults


@pytest.mark.parametrize("environment", ["production", "staging"])
@pytest.mark.parametrize(("rule", "changes"), BROKEN)
def test_d4_each_unsafe_setting_alone_is_refused_and_its_rule_alone_lets_it_pass(
    environment: str, rule: str, changes: dict[str, Any]
) -> None:
    (fault,) = refused(changes, environment=environment)
    (broken,) = [one for one in RULES if one.id == rule]
    assert fault.endswith(f"(rule {rule}).")
    assert fault.startswith(f"{broken.settings[0]} (from ")
    assert broken.fix in fault
    assert [one.id for one in loaded(changes, environment=environment, allow_unsafe=rule).allowed] == [rule]
    others = ",".join(one.id for one in RULES if one.id != rule)
    assert refused(changes, environment=environment, allow_unsafe=others) == [fault]


def test_each_rule_is_tried_here() -> None:
    elsewhere = {"sqlite-on-network"}  # test_facts.py: it depends on the machine
    assert {rule for rule, _ in BROKEN} | elsewhere == {rule.id for rule in RULES}


@pytest.mark.parametrize("changes", HARMLESS)
def test_what_is_only_like_it_is_served(changes: dict[str, Any]) -> None:
    assert loaded(changes).allowed == ()


@pytest.mark.parametrize("environment", ["development", "test"])
@pytest.mark.parametrize(("rule", "changes"), BROKEN)
def test_development_and_test_refuse_none_of_them(environment: str, rule: str, changes: dict[str, Any]) -> None:
    assert loaded(changes, environment=environment).allowed == (), rule


def test_d4_all_at_once_are_named_at_once_beside_what_is_wrong_anyway() -> None:
    changes = {
        "public_url": "http://agents.example.org",
        "allowed_origins": "http://a.example",
        "issuers": HTTP_ISSUER,
        "service_secret": "a" * 40,
        "trusted_proxies": "0.0.0.0/0",
        "management_port": None,
        "database_url": "postgresql://ada:hush@db.example/runwire",
        "redis_url": "redis://:hush@redis.example/0",
        "otel_endpoint": "http://collector.internal:4318",
        "log_level": "debug",
        "with_conformance_agents": True,
        "access_ttl_s": 3600,
    }
    faults = refused(changes)
    named = {fault.rpartition("(rule ")[2].removesuffix(").") for fault in faults if "(rule " in fault}
    expected = {rule.id for rule in RULES} - {"no-public-url", "memory-database", "sqlite-on-network"}  # need others
    assert named == expected
    assert len(faults) == len(expected) + 1
    assert any(fault.startswith("access_ttl_s") for fault in faults)


def test_what_only_this_machine_can_reach_needs_no_certificate_and_no_monitoring() -> None:
    alone = load({"log_level": "debug", "service_secret": "a" * 40}, environ={})
    assert alone.settings.environment == "production"
    assert alone.allowed == ()
    for host in ("127.0.0.2", "::1", "localhost"):
        assert load({"host": host}, environ={}).allowed == ()


def test_a_secret_between_two_processes_is_judged_wherever_they_listen() -> None:
    flags = {**SAFE, "roles": ("auth",), "public_url": "http://localhost:8000", "service_secret": "a" * 40}
    with pytest.raises(ConfigurationError, match="weak-secret"):
        load(flags, environ={})


def test_workers_and_auth_services_have_no_metrics_for_people() -> None:
    for role in ("worker", "auth"):
        assert load({**SAFE, "roles": (role,), "host": "0.0.0.0", "management_port": None}, environ={}).allowed == ()
    gateway = {**SAFE, "roles": ("gateway",), "auth_url": "https://auth.internal", "management_port": None}
    with pytest.raises(ConfigurationError, match="open-metrics"):
        load(gateway, environ={})


def test_a_rule_that_is_none_is_refused_in_every_environment_and_not_repeated() -> None:
    for environment in ("development", "production"):
        faults = refused({"allow_unsafe": ("open-metric", "hush-hush-hush")}, environment=environment)
        assert "`open-metric` (did you mean `open-metrics`?)" in faults[0]
        assert "there is no such rule" in faults[1]


def test_what_is_allowed_and_is_not_broken_is_not_called_allowed() -> None:
    assert loaded({}, allow_unsafe="open-metrics").allowed == ()


def test_a_role_that_lacks_something_is_told_once() -> None:
    flags = {**SAFE, "roles": ("gateway", "auth"), "public_url": None, "host": "0.0.0.0"}
    with pytest.raises(ConfigurationError) as refusal:
        load(flags, environ={})
    assert [fault.partition(":")[0] for fault in refusal.value.faults] == ["public_url"]


def test_rules_have_different_ids_and_name_settings() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    settings = load(environ={}).settings
    for rule in RULES:
        assert all(hasattr(settings, name) for name in rule.settings)
        assert not rule.sentence.endswith(".")
        assert not rule.fix.endswith(".")


def test_sqlite_on_a_network_is_refused_by_what_the_machine_says() -> None:
    settings = load(environ={}).settings
    for kind, is_broken in (("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("ext4", False), ("", False)):
        found = [rule.id for rule in unsafe.broken(settings, unsafe.Facts(file_system=kind))]
        assert found == (["sqlite-on-network"] if is_broken else []), kind
    assert facts.facts_of(settings).file_system  # of this machine: the rule is asked with it
