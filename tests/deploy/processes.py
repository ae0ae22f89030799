"""What the files of `deploy/` start, read as their tools do: each process, its environment and its patience."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
UNITS = DEPLOY / "systemd"
KUBERNETES = DEPLOY / "kubernetes"

# What an operator fills in. Nothing else may be left open.
ANSWERS = {
    "POSTGRES_PASSWORD": "pg" * 12,
    "REDIS_PASSWORD": "rd" * 12,
    "SERVICE_SECRET": "5e9b0c27d1f4a386" * 3,
    "DOMAIN": "agents.example.org",
    "AGENTS_DIR": "/srv/agents",
}
SECRETS = {
    "database_url": "postgresql://runwire:pgpgpg@db.internal:5432/runwire?sslmode=require",
    "redis_url": "rediss://:rdrdrd@redis.internal:6379/0",
    "service_secret": ANSWERS["SERVICE_SECRET"],
}
UNIT_ANSWERS = {
    "RUNWIRE_DATABASE_URL": SECRETS["database_url"],
    "RUNWIRE_PUBLIC_URL": "https://agents.example.org",
    "RUNWIRE_REDIS_URL": SECRETS["redis_url"],
    "RUNWIRE_SERVICE_SECRET": SECRETS["service_secret"],
}


@dataclass(frozen=True)
class Process:
    """One process of Runwire."""

    name: str  # file and service
    words: tuple[str, ...]  # after `runwire`
    environ: Mapping[str, str]  # whole, the image's included
    stop_s: float  # from the wish to stop it to SIGKILL
    waits_s: float = 0.0  # of those, before it gets SIGTERM

    @property
    def role(self) -> str:
        return self.environ.get("RUNWIRE_ROLES", "")

    @property
    def settings(self) -> dict[str, str]:
        return {name: value for name, value in self.environ.items() if name.startswith("RUNWIRE_")}


class _Strict(yaml.SafeLoader):
    """YAML in which a key that is there twice is a fault, not the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"{node.start_mark}: twice there: {twice}")
        return super().construct_mapping(node, deep=deep)


def documents(path: Path) -> list[dict[str, Any]]:
    """Read the documents of a YAML file."""
    return [one for one in yaml.load_all(path.read_text(encoding="utf-8"), Loader=_Strict) if one is not None]


def image_environ() -> dict[str, str]:
    """Return what the image itself sets for Runwire."""
    envs = DockerfileParser(str(DOCKERFILE)).envs
    return {name: value for name, value in envs.items() if name.startswith("RUNWIRE_")}


def interpolated(value: object, answers: Mapping[str, str]) -> str:
    """Put variables in as Compose does; one without an answer must have a default."""

    def put(found: re.Match[str]) -> str:
        if answers.get(found["name"]):
            return answers[found["name"]]
        assert found["how"] == ":-", f"{found['name']} has no value: {found['rest']}"
        return found["rest"]

    return re.sub(r"\$\{(?P<name>\w+)(?P<how>:[-?])(?P<rest>[^}]*)\}", put, str(value))


def seconds(text: str) -> float:
    """Read a duration such as 60s."""
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return float(found[1])


def compose_file() -> dict[str, Any]:
    """Return the Compose file, anchors and merges resolved."""
    return documents(COMPOSE)[0]


def compose_processes(answers: Mapping[str, str] = ANSWERS) -> Iterator[Process]:
    """Give the processes of the Compose file."""
    for name, service in compose_file()["services"].items():
        if not service["image"].startswith("runwire"):
            continue
        own = {key: interpolated(value, answers) for key, value in service["environment"].items()}
        words = tuple(service.get("command", ("serve",)))
        yield Process(f"compose {name}", words, image_environ() | own, seconds(service["stop_grace_period"]))


def manifests() -> list[dict[str, Any]]:
    """Return everything that Kubernetes is given, without kustomize's own files."""
    files = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml")
    return [one for path in files for one in documents(path)]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each pod's template with the name of what makes it."""
    for one in manifests():
        if one["kind"] in ("Deployment", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]


def kubernetes_processes() -> Iterator[Process]:
    """Give the processes of the manifests."""
    (config,) = (one["data"] for one in manifests() if one["kind"] == "ConfigMap")
    for name, template in pods():
        spec = template["spec"]
        (container,) = spec["containers"]
        environ = image_environ() | (config if container.get("envFrom") else {})
        for entry in container["env"]:
            environ[entry["name"]] = entry.get("value") or SECRETS[entry["valueFrom"]["secretKeyRef"]["key"]]
        wait_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0.0)
        stop_s = spec.get("terminationGracePeriodSeconds", 30)
        yield Process(f"kubernetes {name}", tuple(container["args"]), environ, stop_s, wait_s)


def unit(path: Path) -> list[tuple[str, str, str]]:
    """Read a unit as (section, directive, value), in order."""
    section, found = "", []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, separator, value = line.partition("=")
            assert separator, f"{path.name}: {line}"
            found.append((section, name, value))
    return found


def environment_file(path: Path, answers: Mapping[str, str] = UNIT_ANSWERS) -> dict[str, str]:
    """Read an example of an environment file, what is empty filled in."""
    pairs = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#"))
    return {name: value or answers.get(name, "") for name, _, value in pairs}


def systemd_processes(answers: Mapping[str, str] = UNIT_ANSWERS) -> Iterator[Process]:
    """Give the processes of the units; of a template the instance 01."""
    for path in sorted(UNITS.glob("*.service")):
        environ: dict[str, str] = {}
        values: dict[str, str] = {}
        for _, name, value in unit(path):
            values[name] = value
            if name == "EnvironmentFile":
                environ |= environment_file(UNITS / f"{Path(value).name}.example", answers)
            if name == "Environment":
                pairs = (pair.partition("=") for pair in shlex.split(value.replace("%i", "01")))
                environ |= {key: text for key, _, text in pairs}
        words = tuple(values["ExecStart"].split()[1:])
        stop_s = seconds(values.get("TimeoutStopSec", "90s"))
        yield Process(f"systemd {path.name}", words, environ, stop_s)


def processes() -> list[Process]:
    """Return everything that is started as Runwire, by whatever starts it."""
    return [*compose_processes(), *kubernetes_processes(), *systemd_processes()]
