"""What agents wrote about themselves, read while they write: one file per worker process, followed to its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Effects", "Said", "Traces"]


@dataclass(slots=True)
class Effects:
    """What one step did to the world."""

    begun: int = 0
    tokens: set[str] = field(default_factory=set)  # of those that ended


@dataclass(slots=True)
class Said:
    """What the lives of one run left behind."""

    lives: int = 0
    users: set[str] = field(default_factory=set)
    sayings: dict[tuple[str, int], set[str]] = field(default_factory=dict)  # (scope, n) -> checksums
    effects: dict[str, Effects] = field(default_factory=dict)  # step -> what was done

    def longest(self) -> Counter[str]:
        """Return scope -> how much it said in the life that came furthest."""
        most: Counter[str] = Counter()
        for scope, n in self.sayings:
            most[scope] = max(most[scope], n + 1)
        return most


class Traces:
    """All files of a folder, and what was read of them so far."""

    def __init__(self, folder: Path) -> None:
        self.runs: dict[str, Said] = {}
        self.lines = 0
        self._folder = folder
        self._read: dict[Path, int] = {}

    def follow(self) -> None:
        """Read what came since the last time. Of a process that was killed in a write there may be half a line."""
        for path in self._folder.glob("said-*"):
            at = self._read.get(path, 0)
            with path.open("rb") as file:
                file.seek(at)
                new = file.read()
            whole = new.rfind(b"\n") + 1
            self._read[path] = at + whole
            for line in new[:whole].decode().splitlines():
                self._take(line.split(" "))

    def forget(self, run: str) -> None:
        """Drop what is no longer needed."""
        self.runs.pop(run, None)

    def _take(self, words: list[str]) -> None:
        self.lines += 1
        kind, run = words[0], words[1]
        said = self.runs.get(run)
        if said is None:
            said = self.runs[run] = Said()
        if kind == "S":
            said.sayings.setdefault((words[3], int(words[4])), set()).add(words[6])
        elif kind == "E":
            effects = said.effects.setdefault(words[3], Effects())
            if words[4] == "begun":
                effects.begun += 1
            else:
                effects.tokens.add(words[5])
        else:
            said.lives += 1
            said.users.add(words[3])
