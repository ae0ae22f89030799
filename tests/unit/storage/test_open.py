"""From a URL to a database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runwire.errors import ConfigurationError, Unavailable
from runwire.storage.memory.storage import MemoryStorage
from runwire.storage.open import open_storage
from runwire.storage.sqlite.storage import SqliteStorage


async def test_memory_and_sqlite_are_opened_by_url(tmp_path: Path) -> None:
    assert isinstance(await open_storage("memory://"), MemoryStorage)
    storage = await open_storage(f"sqlite://{tmp_path}/a%20b.db")
    assert isinstance(storage, SqliteStorage)
    assert storage.database.path == tmp_path / "a b.db"
    await storage.ping()
    await storage.close()
    await storage.close()
    with pytest.raises(Unavailable):
        await storage.ping()


def test_what_serves_a_data_file_needs_no_driver_of_postgresql() -> None:
    code = (
        "from runwire.cli.main import make_app; make_app()\n"
        "import sys; print(sorted({'asyncpg', 'sqlalchemy', 'alembic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://root:hush@host/db", "sqlite:///abs/path.db or memory://"),
        ("", "sqlite:///abs/path.db or memory://"),
        ("postgresql://ada:hush@host:hush/db", "cannot be read"),
        ("sqlite://runwire.db", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("sqlite:///a.db?mode=ro", "three slashes"),
    ],
)
async def test_wrong_url_is_refused_without_repeating_it(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refusal:
        await open_storage(url)
    assert "hush" not in refusal.value.message
