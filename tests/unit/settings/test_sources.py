"""Files, variables, secrets in files: what each layer gives, and what is refused with a hint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from runwire.errors import ConfigurationError
from runwire.settings import load

SECRET: Final = "5e9b0c27d1f4a386" * 2
CANARY: Final = "hush-canary-hush"  # in every value that must not be repeated


def faults_of(*, environ: dict[str, str] | None = None, config_file: Path | None = None, **flags: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load(flags, environ=environ or {}, config_file=config_file)
    assert CANARY not in refused.value.message
    return refused.value.message


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_each_layer_is_over_the_one_before_and_all_are_remembered(tmp_path: Path) -> None:
    file = write(tmp_path / "runwire.toml", 'environment = "test"\nmax_runs = 1\nport = 1\nping_s = 1\ndrain_s = 1\n')
    write(tmp_path / "runwire.test.toml", "max_runs = 2\nport = 2\nping_s = 2\n")
    write(tmp_path / "runwire.production.toml", 'max_runs = 9\nprot = "of nobody here"\n')
    secrets = write(tmp_path / "secrets" / "port", "4\n").parent
    environ = {"RUNWIRE_MAX_RUNS": "3", "RUNWIRE_PORT": "3", "RUNWIRE_SECRETS_DIR": str(secrets)}
    loaded = load({"max_runs": 5}, environ=environ, config_file=file)
    settings = loaded.settings
    assert (settings.drain_s, settings.ping_s, settings.port, settings.max_runs) == (1, 2, 4, 5)
    own = str(tmp_path / "runwire.test.toml")
    assert loaded.trail["max_runs"] == (str(file), own, "RUNWIRE_MAX_RUNS", "the command line")
    assert loaded.sources["port"] == "port of secrets_dir"
    assert "pong_s" not in loaded.trail


def test_a_table_of_a_later_file_changes_its_own_entries_and_one_of_the_environment_is_the_whole(
    tmp_path: Path,
) -> None:
    file = write(tmp_path / "runwire.toml", "[breakers]\nopen_s = 5\nprobes = 2\n[breakers.tool]\nprobes = 3\n")
    write(tmp_path / "runwire.production.toml", "[breakers]\nopen_s = 9\n[breakers.tool]\nopen_s = 4\n")
    loaded = load(environ={}, config_file=file)
    assert loaded.settings.breakers.each == {
        "": {"open_s": 9, "probes": 2},
        "tool": {"probes": 3, "open_s": 4},
    }
    assert loaded.trail["breakers"] == (str(file), str(tmp_path / "runwire.production.toml"))
    whole = load(environ={"RUNWIRE_BREAKERS": '{"open_s": 1}'}, config_file=file).settings
    assert whole.breakers.each == {"": {"open_s": 1}}


def test_the_environment_says_which_file_is_read_wherever_it_is_set(tmp_path: Path) -> None:
    file = write(tmp_path / "agents.toml", "max_runs = 1\n")
    write(tmp_path / "agents.staging.toml", "max_runs = 2\n")
    write(tmp_path / "agents.test.toml", "max_runs = 3\n")
    for environ, flags, expected in (
        ({}, {}, 1),
        ({"RUNWIRE_ENVIRONMENT": "staging"}, {}, 2),
        ({"RUNWIRE_ENVIRONMENT": "staging"}, {"environment": "test"}, 3),
        ({"RUNWIRE_ENVIRONMENT_FILE": str(write(tmp_path / "which", "staging\n"))}, {}, 2),
    ):
        assert load(flags, environ=environ, config_file=file).settings.max_runs == expected


def test_two_environments_in_one_process_never_see_each_others(tmp_path: Path) -> None:
    file = write(tmp_path / "runwire.toml", "max_runs = 1\n")
    for name, number in (("staging", 2), ("production", 3)):
        write(tmp_path / f"runwire.{name}.toml", f'max_runs = {number}\nallowed_origins = ["https://{name}.example"]\n')
    first = load({"environment": "staging"}, environ={"RUNWIRE_DRAIN_S": "1"}, config_file=file)
    second = load({"environment": "production"}, environ={"RUNWIRE_PING_S": "2"}, config_file=file)
    again = load({"environment": "staging"}, environ={"RUNWIRE_DRAIN_S": "1"}, config_file=file)
    assert first == again, "the second left nothing behind"
    assert (first.settings.max_runs, first.settings.drain_s, first.settings.ping_s) == (2, 1, 25)
    assert (second.settings.max_runs, second.settings.drain_s, second.settings.ping_s) == (3, 30, 2)
    assert first.settings.allowed_origins == ("https://staging.example",)
    for mapping in (first.sources, first.trail):
        with pytest.raises(TypeError):
            mapping["max_runs"] = ()  # type: ignore[index]  # that it cannot be written is the point
    for value, name in ((first, "settings"), (first.settings, "max_runs")):
        with pytest.raises((AttributeError, ValueError)):
            setattr(value, name, 4)


def test_a_file_that_sets_another_environment_or_is_for_none_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "runwire.toml", "")
    write(tmp_path / "runwire.production.toml", 'environment = "staging"\n')
    write(tmp_path / "runwire.prodution.toml", "")
    write(tmp_path / "runwire.dev.toml", "")
    write(tmp_path / "runwire.example.toml", "")  # nobody takes it for one of an environment
    said = faults_of(config_file=file)
    assert "sets another environment" in said
    assert "no environment `prodution` (did you mean `production`?)" in said
    assert "no environment `dev` (did you mean `development`?)" in said
    assert "example" not in said


def test_d5_a_misspelt_name_is_refused_with_the_nearest_one_wherever_it_is(tmp_path: Path) -> None:
    file = write(tmp_path / "runwire.toml", f'prot = "{CANARY}"\n')
    write(tmp_path / "runwire.production.toml", f'max_run = "{CANARY}"\n')
    folder = write(tmp_path / "secrets" / "servce_secret", CANARY).parent
    write(folder / "..2026_11_23" / "x", "of Kubernetes")
    credentials = write(tmp_path / "credentials" / "databse_url", CANARY).parent
    write(credentials / "openai_key", CANARY)  # of an agent
    said = faults_of(
        environ={
            "RUNWIRE_PROT": CANARY,
            "RUNWIRE_SERVICE_SECRT_FILE": "/" + CANARY,
            "RUNWIRE_XYZZY": CANARY,
            "CREDENTIALS_DIRECTORY": str(credentials),
        },
        config_file=file,
        secrets_dir=str(folder),
    )
    for word in (
        "runwire.toml: unknown setting `prot` (did you mean `port`?)",
        "runwire.production.toml: unknown setting `max_run` (did you mean `max_runs`?)",
        "RUNWIRE_PROT: unknown variable (did you mean `RUNWIRE_PORT`?)",
        "RUNWIRE_SERVICE_SECRT_FILE: unknown variable (did you mean `RUNWIRE_SERVICE_SECRET_FILE`?)",
        "RUNWIRE_XYZZY: unknown variable.",
        "secrets_dir: servce_secret: is no setting (did you mean `service_secret`?)",
        "CREDENTIALS_DIRECTORY: databse_url: is no setting (did you mean `database_url`?)",
    ):
        assert word in said, word
    assert "openai_key" not in said
    assert len(said.splitlines()) == 7


def test_d5_a_misspelt_name_in_a_table_is_refused_with_the_nearest_one() -> None:
    issuer = {"name": "a", "issuer": "https://id.example", "audience": "r"}
    said = faults_of(environ={"RUNWIRE_ISSUERS": json.dumps([{**issuer, "algoritms": ["ES256"], "zzz": CANARY}])})
    assert "there is no algoritms here (did you mean `algorithms`?)" in said
    said = faults_of(environ={"RUNWIRE_ISSUERS": json.dumps([{**issuer, "claims": {"role": CANARY}}])})
    assert "a: claims: there is no role here (did you mean `roles`?)" in said
    said = faults_of(environ={"RUNWIRE_BREAKERS": json.dumps({"tool/crm": {"open_sec": CANARY}})})
    assert "`tool/crm.open_sec` is no term of a breaker (did you mean `open_s`?)" in said


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "there is no such file"),
        (b"", "the file is empty"),
        (b" \n\t\n", "the file is empty"),
        (b"\xff\xfe" + CANARY.encode(), "not UTF-8"),
        (CANARY.encode() * 5000, "more than 64 KiB"),
        (CANARY.encode(), "at least 32"),
    ],
)
@pytest.mark.parametrize("way", ["variable", "folder", "systemd"])
def test_d5_a_secret_that_is_missing_empty_or_none_is_refused_and_not_shown(
    tmp_path: Path, content: bytes | None, word: str, way: str
) -> None:
    folder = tmp_path / CANARY
    folder.mkdir()
    file = folder / "service_secret"
    if content is not None:
        file.write_bytes(content)
    elif way != "variable":
        file.symlink_to(folder / "gone")
    environ = {
        "variable": {"RUNWIRE_SERVICE_SECRET_FILE": str(file)},
        "folder": {"RUNWIRE_SECRETS_DIR": str(folder)},
        "systemd": {"CREDENTIALS_DIRECTORY": str(folder)},
    }[way]
    said = faults_of(environ=environ)
    assert word in said
    assert "service_secret" in said.lower()
    assert len(said.splitlines()) == 1


def test_d5_a_secret_given_as_its_own_path_is_not_repeated() -> None:
    """Whoever takes `_FILE` for the value itself must not find it in the log."""
    assert "RUNWIRE_SERVICE_SECRET_FILE: there is no such file" in faults_of(
        environ={"RUNWIRE_SERVICE_SECRET_FILE": CANARY}
    )
    assert "RUNWIRE_SERVICE_SECRET_FILE: the file cannot be read" in faults_of(
        environ={"RUNWIRE_SERVICE_SECRET_FILE": CANARY * 100}
    )


def test_secrets_come_from_files_by_each_way_without_the_line_end(tmp_path: Path) -> None:
    file = write(tmp_path / "a" / "service_secret", f"{SECRET}\n")
    for environ, source in (
        ({"RUNWIRE_SERVICE_SECRET_FILE": str(file)}, "RUNWIRE_SERVICE_SECRET_FILE"),
        ({"RUNWIRE_SECRETS_DIR": str(file.parent)}, "service_secret of secrets_dir"),
        ({"CREDENTIALS_DIRECTORY": str(file.parent)}, "service_secret of CREDENTIALS_DIRECTORY"),
    ):
        loaded = load(environ=environ)
        assert loaded.settings.service_secret == SECRET
        assert loaded.sources["service_secret"] == source
        assert SECRET not in repr(loaded)


def test_a_value_from_two_files_or_beside_its_own_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a" / "service_secret", SECRET).parent
    file = write(tmp_path / "b", SECRET)
    both = {"RUNWIRE_SERVICE_SECRET": CANARY * 3, "RUNWIRE_SERVICE_SECRET_FILE": str(file)}
    assert "RUNWIRE_SERVICE_SECRET and RUNWIRE_SERVICE_SECRET_FILE are both set" in faults_of(environ=both)
    twice = {"RUNWIRE_SECRETS_DIR": str(folder), "RUNWIRE_SERVICE_SECRET_FILE": str(file)}
    assert "is set by RUNWIRE_SERVICE_SECRET_FILE and by service_secret of secrets_dir" in faults_of(environ=twice)


def test_d5_a_folder_of_secrets_must_be_there_and_cannot_say_what_is_read(tmp_path: Path) -> None:
    assert "secrets_dir: cannot be read as a folder" in faults_of(secrets_dir=str(tmp_path / CANARY))
    assert "CREDENTIALS_DIRECTORY: cannot be read" in faults_of(environ={"CREDENTIALS_DIRECTORY": f"/{CANARY}"})
    folder = write(tmp_path / "a" / "environment", "development").parent
    assert "environment: says which files are read" in faults_of(secrets_dir=str(folder))


def test_d5_an_empty_variable_is_refused_once() -> None:
    environ = {"RUNWIRE_SERVICE_SECRET": "", "RUNWIRE_DATABASE_URL_FILE": " "}
    assert faults_of(environ=environ).splitlines() == [
        "RUNWIRE_SERVICE_SECRET: is empty; give it a value or unset it.",
        "RUNWIRE_DATABASE_URL_FILE: is empty; give it a value or unset it.",
    ]


def test_a_file_that_cannot_be_read_is_refused_without_its_text(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.toml", f'service_secret = "{CANARY}\n')
    assert "cannot be read as TOML" in faults_of(config_file=bad)
    (tmp_path / "latin.toml").write_bytes(b'host = "\xe4"\n')
    assert "not UTF-8" in faults_of(config_file=tmp_path / "latin.toml")
    assert "cannot be read as TOML (Is a directory)" in faults_of(config_file=tmp_path)
