"""A server beside somebody's own code leaves that program's logging as it was."""

from __future__ import annotations

from pathlib import Path

import structlog

from runwire import app
from runwire.settings import load


async def test_a_program_gets_its_own_structlog_back_when_the_server_beside_it_has_ended(tmp_path: Path) -> None:
    structlog.configure(processors=[structlog.processors.KeyValueRenderer(sort_keys=True)])
    before = structlog.get_config()
    loaded = load({"data_dir": tmp_path, "port": 0, "agents": ["runwire.guide:agent"]}, environ={})
    async with app.running(loaded):
        assert structlog.get_config() != before, "the server logs in its own way"
    assert structlog.get_config() == before
