"""What the image asks its own server: with Python alone, and through no proxy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.deploy.processes import DOCKERFILE
from tests.mission_critical.deployment import Deployment


def _ask(what: str, port: int, **more: str) -> tuple[int, str]:
    script = DOCKERFILE.parent / "healthcheck.py"
    proxy = "http://192.0.2.1:1"
    environ = {"RUNWIRE_PORT": str(port), "http_proxy": proxy, "HTTP_PROXY": proxy, **more}
    # -I: as in an image that has nothing else.
    words = [sys.executable, "-I", f"{script}", what]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=15, check=False)
    return done.returncode, done.stderr


async def test_a_server_that_serves_is_well_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    await deployment.start()
    try:
        for what in ("live", "started", "ready"):
            assert _ask(what, deployment.process.port) == (0, f'/health/{what}: 200 {{"status":"ok"}}\n')
        assert _ask("nonsense", deployment.process.port)[0] == 1
        # As in the image: machines have a port of their own.
        assert _ask("ready", 1, RUNWIRE_MANAGEMENT_PORT=str(deployment.process.port))[0] == 0
    finally:
        await deployment.kill9()
    status, said = _ask("live", deployment.process.port)
    assert status == 1
    assert "refused" in said
