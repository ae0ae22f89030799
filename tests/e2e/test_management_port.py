"""Health and figures on a port of their own: where probes look, and where people do not come."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from runwire.app.pages import metrics
from runwire.testing.server import ServerProcess

THEIRS = {family.name for family in ProcessCollector(registry=CollectorRegistry()).collect()}


async def test_health_and_figures_are_on_the_management_port_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNWIRE_MANAGEMENT_PORT", "0")
    async with ServerProcess("runwire.guide:agent", data_dir=tmp_path / "data") as server:
        found = re.search(r"management +port (\d+)", server.logs())
        assert found, server.logs()
        async with httpx2.AsyncClient(timeout=10) as http:
            for path in ("/health/started", "/health/live", "/health/ready", "/metrics"):
                assert (await http.get(f"http://127.0.0.1:{found[1]}{path}")).status_code == 200, path
                assert (await http.get(f"{server.url.rstrip('/')}{path}")).status_code == 404, path
            assert (await http.get(f"http://127.0.0.1:{found[1]}/v1/me")).status_code == 404
            assert_documented((await http.get(f"http://127.0.0.1:{found[1]}/metrics")).text)
        assert await server.stop() == 0  # and it ends with the other one


def assert_documented(scraped: str) -> None:
    """Assert that a process with all roles has the figures of the reference, but for those of traces, and no others."""
    families = text_string_to_metric_families(scraped)
    served = {family.name: family.type for family in families if not family.name.endswith("_created")}
    theirs = {name for name in served if name in THEIRS}
    assert theirs, "the process's own memory and descriptors are there"
    told = {figure.name: figure.kind for figure in metrics.figures() if not figure.name.startswith("tracing_")}
    assert {name: served[name] for name in served.keys() - theirs} == told
