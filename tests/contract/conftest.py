"""The contract suite runs against every adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.adapters import KINDS, Adapter, MemoryAdapter, PostgresAdapter, SqliteAdapter

from runwire.storage.base import Storage


@pytest.fixture(params=KINDS)
async def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Adapter]:
    opened: Adapter
    if request.param == "memory":
        opened = MemoryAdapter()
    elif request.param == "sqlite":
        opened = await SqliteAdapter(tmp_path).open()
    else:  # a server only for those tests that want it
        opened = await PostgresAdapter(request.getfixturevalue("postgres_server")).open()
    yield opened
    await opened.close()


@pytest.fixture
def storage(adapter: Adapter) -> Storage:
    return adapter.storage
