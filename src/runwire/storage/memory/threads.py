"""Conversations in memory."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Collection

from runwire.errors import NotFound
from runwire.protocol.ids import new_id
from runwire.storage.base import CancelRequest, ThreadRow
from runwire.storage.clock import now_ms
from runwire.storage.memory.state import UNFINISHED, State, Thread

__all__ = ["MemoryThreads"]


class MemoryThreads:
    """The conversations of users, in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def create(self, user: str, *, title: str | None = None) -> ThreadRow:
        """Create an empty thread; the user's row is made on first contact."""
        with self._state.lock:
            return _row(self._state.add_thread(user, thread=new_id("th"), title=title, now=now_ms()))

    async def get(self, user: str, thread: str) -> ThreadRow:
        """Return a thread of this user. Raises NotFound."""
        with self._state.lock:
            return _row(self._state.thread_of(user, thread))

    async def get_many(self, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], ThreadRow]:
        """Return threads of users; see `Threads.get_many`."""
        found: dict[tuple[str, str], ThreadRow] = {}
        with self._state.lock:
            for user, thread in pairs:
                with contextlib.suppress(NotFound):
                    found[user, thread] = _row(self._state.thread_of(user, thread))
        return found

    async def list(self, user: str, *, before: str | None = None, limit: int = 50) -> builtins.list[ThreadRow]:
        """List a user's threads, newest first."""
        with self._state.lock:
            theirs = [one for one in reversed(self._state.threads.values()) if one.user == user]
            if before is not None:
                ids = [one.id for one in theirs]
                theirs = theirs[ids.index(before) + 1 :] if before in ids else []
            return [_row(one) for one in theirs if not one.is_deleted][:limit]

    async def rename(self, user: str, thread: str, title: str | None) -> ThreadRow:
        """Set the title. Raises NotFound."""
        with self._state.lock:
            found = self._state.thread_of(user, thread)
            found.title, found.updated_at = title, now_ms()
            return _row(found)

    async def delete(self, user: str, thread: str) -> builtins.list[str]:
        """Leave a tombstone and call off what is unfinished; see `Threads.delete`."""
        with self._state.lock:
            found = self._state.thread_of(user, thread)
            runs = [run for run in found.runs if run.status in UNFINISHED]
            running = [run.id for run in runs if run.status == "running"]
            self._state.call_off(runs, CancelRequest(by="user", reason="thread deleted"))
            found.title, found.deleted_at = None, now_ms()
            return running

    async def reset_from(self, thread: str) -> int:
        """Return PROTOCOL's `from` for a reset of this thread. Raises NotFound."""
        with self._state.lock:
            found = self._state.threads.get(thread)
            if found is None or found.is_deleted:
                raise NotFound("There is no such thread.", field="thread")
            unfinished = [run for run in found.runs if run.status in UNFINISHED]
            wanted = unfinished[:1] or found.runs[-1:]
            return max(found.floor, wanted[0].seq - 1) if wanted else found.floor


def _row(thread: Thread) -> ThreadRow:
    return ThreadRow(
        thread=thread.id,
        user=thread.user,
        title=thread.title,
        head=thread.head,
        floor=thread.floor,
        created_at=thread.created_at,
        updated_at=thread.updated_at,
    )
