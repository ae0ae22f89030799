"""The image: what it is made of, who runs in it, and how it is told to stop."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser
from tests.deploy.processes import DOCKERFILE, ROOT

SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|DATABASE_URL|REDIS_URL|API_KEY", re.IGNORECASE)


@pytest.fixture(scope="module")
def stages() -> list[list[dict[str, Any]]]:
    """Give each stage's instructions."""
    found: list[list[dict[str, Any]]] = []
    for step in DockerfileParser(str(DOCKERFILE)).structure:
        if step["instruction"] == "FROM":
            found.append([])
        if step["instruction"] != "COMMENT":
            found[-1].append(dict(step))
    return found


def _of(stage: list[dict[str, Any]], instruction: str) -> list[str]:
    return [step["value"] for step in stage if step["instruction"] == instruction]


def test_what_builds_is_not_in_the_image(stages: list[list[dict[str, Any]]]) -> None:
    assert len(stages) == 2
    final = "\n".join(step["value"] for step in stages[-1])
    assert not re.search(r"apt-get|\buv\b|curl|gcc|git\b|pip install", final)
    assert _of(stages[-1], "COPY") == ["--from=build /opt/runwire /opt/runwire"]
    assert "pip uninstall" in final


def test_images_are_named_with_their_version(stages: list[list[dict[str, Any]]]) -> None:
    for stage in stages:
        (image,) = _of(stage, "FROM")
        assert re.match(r"python:3\.\d+-slim-\w+( AS \w+)?$", image), image
    # A venv is bound to the Python that made it.
    assert stages[0][0]["value"].split()[0] == stages[1][0]["value"].split()[0]


def test_packages_are_those_of_the_lock_file(stages: list[list[dict[str, Any]]]) -> None:
    syncs = [json.loads(words) for words in _of(stages[0], "RUN") if '"sync"' in words]
    assert len(syncs) == 2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for words in syncs:
        assert {"--frozen", "--no-dev"} <= set(words)
        extras = {words[place + 1] for place, word in enumerate(words) if word == "--extra"}
        assert extras == {"otel", "postgres", "redis"}
        assert extras <= set(project["optional-dependencies"])
    assert "--no-editable" in syncs[1]
    installs = [words for words in _of(stages[0], "RUN") if '"install"' in words]
    assert all(re.search(r"uv==\d+\.\d+\.\d+", words) for words in installs)


def test_it_runs_as_a_user_with_a_number_that_is_not_root(stages: list[list[dict[str, Any]]]) -> None:
    (user,) = _of(stages[-1], "USER")
    assert all(int(number) >= 10_000 for number in user.split(":"))
    names = [step["instruction"] for step in stages[-1]]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name in ("RUN", "COPY"))


def test_a_signal_reaches_the_process_itself(stages: list[list[dict[str, Any]]]) -> None:
    assert [json.loads(words) for words in _of(stages[-1], "ENTRYPOINT")] == [["runwire"]]
    assert [json.loads(words) for words in _of(stages[-1], "CMD")] == [["serve"]]
    assert _of(stages[-1], "STOPSIGNAL") == ["SIGTERM"]


def test_its_health_is_asked_by_python_and_is_no_matter_of_the_database(stages: list[list[dict[str, Any]]]) -> None:
    (health,) = _of(stages[-1], "HEALTHCHECK")
    words = json.loads(health[health.index("[") :])
    assert words == ["python", "/opt/runwire/healthcheck.py", "live"]


def test_no_secret_is_baked_in(stages: list[list[dict[str, Any]]]) -> None:
    for stage in stages:
        baked = [*_of(stage, "ENV"), *_of(stage, "ARG"), *_of(stage, "LABEL")]
        assert not [value for value in baked if SECRET.search(value)]
        assert not [value for value in _of(stage, "COPY") if re.search(r"\.env|runwire\.toml|^\. ", value)]


def test_the_build_is_sent_what_it_copies_and_nothing_else(stages: list[list[dict[str, Any]]]) -> None:
    lines = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {word for value in _of(stages[0], "COPY") for word in value.split()[:-1]}
    assert sent == copied
    assert all((ROOT / path).exists() for path in copied)
    # A link to what was not sent would be a hole in the package.
    for link in (path for folder in copied for path in (ROOT / folder).rglob("*") if path.is_symlink()):
        assert link.resolve().relative_to(ROOT).parts[0] in copied, link


def test_every_package_has_a_wheel_for_the_images_python(stages: list[list[dict[str, Any]]]) -> None:
    # The image it is built in has no compiler.
    version = re.search(r"python:3\.(\d+)", stages[0][0]["value"])
    assert version
    right = re.compile(
        rf"-(?:cp3{version[1]}-cp3{version[1]}|cp3\d+-abi3)-manylinux\S*_(x86_64|aarch64)|-(none-any)\.whl"
    )
    packages = {one["name"]: one for one in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]}
    own = packages["runwire"]
    left = [*own["dependencies"], *own["optional-dependencies"]["postgres"], *own["optional-dependencies"]["redis"]]
    seen: set[str] = set()
    while left:
        package = packages[left.pop()["name"]]
        if package["name"] not in seen:
            seen.add(package["name"])
            left += package.get("dependencies", [])
            wheels = [found for wheel in package.get("wheels", []) if (found := right.search(wheel["url"]))]
            assert any(found[2] for found in wheels) or {found[1] for found in wheels} == {"x86_64", "aarch64"}, package
    assert {"asyncpg", "redis", "uvicorn"} <= seen
