"""The manifests: valid for Kubernetes, as strict as its own rules can be, and fitting to each other."""

from __future__ import annotations

import copy
from typing import Any

import kubernetes_validate
import pytest
from tests.deploy.processes import KUBERNETES, documents, manifests, pods

from runwire.settings import Settings

VERSION = "1.37"  # the newest that the schemas know
OLDEST = "1.30"  # preStop's `sleep`


def _of(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in manifests() if one["kind"] == kind}


def _labels() -> dict[str, dict[str, str]]:
    return {name: template["metadata"]["labels"] for name, template in pods()}


@pytest.mark.parametrize("version", [OLDEST, VERSION])
def test_manifests_keep_to_the_schemas_strictly(version: str) -> None:
    for one in manifests():
        assert kubernetes_validate.validate(one, version, strict=True) == version


def test_the_schemas_would_notice_a_word_that_is_none() -> None:
    broken = copy.deepcopy(_of("Deployment")["runwire-gateway"])
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(broken, VERSION, strict=True)


def test_what_is_applied_is_every_file_but_the_example_of_the_secret() -> None:
    for folder in (KUBERNETES, KUBERNETES / "migrate"):
        (kustomization,) = documents(folder / "kustomization.yaml")
        assert set(kustomization) == {"apiVersion", "kind", "namespace", "resources", "images"}
        there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
        assert set(kustomization["resources"]) == there
        used = {
            container["image"]
            for path in sorted(there)
            for one in documents(folder / path)
            if one["kind"] in ("Deployment", "Job")
            for container in one["spec"]["template"]["spec"]["containers"]
        }
        assert used == {image["name"] for image in kustomization["images"]}
        assert all(image["newTag"] not in ("", "latest") for image in kustomization["images"])


@pytest.mark.parametrize(("name", "template"), list(pods()), ids=[name for name, _ in pods()])
def test_pods_keep_to_the_restricted_standard(name: str, template: dict[str, Any]) -> None:
    spec = template["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert all(set(volume) == {"name", "emptyDir"} for volume in spec["volumes"])
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize(("name", "template"), list(pods()), ids=[name for name, _ in pods()])
def test_kubernetes_puts_no_variables_of_its_own_in(name: str, template: dict[str, Any]) -> None:
    # RUNWIRE_AUTH_PORT=tcp://…, which it sets for the service `runwire-auth`, is an unknown setting to Runwire.
    assert template["spec"]["enableServiceLinks"] is False
    assert template["spec"]["automountServiceAccountToken"] is False


def test_probes_ask_for_what_they_are_for() -> None:
    for one in _of("Deployment").values():
        (container,) = one["spec"]["template"]["spec"]["containers"]
        for probe, path in (("startupProbe", "started"), ("livenessProbe", "live"), ("readinessProbe", "ready")):
            assert container[probe]["httpGet"] == {"path": f"/health/{path}", "port": "management"}
        people, machines = container["ports"]
        assert people == {"name": "http", "containerPort": 8000}
        assert machines == {"name": "management", "containerPort": 9000}
        # The database has 2 s to answer `ready`; a loop that a user's code blocks for a while must not be killed.
        assert container["readinessProbe"]["timeoutSeconds"] > 2
        patience_s = container["livenessProbe"]["periodSeconds"] * container["livenessProbe"]["failureThreshold"]
        assert patience_s > Settings.model_fields["blocked_fail_s"].default


def test_a_rollout_takes_nobody_away_before_the_next_is_there() -> None:
    for one in _of("Deployment").values():
        assert one["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_selectors_find_the_pods_that_they_mean() -> None:
    labels = _labels()
    for name, one in _of("Deployment").items():
        assert one["spec"]["selector"]["matchLabels"] == labels[name]
        assert one["metadata"]["labels"] == labels[name]  # by which one role is updated after the other
        for spread in one["spec"]["template"]["spec"]["topologySpreadConstraints"]:
            assert spread["labelSelector"]["matchLabels"] == labels[name]
    for name, one in _of("PodDisruptionBudget").items():
        assert one["spec"]["selector"]["matchLabels"] == labels[name]
    services = {name: one["spec"]["selector"] for name, one in _of("Service").items()}
    assert services.pop("runwire-nowhere") not in labels.values()
    assert services == {name: labels[name] for name in ("runwire-auth", "runwire-gateway")}
    for one in _of("NetworkPolicy").values():
        wanted = one["spec"]["podSelector"].get("matchLabels", {})
        assert any(wanted.items() <= found.items() for found in labels.values())


def test_every_deployment_is_scaled_or_counted_and_has_a_budget() -> None:
    deployments = _of("Deployment")
    scaled = {one["spec"]["scaleTargetRef"]["name"]: one["spec"] for one in _of("HorizontalPodAutoscaler").values()}
    assert set(scaled) == {"runwire-gateway", "runwire-worker"}
    for name, one in deployments.items():
        # A count beside an autoscaler would set it back at each apply.
        assert ("replicas" in one["spec"]) is (name not in scaled)
        assert scaled.get(name, {}).get("minReplicas", one["spec"].get("replicas", 0)) >= 2
    assert set(_of("PodDisruptionBudget")) == set(deployments)


def test_agents_code_gets_no_service_secret() -> None:
    (container,) = next(template for name, template in pods() if name == "runwire-worker")["spec"]["containers"]
    assert "service_secret" not in str(container["env"])
    assert [source for source in container["envFrom"] if "secretRef" in source] == []


def test_people_reach_the_gateways_and_only_what_is_for_them() -> None:
    (ingress,) = _of("Ingress").values()
    (rule,) = ingress["spec"]["rules"]
    ways = {path["path"]: path["backend"]["service"]["name"] for path in rule["http"]["paths"]}
    assert ways == {
        "/metrics": "runwire-nowhere",
        "/health": "runwire-nowhere",
        "/admin": "runwire-nowhere",
        "/": "runwire-gateway",
    }
    assert {path["pathType"] for path in rule["http"]["paths"]} == {"Prefix"}
    assert set(ways.values()) <= set(_of("Service"))


def test_a_quiet_socket_outlives_the_ingress() -> None:
    quiet_s = Settings.model_fields["ping_s"].default + Settings.model_fields["pong_s"].default
    notes = next(iter(_of("Ingress").values()))["metadata"]["annotations"]
    for name, value in notes.items():
        if "timeout" in name:
            assert float(value.removesuffix("s")) > quiet_s, name
    assert notes["nginx.ingress.kubernetes.io/proxy-body-size"] == notes["nginx.org/client-max-body-size"] == "128k"


def test_nobody_talks_to_anybody_unless_it_is_written() -> None:
    policies = {name: one["spec"] for name, one in _of("NetworkPolicy").items()}
    assert policies["runwire-nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    # Agents reach the internet, not the cloud's store of keys.
    (out,) = policies["runwire-worker"]["egress"]
    assert "169.254.0.0/16" in out["to"][0]["ipBlock"]["except"]
    assert not any("ingress" in policies[name] for name in ("runwire-worker",))
