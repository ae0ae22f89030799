"""Layers, sources and faults of the settings; the environment is given, never the process's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire.errors import ConfigurationError
from runwire.settings import client_defaults, load, no_color
from runwire.settings.sources import TEST_NAMES


def faults_of(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load(environ=environ)
    return "\n".join(refused.value.faults)


def test_each_layer_wins_over_the_one_before_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "runwire.toml"
    file.write_text(
        'host = "0.0.0.0"\nport = 1\nmax_runs = 7\nallowed_origins = ["https://a.example"]\n', encoding="utf-8"
    )
    environ = {"RUNWIRE_PORT": "2", "RUNWIRE_DRAIN_S": "4"}
    loaded = load({"port": 3, "host": None}, environ=environ, config_file=file, serves=False)
    settings, sources = loaded.settings, loaded.sources
    assert (settings.host, settings.port, settings.max_runs, settings.drain_s) == ("0.0.0.0", 3, 7, 4.0)
    assert settings.allowed_origins == ("https://a.example",)
    assert (sources["host"], sources["port"]) == (str(file), "the command line")
    assert (sources["drain_s"], sources["ping_s"]) == ("RUNWIRE_DRAIN_S", "default")


def test_every_fault_is_named_at_once_with_its_source_and_without_its_value(tmp_path: Path) -> None:
    file = tmp_path / "runwire.toml"
    file.write_text('prot = 1\nservice_secret = "hunter2"\n', encoding="utf-8")
    with pytest.raises(ConfigurationError) as refused:
        load(environ={"RUNWIRE_PORT": "many", "RUNWIRE_HOSTT": "x", "RUNWIRE_HOST": " "}, config_file=file)
    text = "\n".join(refused.value.faults)
    for word in (
        "unknown setting `prot`",
        "`port`",
        "port (from RUNWIRE_PORT)",
        "RUNWIRE_HOSTT",
        "RUNWIRE_HOST: is empty",
    ):
        assert word in text, word
    assert f"service_secret (from {file})" in text
    assert "hunter2" not in text
    assert "many" not in text


def test_a_named_file_must_exist_and_be_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load(environ={}, config_file=tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("[", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="cannot be read as TOML"):
        load(environ={}, config_file=tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("RUNWIRE_ALLOWED_ORIGINS", "example.org", "scheme://host"),
        ("RUNWIRE_ALLOWED_ORIGINS", "https://*.example.org", "scheme://host"),
        ("RUNWIRE_ALLOWED_ORIGINS", "https://a.example/path", "scheme://host"),
        ("RUNWIRE_ALLOWED_ORIGINS", "http://a.example", "use https"),
        ("RUNWIRE_ALLOWED_ORIGINS", "http://localhost.evil.example", "use https"),
        ("RUNWIRE_PUBLIC_URL", "agents.example.org", "https://agents.example.org"),
        ("RUNWIRE_TRUSTED_PROXIES", "foo", "IP address"),
        ("RUNWIRE_PATH_PREFIX", "agents/", "begin with /"),
        ("RUNWIRE_ACCESS_TTL_S", "3600", "less than or equal to 900"),
        ("RUNWIRE_SERVICE_SECRET", "short", "at least 32"),
        ("RUNWIRE_ENVIRONMENT", "prod", "'production'"),
        ("RUNWIRE_COMPACT_AFTER_S", "inf", "finite"),
        ("RUNWIRE_RETENTION_DAYS", "1e300", "less than or equal to 36500"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_write(name: str, value: str, word: str) -> None:
    assert word in faults_of({name: value})


def test_lists_come_comma_separated_and_localhost_may_be_plain() -> None:
    loaded = load(environ={"RUNWIRE_ALLOWED_ORIGINS": "https://a.example, http://localhost:3000"})
    assert loaded.settings.allowed_origins == ("https://a.example", "http://localhost:3000")


def test_origins_are_written_as_browsers_write_them() -> None:
    loaded = load(
        environ={
            "RUNWIRE_ALLOWED_ORIGINS": "https://A.Example:443, https://b.example:8443",
            "RUNWIRE_PUBLIC_URL": "https://Agents.Example.org:443/runs/",
        },
        serves=False,
    )
    assert loaded.settings.allowed_origins == ("https://a.example", "https://b.example:8443")
    assert loaded.settings.public_url == "https://agents.example.org/runs"


def test_settings_are_frozen_and_read_nothing_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWIRE_PORT", "4711")
    settings = load(environ={}).settings
    assert settings.port == 8000
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings, "port", 1)  # noqa: B010 - the plain statement does not type-check, which is the point too


def test_the_embedded_database_lies_in_the_data_folder_whatever_its_name(tmp_path: Path) -> None:
    settings = load({"data_dir": tmp_path / "a#b%20c"}, environ={}).settings
    assert settings.storage_url == f"sqlite://{tmp_path}/a%23b%2520c/runwire.db"


def test_clients_and_colours_have_their_own_variables() -> None:
    defaults = client_defaults({"RUNWIRE_URL": "http://x", "RUNWIRE_TOKEN": ""})
    assert (defaults.url, defaults.token) == ("http://x", None)
    assert load(environ={"RUNWIRE_URL": "http://x", "RUNWIRE_TOKEN": "t"}).settings.port == 8000
    assert no_color({"NO_COLOR": "1"})
    assert not no_color({"NO_COLOR": ""})


def test_servers_start_where_the_tests_of_a_staging_are_told_of_it() -> None:
    assert load(environ=dict.fromkeys(TEST_NAMES, "x")).settings.port == 8000
    with pytest.raises(ConfigurationError, match="RUNWIRE_STAGING_URI"):
        load(environ={"RUNWIRE_STAGING_URI": "http://x"})


def test_only_who_serves_is_judged_for_what_would_be_unsafe_to_serve() -> None:
    environ = {"RUNWIRE_ALLOWED_ORIGINS": "http://a.example"}
    assert load(environ=environ, serves=False).settings.allowed_origins == ("http://a.example",)
    assert load({"environment": "development"}, environ=environ).settings.environment == "development"
    with pytest.raises(ConfigurationError, match="use https"):
        load(environ=environ)
    with pytest.raises(ConfigurationError, match="RUNWIRE_PORT"):  # what is no setting at all is one for nobody
        load(environ=environ | {"RUNWIRE_PORT": "many"}, serves=False)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:hush@db.example:5432/runwire?sslmode=require", "postgresql://db.example:5432/runwire"),
        ("postgres://db/runwire", "postgresql://db/runwire"),
        ("postgresql://ada:hush@one:1,two:2/runwire", "postgresql://one:1,two:2/runwire"),
        ("postgresql:///runwire?password=hush", "postgresql:///runwire"),
        ("postgresql://ada:hu/sh@db/runwire", "postgresql://…"),
        ("postgresql://ada:12?hush@db/runwire", "postgresql://…"),
        ("postgresql://ada:12#hush@db/runwire", "postgresql://…"),
        ("postgresql://db/runwire?password=hu@sh", "postgresql://…"),
    ],
)
def test_url_of_a_database_is_shown_without_its_password(url: str, shown: str) -> None:
    settings = load({"database_url": url}, environ={}, serves=False).settings
    assert settings.shown_url == shown
    assert settings.is_shared
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [("database_url", "mysql://ada:hush@db/x"), ("lease_s", 2.9), ("lease_s", 301), ("park_after_s", -1)],
)
def test_setting_out_of_its_bounds_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name) as refusal:
        load({name: value}, environ={})
    assert "hush" not in refusal.value.message


SHARED = "postgresql://ada:hush@db/runwire?sslmode=require"
SECRET = "0123456789abcdef" * 2


def test_roles_are_all_or_some_of_three() -> None:
    assert load(environ={}).settings.active_roles == {"gateway", "worker", "auth"}
    environ = {"RUNWIRE_ROLES": "gateway, worker,auth", "RUNWIRE_DATABASE_URL": SHARED}
    assert load(environ=environ).settings.active_roles == {"gateway", "worker", "auth"}
    assert load({"roles": ("worker",), "database_url": SHARED}, environ={}).settings.active_roles == {"worker"}


@pytest.mark.parametrize(
    ("roles", "word"),
    [
        (("gatway",), "no role `gatway` (did you mean `gateway`?)"),
        (("all", "worker"), "all alone"),
        ((), "all alone"),
    ],
)
def test_roles_that_are_none_are_refused(roles: tuple[str, ...], word: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load({"roles": roles}, environ={})
    assert word in refused.value.message
    assert "roles (from the command line)" in refused.value.message


@pytest.mark.parametrize(
    ("roles", "missing"),
    [
        (("gateway",), {"database_url", "auth_url", "service_secret", "public_url"}),
        (("gateway", "worker"), {"database_url", "auth_url", "service_secret", "public_url"}),
        (("auth",), {"database_url", "service_secret", "public_url"}),
        (("auth", "worker"), {"database_url", "service_secret", "public_url"}),
        (("gateway", "auth"), {"database_url", "public_url"}),
        (("worker",), {"database_url"}),  # it knows nothing of people but what the database says
        (("all",), set()),
        (("gateway", "worker", "auth"), set()),
    ],
)
def test_what_a_role_needs_is_named_at_once_with_who_wants_it(roles: tuple[str, ...], missing: set[str]) -> None:
    if not missing:
        load({"roles": roles}, environ={})
        return
    with pytest.raises(ConfigurationError) as refused:
        load({"roles": roles}, environ={})
    assert {fault.partition(":")[0] for fault in refused.value.faults} == missing
    assert all(f"roles {', '.join(roles)} (from the command line)" in fault for fault in refused.value.faults)
    given = {"database_url": SHARED, "auth_url": "http://auth", "service_secret": SECRET, "public_url": "https://us"}
    load({"roles": roles, "management_port": 9000, **{name: given[name] for name in missing}}, environ={})


def test_what_must_agree_is_needed_in_development_too_but_only_where_two_must() -> None:
    development = {"environment": "development", "database_url": SHARED}
    load({**development, "roles": ("gateway", "auth")}, environ={})
    with pytest.raises(ConfigurationError, match="public_url"):
        load({**development, "roles": ("auth",), "service_secret": SECRET}, environ={})


def test_one_wrong_setting_hides_no_fault_of_the_others_and_is_not_judged_twice() -> None:
    flags = {"roles": ("gateway",), "port": "many", "auth_url": "ftp://x", "redis_url": "http://ada:hush@x"}
    with pytest.raises(ConfigurationError) as refused:
        load(flags, environ={"RUNWIRE_HOSTT": "x"})
    named = [fault.split()[0].rstrip(":") for fault in refused.value.faults]
    assert sorted(named) == sorted(
        ["RUNWIRE_HOSTT", "port", "auth_url", "redis_url", "database_url", "service_secret", "public_url"]
    )
    assert "hush" not in refused.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auth_url", "auth.internal"),
        ("auth_url", "https://ada:hush@auth.internal"),
        ("auth_url", "https://auth.internal/?key=hush"),
        ("redis_url", "http://ada:hush@redis"),
        ("service_secret", "hush with spaces, of more than 32 characters"),
        ("service_secret", "hüsh" * 10),
    ],
)
def test_wrong_address_or_secret_is_refused_without_being_shown(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as refused:
        load({name: value}, environ={})
    assert "hush" not in refused.value.message
    assert "hüsh" not in refused.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hush@redis:6379/0", "redis://redis:6379/0"),
        ("rediss://ada:hush@redis/0?protocol=3", "rediss://redis/0"),
        ("redis+sentinel://:hush@one:1,two:2/main", "redis+sentinel://one:1,two:2/main"),
        ("redis+cluster://[::1]:7000", "redis+cluster://[::1]:7000"),
        ("unix:///run/redis.sock?password=hush", "unix:///run/redis.sock"),
        ("redis://:hu/sh@redis/0", "redis://…"),
        ("redis://:12#hush@redis", "redis://…"),
        ("redis://redis/0?password=hu@sh", "redis://…"),
    ],
)
def test_url_of_redis_is_shown_without_its_password(url: str, shown: str) -> None:
    settings = load({"redis_url": url}, environ={}, serves=False).settings
    assert settings.shown_redis_url == shown
    assert "hush" not in repr(settings)
