"""Which agents may be asked, from what members have said: the same on every adapter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from runwire.storage.base_members import Offered

__all__ = ["ABSENT_S", "CLOCK_SLACK_MS", "KEPT_MS", "Word", "offered"]

ABSENT_S: Final = 60.0  # for how long a member's word is good; it is said again each sixth of that, or 10 s
KEPT_MS: Final = 86_400_000  # a day: after it, who was not seen is forgotten
CLOCK_SLACK_MS: Final = 1_000  # what was said so far in the future counts: a clock that was set back a little


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What one or several members have said alike."""

    agents: Iterable[str]
    default: str | None
    is_live: bool
    is_gone: bool  # said goodbye, so long ago that it does not count any more


def offered(words: Iterable[Word]) -> Offered:
    """Return which agents may be asked; see `Members.offered`."""
    said = list(words)
    is_anybody_live = any(word.is_live for word in said)
    counted = [word for word in said if not (word.is_gone and is_anybody_live)]
    names = sorted({name for word in counted for name in word.agents})
    if len(names) == 1:
        return Offered(names=(names[0],), default=names[0])
    chosen = {word.default for word in counted if word.is_live and word.default is not None}
    chosen = chosen or {word.default for word in counted if word.default is not None}
    return Offered(names=tuple(names), default=min(chosen, default=None))
