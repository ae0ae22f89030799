"""Of a deployment that works the doctor says so, whichever of its processes it is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.doctor.world import Doctor, World
from tests.mission_critical.deployment import AGENTS

from runwire.app import PARTS
from runwire.testing.server import ServerProcess


def files_of(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.mark.parametrize("role", ["gateway", "worker", "auth"])
async def test_each_process_of_a_deployment_is_healthy(world: World, role: str) -> None:
    found = await world.look(role)
    assert found.of("fault") == set()
    assert (found.status, found.verdict) == (0, "healthy")
    assert {part for part, _ in found.of("warning")} <= {"machine"}, "a test's machine may have its own"
    assert found.of("ok") >= {("database", "database"), ("redis", "redis"), ("configuration", "settings")}
    assert {one["part"] for one in found.findings} <= set(PARTS)
    asked = {"gateway": "ok", "worker": "skipped", "auth": "skipped"}[role]
    assert ("auth", "auth_url") in found.of(asked)
    assert ("agents", "agents") in found.of("ok" if role == "worker" else "skipped")


async def test_a_data_folder_is_healthy_before_its_first_start_and_beside_a_server(
    doctor: Doctor, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    words = ("--environment", "development", "--data-dir", str(folder), "--agent", str(AGENTS))
    before = await doctor(*words, folder=tmp_path)
    assert (before.status, before.of("fault")) == (0, set())
    assert files_of(tmp_path) == set(), "nothing is made"
    async with ServerProcess(str(AGENTS), data_dir=folder, cwd=tmp_path) as server:
        files = files_of(folder)
        beside = await doctor(*words, folder=tmp_path, environ={"RUNWIRE_PORT": str(server.port)})
        assert (beside.status, beside.of("fault")) == (0, set())
        assert {part for part, _ in beside.of("warning")} <= {"machine"}
        assert f"process {server.pid} serves the data folder at {server.url}" in beside.line("server", "ok")
        assert "is served by a Runwire" in beside.line("port", "ok")
        assert files_of(folder) == files
    after = await doctor(*words, folder=tmp_path)
    assert (after.status, after.of("fault")) == (0, set())
    assert ("database", "server") not in after.of("ok"), "it was killed, and left its word behind"


async def test_parts_can_be_looked_at_alone_and_others_are_not(world: World) -> None:
    found = await world.look(
        "gateway", "--only", "redis", "--only", "bounds", database_url="postgresql://127.0.0.1:1/x"
    )
    assert (found.status, {one["part"] for one in found.findings}) == (0, {"redis", "bounds"})
