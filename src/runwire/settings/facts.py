"""What is not in the settings and decides whether they are safe: asked of the machine, once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from runwire.settings.model import Settings
from runwire.settings.unsafe import Facts

__all__ = ["facts_of", "file_system_of"]

_MOUNTS: Final = Path("/proc/self/mountinfo")  # proc(5); elsewhere the kind of a file system is not known


def facts_of(settings: Settings) -> Facts:
    """Look at what the rules want to know."""
    parts = urlsplit(settings.storage_url)
    if parts.scheme != "sqlite":
        return Facts()
    return Facts(file_system=file_system_of(Path(unquote(parts.path)).parent))


def file_system_of(folder: Path, *, mounts: Path = _MOUNTS) -> str:
    """Return the kind of the file system where a folder lies or would be made, such as `ext4`; empty: not known."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
        path = folder.resolve()
    except (OSError, RuntimeError):
        return ""
    kind, depth = "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        place = Path(_unescaped(before.split(" ")[4]))
        # The later of two at one place is the one that is seen.
        if path.is_relative_to(place) and len(place.parts) >= depth:
            kind, depth = after.split(" ")[0], len(place.parts)
    return kind


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
