"""D4, D5: what is unsafe is not served, what is misspelt or missing is no default; seen from the command line.

Each variation of a rule is in tests/unit/settings; here each rule and each kind of mistake ends a process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx2
import pytest
from tests.cluster.deployment import free_port
from tests.mission_critical.deployment import AGENTS
from tests.mission_critical.starts import Ended, Starts

from runwire.app.process import running
from runwire.settings import RULES, load

SECRET: Final = "5e9b0c27d1f4a386" * 2
CANARY: Final = "hush-canary-hush"
SAFE: Final = {
    "RUNWIRE_PUBLIC_URL": "https://agents.example.org",
    "RUNWIRE_MANAGEMENT_PORT": "0",
    "RUNWIRE_PORT": "0",
    "RUNWIRE_SERVICE_SECRET": SECRET,
}
HTTP_ISSUER: Final = json.dumps(
    [{"name": "a", "issuer": "http://localhost:9/x", "audience": "r", "allow_private_addresses": True}]
)
UNSAFE: Final[dict[str, dict[str, str | None]]] = {
    "no-public-url": {"RUNWIRE_PUBLIC_URL": None, "RUNWIRE_HOST": "0.0.0.0"},
    "http-public-url": {"RUNWIRE_PUBLIC_URL": "http://agents.example.org"},
    "http-origins": {"RUNWIRE_ALLOWED_ORIGINS": "http://app.example.org"},
    "http-issuers": {"RUNWIRE_ISSUERS": HTTP_ISSUER},
    "weak-secret": {"RUNWIRE_SERVICE_SECRET": f"changeme-{CANARY}-{SECRET}"},
    "trust-all-proxies": {"RUNWIRE_TRUSTED_PROXIES": "0.0.0.0/0"},
    "open-metrics": {"RUNWIRE_MANAGEMENT_PORT": None},
    "database-without-tls": {"RUNWIRE_DATABASE_URL": f"postgresql://ada:{CANARY}@db.example/runwire"},
    "redis-without-tls": {"RUNWIRE_REDIS_URL": f"redis://:{CANARY}@redis.example/0"},
    "otel-without-tls": {"RUNWIRE_OTEL_ENDPOINT": "http://collector.internal:4318"},
    "memory-database": {"RUNWIRE_DATABASE_URL": "memory://"},
    "debug-log": {"RUNWIRE_LOG_LEVEL": "debug"},
    "conformance-agents": {"RUNWIRE_WITH_CONFORMANCE_AGENTS": "true"},
}
# No rule lets these pass, in any environment: what is set, and what names it.
NEVER: Final[dict[str, tuple[dict[str, str], str]]] = {
    "short secret": ({"RUNWIRE_SERVICE_SECRET": CANARY}, "service_secret (from RUNWIRE_SERVICE_SECRET)"),
    "any origin": ({"RUNWIRE_ALLOWED_ORIGINS": "*"}, "allowed_origins (from RUNWIRE_ALLOWED_ORIGINS)"),
    "access for an hour": ({"RUNWIRE_ACCESS_TTL_S": "3600"}, "access_ttl_s (from RUNWIRE_ACCESS_TTL_S)"),
    "symmetric tokens": ({"RUNWIRE_ISSUERS": HTTP_ISSUER[:-2] + ', "algorithms": ["HS256"]}]'}, "algorithms"),
    "unsigned tokens": ({"RUNWIRE_ISSUERS": HTTP_ISSUER[:-2] + ', "algorithms": ["none"]}]'}, "algorithms"),
    "several on SQLite": ({"RUNWIRE_ROLES": "worker"}, "database_url: roles worker"),
}


@pytest.fixture(scope="module")
def starts() -> Iterator[Starts]:
    with Starts() as made:
        yield made


def refused(ended: Ended) -> list[str]:
    """Take an end that says what is wrong with the configuration and nothing else."""
    assert ended.status == 78, ended.stderr
    assert ended.stdout == ""
    assert CANARY not in ended.stderr
    assert SECRET not in ended.stderr
    assert len(ended.faults) == len(ended.stderr.splitlines()), ended.stderr
    return ended.faults


def environ_with(*changes: dict[str, str | None]) -> dict[str, str]:
    together: dict[str, str | None] = dict(SAFE)
    for change in changes:
        together |= change
    return {name: value for name, value in together.items() if value is not None}


def rules_of(faults: list[str]) -> list[str]:
    return re.findall(r"\(rule ([\w-]+)\)\.$", "\n".join(faults), re.MULTILINE)


@pytest.mark.parametrize("environment", ["production", "staging"])
@pytest.mark.parametrize("rule", list(UNSAFE))
def test_d4_each_unsafe_setting_alone_ends_the_start(
    starts: Starts, tmp_path: Path, rule: str, environment: str
) -> None:
    environ = environ_with(UNSAFE[rule], {"RUNWIRE_ENVIRONMENT": environment})
    assert rules_of(refused(starts("serve", f"{AGENTS}", folder=tmp_path, environ=environ))) == [rule]
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


@pytest.mark.parametrize("what", list(NEVER))
def test_d4_what_nobody_needs_ends_the_start_everywhere(starts: Starts, tmp_path: Path, what: str) -> None:
    change, word = NEVER[what]
    for environment in ("production", "development"):
        environ = {**SAFE, **change, "RUNWIRE_ENVIRONMENT": environment}
        every = [word for rule in RULES for word in ("--allow-unsafe", rule.id)]
        (fault,) = refused(starts("serve", f"{AGENTS}", *every, folder=tmp_path, environ=environ))
        assert word in fault


def test_d4_all_unsafe_settings_together_are_all_named_at_once(starts: Starts, tmp_path: Path) -> None:
    seen: set[str] = set()
    # Two starts: a database cannot be in memory and elsewhere, a public URL not missing and http.
    for left_out in ({"no-public-url", "memory-database"}, {"http-public-url", "database-without-tls"}):
        expected = UNSAFE.keys() - left_out
        environ = environ_with(*(UNSAFE[rule] for rule in UNSAFE if rule in expected)) | NEVER["access for an hour"][0]
        faults = refused(starts("serve", f"{AGENTS}", folder=tmp_path, environ=environ))
        assert set(rules_of(faults)) == expected
        assert len(faults) == len(expected) + 1, "and the one that is refused anyway"
        seen |= expected
    # What depends on a file system that is elsewhere is tried in tests/unit/settings.
    assert seen == {rule.id for rule in RULES} - {"sqlite-on-network"}


def test_d4_only_the_named_rules_are_let_pass(starts: Starts, tmp_path: Path) -> None:
    environ = environ_with(UNSAFE["open-metrics"], UNSAFE["debug-log"], UNSAFE["http-origins"])
    words = ("--allow-unsafe", "open-metrics", "--allow-unsafe", "debug-log")
    faults = refused(starts("serve", f"{AGENTS}", *words, folder=tmp_path, environ=environ))
    assert rules_of(faults) == ["http-origins"]
    faults = refused(starts("serve", f"{AGENTS}", "--allow-unsafe", "all", folder=tmp_path, environ=environ))
    assert "there is no such rule" in faults[0]
    assert set(rules_of(faults)) == {"open-metrics", "debug-log", "http-origins"}


def test_d4_what_is_allowed_is_served_and_said_in_the_log_and_the_figures(tmp_path: Path) -> None:
    port = free_port()
    environ = environ_with(UNSAFE["debug-log"], UNSAFE["http-origins"], {"RUNWIRE_MANAGEMENT_PORT": f"{port}"})
    allowed = ("--allow-unsafe", "debug-log", "--allow-unsafe", "http-origins")
    words = [sys.executable, "-m", "runwire", "serve", f"{AGENTS}", *allowed]
    log = tmp_path / "log"
    with (
        log.open("w", encoding="utf-8") as stderr,
        subprocess.Popen(words, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            assert process.stdout
            assert process.stdout.readline().startswith("ready "), log.read_text("utf-8")
            figures = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=15, trust_env=False).text
        finally:
            process.terminate()
            status = process.wait(15)
    said = log.read_text("utf-8")
    assert status == 0, said
    for rule in ("debug-log", "http-origins"):
        assert f'runwire_unsafe_allowed{{rule="{rule}"}} 1.0' in figures
        assert re.search(rf"unsafe_allowed.*{rule}", said)
    assert figures.count("runwire_unsafe_allowed{") == 2
    assert SECRET not in said


def test_d5_what_is_misspelt_missing_or_empty_ends_the_start_with_a_hint(starts: Starts, tmp_path: Path) -> None:
    (tmp_path / "runwire.toml").write_text(f'max_run = "{CANARY}"\n', encoding="utf-8")
    (tmp_path / "runwire.production.toml").write_text(f'trusted_proxy = "{CANARY}"\n', encoding="utf-8")
    (tmp_path / "empty").write_text(" \n", encoding="utf-8")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "redis_ulr").write_text(CANARY, encoding="utf-8")
    environ = {
        "RUNWIRE_PROT": CANARY,
        "RUNWIRE_HOST": "",
        "RUNWIRE_SERVICE_SECRET_FILE": f"{tmp_path}/{CANARY}",
        "RUNWIRE_DATABASE_URL_FILE": f"{tmp_path}/empty",
        "RUNWIRE_SECRETS_DIR": f"{tmp_path}/secrets",
        "CREDENTIALS_DIRECTORY": f"{tmp_path}/{CANARY}",
    }
    faults = refused(starts("serve", f"{AGENTS}", folder=tmp_path, environ=environ))
    for words in (
        "runwire.toml: unknown setting `max_run` (did you mean `max_runs`?)",
        "runwire.production.toml: unknown setting `trusted_proxy` (did you mean `trusted_proxies`?)",
        "RUNWIRE_PROT: unknown variable (did you mean `RUNWIRE_PORT`?)",
        "RUNWIRE_HOST: is empty; give it a value or unset it",
        "RUNWIRE_SERVICE_SECRET_FILE: there is no such file; give the path of a file that has the value",
        "RUNWIRE_DATABASE_URL_FILE: the file is empty; write the value into it",
        "secrets_dir: redis_ulr: is no setting (did you mean `redis_url`?)",
        "CREDENTIALS_DIRECTORY: cannot be read as a folder",
    ):
        assert any(words in fault for fault in faults), words
    assert len(faults) == 8
    nowhere = refused(starts("serve", "--config", "gone.toml", folder=tmp_path / "secrets"))
    assert nowhere == ["gone.toml: no such file; create it or drop --config."]


async def test_two_environments_in_one_process_never_see_each_others(tmp_path: Path) -> None:
    """Two servers beside each other: each has its own people, origins, rules and figures. Only the log is shared."""
    flags = {"port": 0, "agents": (f"{AGENTS}",), "log_level": "error"}
    (tmp_path / "runwire.toml").write_text("", encoding="utf-8")
    for environment in ("development", "staging"):
        text = f'allowed_origins = ["http://{environment}.example"]\ndata_dir = "{tmp_path}/{environment}"\n'
        (tmp_path / f"runwire.{environment}.toml").write_text(text, encoding="utf-8")
    first, second = (
        load({**flags, "environment": environment, "allow_unsafe": allowed}, environ={}, config_file=file)
        for file in [tmp_path / "runwire.toml"]
        for environment, allowed in (("development", ()), ("staging", ("http-origins",)))
    )
    async with (
        running(first) as (url, link),
        running(second) as (other_url, no_link),
        httpx2.AsyncClient(base_url=url, trust_env=False, timeout=15) as http,
        httpx2.AsyncClient(base_url=other_url, trust_env=False, timeout=15) as other,
    ):
        assert link is not None
        assert no_link is None
        word = {"link": link.partition("link=")[2]}
        assert (await other.post("/auth/sessions", json=word)).status_code == 401
        assert (await http.post("/auth/sessions", json=word)).status_code in (200, 201)
        for one, own in ((http, "development"), (other, "staging")):
            for environment in ("development", "staging"):
                answer = await one.get("/v1/me", headers={"origin": f"http://{environment}.example"})
                assert ("access-control-allow-origin" in answer.headers) is (environment == own)
        assert "runwire_unsafe_allowed{" not in (await http.get("/metrics")).text
        assert 'runwire_unsafe_allowed{rule="http-origins"} 1.0' in (await other.get("/metrics")).text


def test_d5_config_check_says_what_serve_would_and_starts_nothing(starts: Starts, tmp_path: Path) -> None:
    environ = environ_with(UNSAFE["open-metrics"], {"RUNWIRE_PROT": CANARY})
    served = refused(starts("serve", f"{AGENTS}", folder=tmp_path, environ=environ))
    assert refused(starts("config", "check", folder=tmp_path, environ=environ)) == served
    well = starts("config", "check", "--json", folder=tmp_path, environ=dict(SAFE))
    assert (well.status, json.loads(well.stdout)["is_ok"]) == (0, True)
    assert list(tmp_path.iterdir()) == []
