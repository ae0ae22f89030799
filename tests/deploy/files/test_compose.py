"""The Compose file: as its specification wants it, and with nothing open that need not be."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from check_jsonschema.builtin_schemas import get_builtin_schema
from tests.deploy.processes import COMPOSE, compose_file, image_environ


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose_file()["services"]
    return found


def test_it_keeps_to_the_schema_of_compose_files() -> None:
    jsonschema.validate(compose_file(), get_builtin_schema("vendor.compose-spec"))


def test_the_schema_would_notice_a_word_that_is_none() -> None:
    broken = compose_file()
    broken["services"]["auth"]["stop_grace_periods"] = "60s"
    with pytest.raises(jsonschema.ValidationError, match="stop_grace_periods"):
        jsonschema.validate(broken, get_builtin_schema("vendor.compose-spec"))


def test_there_are_two_gateways_three_workers_and_one_of_the_rest(services: dict[str, dict[str, Any]]) -> None:
    counts = {name: service.get("deploy", {}).get("replicas", 1) for name, service in services.items()}
    assert counts == {
        "postgres": 1, "redis": 1, "migrate": 1, "auth": 1, "gateway-1": 1, "gateway-2": 1, "worker": 3, "caddy": 1,
    }  # fmt: skip


def test_images_are_named_with_their_version(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert re.search(r":\d+\.\d+(\.\d+)?(-[a-z]+)?$", service["image"]), name


def test_only_the_proxy_is_reached_from_outside(services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["caddy"]
    networks = compose_file()["networks"]
    assert networks["back"]["internal"] is True
    for name in ("postgres", "redis", "auth", "migrate"):
        assert services[name]["networks"] == ["back"]


def test_gateways_believe_the_proxy_and_nobody_can_have_its_address(services: dict[str, dict[str, Any]]) -> None:
    front = compose_file()["networks"]["front"]["ipam"]["config"][0]
    address = services["caddy"]["networks"]["front"]["ipv4_address"]
    assert services["gateway-1"]["environment"]["RUNWIRE_TRUSTED_PROXIES"] == address
    assert front == {"subnet": "172.30.80.0/24", "ip_range": "172.30.80.128/25"}
    assert int(address.rpartition(".")[2]) < 128
    assert set(services["caddy"]["environment"]["RUNWIRE_UPSTREAMS"].split()) == {"gateway-1:8000", "gateway-2:8000"}
    assert services["caddy"]["environment"]["RUNWIRE_HEALTH_PORT"] == image_environ()["RUNWIRE_MANAGEMENT_PORT"]


def test_everything_that_stays_says_how_it_is_and_comes_back(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if name == "migrate":
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped"
        assert name == "caddy" or service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


def test_servers_wait_for_the_tables(services: dict[str, dict[str, Any]]) -> None:
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in ("auth", "worker"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    for name in ("gateway-1", "gateway-2"):
        assert services[name]["depends_on"]["auth"]["condition"] == "service_healthy"


def test_processes_of_runwire_can_do_no_more_than_they_must(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if service["image"].startswith("runwire"):
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["pull_policy"] == "never", name


def test_no_secret_is_written_down() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    # Between the colon and the @ of a URL, after `requirepass`, in a secret's variable: one that must be set.
    found = re.findall(r"(?:://\w*:(?=\D)|requirepass |(?:_SECRET|_PASSWORD): )(\S+)", text)
    assert len(found) == 6
    assert all(re.match(r"\$\{\w+:\?", value) for value in found), found
