"""`runwire config`: every value and where it came from, nothing secret; what a person and a program read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner, Result

from runwire.cli.config import config
from runwire.errors import ConfigurationError
from runwire.settings import RULES, Settings, load, shown

CANARY: Final = "hush-canary-hush"
SECRET: Final = "5e9b0c27d1f4a386" * 2
ISSUER: Final = {"name": "company", "issuer": "https://id.example", "audience": "r", "client_id": "c"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a value from each layer, four of them secret."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runwire.toml").write_text('max_runs = 1\nport = 81\nlog_format = "json"\n', encoding="utf-8")
    (tmp_path / "runwire.staging.toml").write_text("max_runs = 2\n", encoding="utf-8")
    (tmp_path / "secret").write_text(f"{CANARY}-{SECRET}\n", encoding="utf-8")
    environ = {
        "RUNWIRE_ENVIRONMENT": "staging",
        "RUNWIRE_MAX_RUNS": "3",
        "RUNWIRE_SERVICE_SECRET_FILE": str(tmp_path / "secret"),
        "RUNWIRE_DATABASE_URL": f"postgresql://ada:{CANARY}@db.example/runwire?sslmode=require",
        "RUNWIRE_REDIS_URL": f"rediss://:{CANARY}@redis.example/0",
        "RUNWIRE_ISSUERS": json.dumps([{**ISSUER, "client_secret": CANARY}]),
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def run(*words: str, status: int = 0) -> str:
    done: Result = CliRunner().invoke(config, list(words))
    if isinstance(done.exception, ConfigurationError):
        raise done.exception
    assert done.exit_code == status, done.output
    assert CANARY not in done.output
    assert SECRET not in done.output
    return done.output


def ask(*words: str, status: int = 0) -> Any:
    return json.loads(run(*words, "--json", status=status))


@pytest.mark.usefixtures("folder")
def test_show_has_every_setting_with_value_and_source_and_no_secret() -> None:
    lines = run("show").splitlines()
    assert [line.split()[0] for line in lines] == list(Settings.model_fields)
    table = {line.split()[0]: line.split()[1:] for line in lines}
    assert table["max_runs"] == ["3", "RUNWIRE_MAX_RUNS"]
    assert table["port"] == ["81", "runwire.toml"]
    assert table["drain_s"] == ["30.0", "default"]
    assert table["service_secret"] == [shown.MASK, "RUNWIRE_SERVICE_SECRET_FILE"]
    assert table["service_secret_before"] == ["-", "default"]
    assert table["database_url"] == ["postgresql://db.example/runwire", "RUNWIRE_DATABASE_URL"]
    assert table["redis_url"] == ["rediss://redis.example/0", "RUNWIRE_REDIS_URL"]
    assert table["issuers"] == ["company", "RUNWIRE_ISSUERS"]


@pytest.mark.usefixtures("folder")
def test_show_for_programs_and_what_is_changed_only() -> None:
    everything, changed = ask("show"), ask("show", "--changed")
    assert list(everything) == list(Settings.model_fields)
    assert everything["max_runs"] == {"value": 3, "source": "RUNWIRE_MAX_RUNS"}
    assert everything["database_url"]["value"] == ["postgresql://db.example/runwire"]
    assert everything["service_secret"]["value"] == shown.MASK
    assert everything["issuers"]["value"] == [{"name": "company", "issuer": "https://id.example"}]
    assert changed == {name: row for name, row in everything.items() if row["source"] != "default"}
    assert ask("show", "--environment", "production")["environment"] == {
        "value": "production",
        "source": "the command line",
    }


@pytest.mark.usefixtures("folder")
def test_explain_says_what_for_what_value_and_every_layer() -> None:
    about = ask("explain", "max_runs")
    assert about == {
        "setting": "max_runs",
        "meaning": "Runs at a time in this process.",
        "value": 3,
        "source": "RUNWIRE_MAX_RUNS",
        "default": "100",
        "bounds": "≥ 1, ≤ 10000",
        "variable": "RUNWIRE_MAX_RUNS",
        "layers": ["runwire.toml", "runwire.staging.toml", "RUNWIRE_MAX_RUNS"],
    }
    assert ask("explain", "RUNWIRE_MAX_RUNS") == about
    said = run("explain", "service_secret")
    assert shown.MASK in said
    assert "weak-secret" in said
    assert "one of development, test, staging, production" in run("explain", "environment")


@pytest.mark.parametrize("name", list(Settings.model_fields))
@pytest.mark.usefixtures("folder")
def test_each_setting_can_be_explained(name: str) -> None:
    about = ask("explain", name)
    assert about["meaning"]
    assert name in run("explain", name)


@pytest.mark.parametrize("rule", [rule.id for rule in RULES])
def test_each_rule_can_be_explained(rule: str) -> None:
    about = ask("explain", rule)
    assert about["allow"] == f"--allow-unsafe {rule}"
    assert about["fix"] in run("explain", rule)


def test_explain_hints_at_what_was_meant() -> None:
    said = " ".join(run("explain", "max_run", status=2).replace("│", " ").split())
    assert "did you mean `max_runs`?" in said


@pytest.mark.usefixtures("folder")
def test_check_says_all_that_would_end_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWIRE_HOST", "0.0.0.0")
    answer = ask("check", status=78)
    assert answer["is_ok"] is False
    assert [fault.rpartition("(rule ")[2] for fault in answer["faults"]] == ["no-public-url).", "open-metrics)."]
    with pytest.raises(ConfigurationError) as refused:
        run("check")
    assert refused.value.faults == answer["faults"]


def test_check_says_ok_and_what_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ask("check") == {"is_ok": True, "environment": "production", "changed": 0, "unsafe_allowed": []}
    monkeypatch.setenv("RUNWIRE_DATABASE_URL", "memory://")
    monkeypatch.setenv("RUNWIRE_ALLOW_UNSAFE", "memory-database")
    assert ask("check")["unsafe_allowed"] == ["memory-database"]
    assert "unsafe and allowed: memory-database: database_url is memory" in run("check")


def test_schema_is_json_schema_of_what_a_file_may_have() -> None:
    schema = json.loads(run("schema"))
    assert list(schema["properties"]) == list(Settings.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["port"]["maximum"] == 65535


def test_env_is_a_file_that_changes_nothing_and_names_everything(tmp_path: Path) -> None:
    lines = run("env").splitlines()
    assert all(line.startswith("#") or not line for line in lines)
    given = dict(line[1:].split("=", 1) for line in lines if line.startswith("#RUNWIRE_"))
    assert {name.removesuffix("_FILE") for name in given} == {shown.variable(name) for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        assert (f"{shown.variable(name)}_FILE" in given) is (not field.repr)
    # What has a default can be taken as it stands.
    defaults = {name: value for name, value in given.items() if value and not name.endswith("_FILE")}
    assert load(environ=defaults).settings == load(environ={}).settings


def test_no_field_whose_value_is_secret_is_shown_by_its_name_alone() -> None:
    """Whoever adds a secret says `repr=False`, and it is masked everywhere."""
    secret = {name for name in Settings.model_fields if shown.is_secret(name)}
    words = ("secret", "password", "token", "credential")
    likely = {name for name in Settings.model_fields if any(word in name for word in words)}
    assert likely - {"secrets_dir", "user_tokens_per_day"} <= secret
    assert secret >= {"service_secret", "service_secret_before", "database_url", "redis_url", "issuers"}
