"""The files of `deploy/` set what Runwire knows, all that a role needs, and no secret of their own."""

from __future__ import annotations

import pytest
from tests.deploy.processes import (
    ANSWERS,
    COMPOSE,
    DEPLOY,
    KUBERNETES,
    UNIT_ANSWERS,
    Process,
    compose_processes,
    documents,
    environment_file,
    processes,
    systemd_processes,
)

from runwire.errors import ConfigurationError
from runwire.settings import Settings, load

AFTER_DRAIN_S = 10.0  # requests end (5 s), the bus says its last, the database is left
EVERYTHING = processes()
SERVERS = [process for process in EVERYTHING if process.words == ("serve",)]


def _settings(process: Process) -> Settings:
    return load(environ=process.environ, serves=process.words == ("serve",)).settings


def _ids(process: Process) -> str:
    return process.name


@pytest.mark.parametrize("process", EVERYTHING, ids=_ids)
def test_every_variable_is_a_setting_with_a_value_that_is_taken(process: Process) -> None:
    settings = _settings(process)
    assert settings.environment == "production"
    assert settings.is_shared
    assert process.words in (("serve",), ("migrate",))


@pytest.mark.parametrize("process", SERVERS, ids=_ids)
def test_a_server_has_one_role_and_what_the_role_needs(process: Process) -> None:
    settings = _settings(process)
    assert settings.roles in (("gateway",), ("worker",), ("auth",))
    assert settings.public_url == "https://agents.example.org"
    assert settings.redis_url
    (role,) = settings.roles
    assert bool(settings.agents) is (role == "worker"), "agents are the worker's"
    assert bool(settings.auth_url) is (role == "gateway"), "the gateway asks the auth service, nobody else"
    assert bool(settings.service_secret) is (role != "worker"), "agents' code must not see the service secret"
    # The auth service believes a gateway by the secret.
    assert bool(settings.trusted_proxies) is (role == "gateway"), "only the first hop says who asks"


@pytest.mark.parametrize("process", SERVERS, ids=_ids)
def test_nothing_unsafe_is_allowed_but_what_never_leaves_the_machine(process: Process) -> None:
    allowed = {rule.id for rule in load(environ=process.environ).allowed}
    assert allowed == ({"database-without-tls", "redis-without-tls"} if process.name.startswith("compose") else set())


@pytest.mark.parametrize("process", SERVERS, ids=_ids)
def test_nobody_is_killed_before_the_drain_is_over(process: Process) -> None:
    settings = _settings(process)
    assert process.stop_s >= process.waits_s + settings.drain_s + AFTER_DRAIN_S


def test_each_way_to_deploy_has_every_role_and_the_migration() -> None:
    for way in ("compose", "kubernetes", "systemd"):
        mine = [process for process in EVERYTHING if process.name.startswith(way)]
        assert {process.role for process in mine if process.words == ("serve",)} == {"gateway", "worker", "auth"}
        (migrate,) = (process for process in mine if process.words == ("migrate",))
        # It needs the database and nothing else; a secret that is not there cannot leak.
        assert {"RUNWIRE_SERVICE_SECRET", "RUNWIRE_ROLES"}.isdisjoint(migrate.settings)


def test_servers_of_one_machine_listen_on_different_ports() -> None:
    units = [_settings(process) for process in systemd_processes() if process.words == ("serve",)]
    ports = [port for unit in units for port in (unit.port, unit.management_port) if port is not None]
    assert len(set(ports)) == len(ports) == 4


@pytest.mark.parametrize("missing", ["POSTGRES_PASSWORD", "REDIS_PASSWORD", "SERVICE_SECRET", "DOMAIN"])
def test_compose_has_no_default_for_what_must_be_filled_in(missing: str) -> None:
    with pytest.raises(AssertionError, match=f"{missing} has no value"):
        list(compose_processes({**ANSWERS, missing: ""}))


def test_the_example_of_compose_names_what_is_asked_for_and_has_no_secret() -> None:
    given = environment_file(DEPLOY / "compose" / "env.example", {})
    assert {name for name, value in given.items() if not value} == set(ANSWERS)
    # None of them is a setting: the file may be taken into a shell in which `runwire` is used.
    assert not [name for name in given if name.startswith("RUNWIRE_")]
    text = COMPOSE.read_text(encoding="utf-8")
    assert all(f"${{{name}" in text for name in given)


def test_examples_as_they_stand_start_nothing() -> None:
    for process in systemd_processes({}):
        with pytest.raises(ConfigurationError):
            load(environ=process.environ)
    (secret,) = documents(KUBERNETES / "secret.example.yaml")
    placeholders = {f"RUNWIRE_{name.upper()}": value for name, value in secret["stringData"].items()}
    with pytest.raises(ConfigurationError) as refused:
        load(environ=placeholders)
    assert len(refused.value.faults) >= 2


def test_the_examples_ask_for_what_the_tests_fill_in() -> None:
    asked = environment_file(DEPLOY / "systemd" / "runwire.env.example", {}) | environment_file(
        DEPLOY / "systemd" / "service.env.example", {}
    )
    assert {name for name, value in asked.items() if not value} == set(UNIT_ANSWERS)
