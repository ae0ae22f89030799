"""The runtime broken on purpose: named changes of one function each, put in its place while a test looks.

The text of the function is changed and compiled anew; the tree is never touched. A change whose pattern the source no
longer has is an error, not a pass.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from runwire.protocol.replay import Replay
from runwire.runtime.outbox import Buffer
from runwire.runtime.speech import Speaker
from runwire.runtime.transcript import Transcript
from runwire.storage.sqlite import runs as sqlite_runs

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    name: str  # what it does wrong
    owner: Any  # class or module of the function
    function: str
    old: str  # occurs once
    new: str
    seen: str  # what the property then says, a regular expression
    seeds: Sequence[int]  # of agents that show it soon

    def put(self, patch: pytest.MonkeyPatch) -> None:
        """Put the changed function in place.

        Raises:
            LookupError: the source has changed; write the mutant anew.
        """
        real: Callable[..., Any] = getattr(self.owner, self.function)
        text = textwrap.dedent(inspect.getsource(real))
        if text.count(self.old) != 1:
            where = f"{real.__qualname__} has {text.count(self.old)} times"
            raise LookupError(f"{where}: {self.old!r} (mutant {self.name!r})")
        made: dict[str, Any] = {}
        source = f"from __future__ import annotations\n{text.replace(self.old, self.new)}"
        exec(compile(source, f"{real.__qualname__}, {self.name}", "exec"), vars(inspect.getmodule(real)), made)
        patch.setattr(self.owner, self.function, made[self.function])


MUTANTS = (
    Mutant(
        "executes a step again whose result is recorded",
        Speaker,
        "begin_step",
        "return begun[0]",
        "import dataclasses\n    return dataclasses.replace(begun[0], recorded=None)",
        seen="ended as agent_failed",
        seeds=(5, 4),
    ),
    Mutant(
        "merges what it sends again",
        Buffer,
        "freeze",
        "if self._frozen is None and self._pending:",
        "if self._frozen and self._pending and not self._end:\n"
        "            last, self._frozen = self._frozen, None\n"
        "            more = self._next_batch()\n"
        "            self._frozen = msgspec.structs.replace(more, events=last.events + more.events,\n"
        "                pinned=last.pinned or more.pinned, waits=last.waits + more.waits)\n"
        "        elif self._frozen is None and self._pending:",
        seen="without having lost its worker",
        seeds=(2, 1, 0),
    ),
    Mutant(
        "calls a function before its beginning is committed",
        Speaker,
        "begin_step",
        "await self._buffer.flushed()",
        "pass",
        seen="before its beginning is committed",
        seeds=(2, 3),
    ),
    Mutant(
        "drops an answer that comes as the run parks",
        sqlite_runs,
        "park",
        ".rowcount == 1:",
        ".rowcount == 1:\n        connection.execute('UPDATE run SET woken_at = NULL WHERE id = ?', (one.run,))",
        seen="stands still",
        seeds=(5, 0, 8),
    ),
    Mutant(
        "does not learn the seqs of what it says",
        Transcript,
        "_learn",
        "if learned:",
        "if False:",
        seen="stands still|ended as|not as uncrashed",
        seeds=(30, 36, 0),
    ),
    Mutant(
        "begins a sub-agent again that is open",
        Replay,
        "begin_span",
        "if logged is None:",
        "if logged is None or logged.completion is None:",
        seen="leaves open|internal",
        seeds=(1, 6, 3),
    ),
    Mutant(
        "closes in a takeover a try in which something has begun",
        Replay,
        "start",
        "if not self._journal.has_begun(each.scope):",
        "if True:",
        seen="ends before what is inside|stands still",
        seeds=(17, 0),
    ),
    Mutant(
        "says after a crash that nothing was lost",
        Transcript,
        "start",
        'reason: Any = None if claim.is_resumed else claim.handed_over or "worker_lost"',
        "reason: Any = None",
        seen="not open|internal",
        seeds=(2, 1),
    ),
)
