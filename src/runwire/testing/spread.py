"""How tests are spread over processes: a file is the unit, or a folder whose tests share what takes long to start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

__all__ = ["Spread", "unit"]


class Spread:
    """A pytest plugin that makes the scheduler of xdist.

    Args:
        together: folders that one process runs, below the project's root.
    """

    def __init__(self, together: Sequence[str]) -> None:
        self._together = tuple(together)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> LoadFileScheduling:
        """Return the scheduler."""
        from xdist.scheduler import LoadFileScheduling  # not at the top: who tests in one process may not have it

        folders = self._together

        class ByPlace(LoadFileScheduling):  # type: ignore[misc]  # xdist says no types
            def _split_scope(self, nodeid: str) -> str:
                return unit(nodeid, folders)

        return ByPlace(config, log)


def unit(name: str, folders: Sequence[str]) -> str:
    """Return what a test is handed out with: its folder, or its file."""
    file = name.partition("::")[0]
    return next((folder for folder in folders if file.startswith(f"{folder}/")), file)
