"""Which agents may be asked, from what members have said: the same on every adapter."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

from runwire.storage.base_members import RESERVED, Offered

__all__ = ["CLOCK_SLACK_MS", "KEPT_MS", "Word", "offered"]

KEPT_MS: Final = 86_400_000  # a day: after it, who was not seen is forgotten
CLOCK_SLACK_MS: Final = 1_000  # what was said so far in the future counts: a clock that was set back a little


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What one or several members have said alike."""

    agents: Collection[str]
    default: str | None
    is_live: bool
    is_gone: bool  # said goodbye, so long ago that it does not count any more


def offered(words: Iterable[Word]) -> Offered:
    """Return which agents may be asked; see `Members.offered`."""
    said = [_without_reserved(word) for word in words]
    said = [word for word in said if word.agents]
    is_anybody_live = any(word.is_live for word in said)
    counted = [word for word in said if not (word.is_gone and is_anybody_live)]
    names = {name for word in counted for name in word.agents}
    chosen = {word.default for word in counted if word.is_live and word.default is not None}
    chosen = chosen or {word.default for word in counted if word.default is not None}
    return Offered(names=tuple(sorted(names)), chosen=min(chosen, default=None))


def _without_reserved(word: Word) -> Word:
    return replace(word, agents=[name for name in word.agents if not name.startswith(RESERVED)])
