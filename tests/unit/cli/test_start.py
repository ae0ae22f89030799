"""What a start imports: half of the time until a server is ready."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("alembic", "attr", "pygments", "rich", "sqlalchemy")


def _imported(*words: str, after: str = "") -> str:
    program = (
        "import gc, sys\n"
        "from runwire import __main__\n"
        f"sys.argv = {['runwire', *words]}\n"
        "def told():\n"
        f"    found = [name for name in {HEAVY} if name in sys.modules]\n"
        "    print(found, gc.isenabled(), file=sys.stderr)\n"
        f"{after}"
        "try:\n"
        "    __main__.main()\n"
        "finally:\n"
        "    told()\n"
    )
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()[-1]


def test_a_server_starts_on_a_new_folder_without_what_it_does_not_need(tmp_path: Path) -> None:
    ends = (
        "from runwire.app.process import _Process\n"
        "async def run(self, **_):\n"  # all is imported and assembled, and nothing listens
        "    pass\n"
        "_Process.run = run\n"
    )
    words = ("dev", "runwire.guide:agent", "--port", "0", "--no-open", "--data-dir", str(tmp_path / "data"))
    begun = "__main__._begin_lightly()\n"  # before the patch imports what is patched
    assert _imported(*words, after=begun + ends) == "[] True"


def test_a_verb_that_stores_imports_no_migrations_and_collects_again(tmp_path: Path) -> None:
    assert _imported("user", "add", "ada", "--data-dir", str(tmp_path / "data")) == "[] True"


def test_a_help_in_colours_still_finds_rich() -> None:
    assert "'rich'" in _imported("user", "--help")
