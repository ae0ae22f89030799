"""The end of a person's data in memory."""

from __future__ import annotations

from runwire.storage.base_erasure import Erased
from runwire.storage.base_members import RESERVED
from runwire.storage.clock import now_ms
from runwire.storage.memory.state import UNFINISHED, State

__all__ = ["MemoryErasure"]


class MemoryErasure:
    """The end of people's data, in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def erase(self, user: str, *, is_forced: bool = False) -> Erased:
        """Delete what a user has; see `Erasure.erase`."""
        state = self._state
        with state.lock:
            runs = [run for run in state.runs.values() if run.user == user]
            unfinished = sum(run.status in UNFINISHED for run in runs)
            if unfinished and not is_forced:
                return Erased(runs=0, threads=(), unfinished=unfinished, has_more=True)
            for run in runs:
                del state.runs[run.id]
                for wait in run.waits:
                    state.waits.pop(wait, None)
            threads = tuple(thread.id for thread in state.threads.values() if thread.user == user)
            for thread in threads:
                del state.threads[thread]
            if user in state.users:
                state.users[user].keys.clear()
                if user.startswith(RESERVED):
                    del state.users[user]
            return Erased(runs=len(runs), threads=threads, unfinished=0, has_more=False)

    async def leftovers(self, *, older_s: float) -> list[str]:
        """Return names of processes that left something; see `Erasure.leftovers`."""
        before = now_ms() - round(older_s * 1000)
        with self._state.lock:
            return [
                one.id for one in self._state.users.values() if one.id.startswith(RESERVED) and one.met_at <= before
            ]

    async def wipe(self, *, is_thorough: bool = False) -> None:
        """Nothing: what is deleted is gone."""
