"""The contract suite runs against every adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.adapters import KINDS, Adapter, MemoryAdapter, SqliteAdapter

from runwire.storage.base import Storage


@pytest.fixture(params=KINDS)
async def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Adapter]:
    opened: Adapter = MemoryAdapter() if request.param == "memory" else await SqliteAdapter(tmp_path).open()
    yield opened
    await opened.close()


@pytest.fixture
def storage(adapter: Adapter) -> Storage:
    return adapter.storage
