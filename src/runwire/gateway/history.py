"""A thread as it stands: its log folded by the same reducer that clients use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runwire.protocol.shown import Run
from runwire.protocol.view import ThreadView
from runwire.storage.base import RunRow, Storage

__all__ = ["History", "fold", "fold_run"]

_PAGE_EVENTS: Final = 500  # folded between two reads: others have the loop in between


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a thread shows after its event `seq`."""

    log: str
    seq: int
    view: ThreadView


async def fold(storage: Storage, thread: str) -> History:
    """Fold a thread's log up to its head as of the last read; exact at `seq`.

    The caller has checked that the thread is the user's.

    Raises:
        NotFound: deleted meanwhile.
        Unavailable: the database does not answer.
    """
    view = ThreadView()
    through = 0
    while True:
        page = await storage.events.read(thread, after=through, limit=_PAGE_EVENTS)
        if page.floor > through:
            view.clear()  # cut in between: what was folded has lost its end
        for event in page.events:
            view.apply(event)
        through = page.through
        if through >= page.head:
            return History(log=page.log, seq=through, view=view)


async def fold_run(storage: Storage, row: RunRow) -> Run:
    """Fold what the log has of one run, as far as it has come.

    The caller has checked that the run is the user's.

    Raises:
        NotFound: its thread was deleted meanwhile.
        Unavailable: the database does not answer.
    """
    view = ThreadView()
    through = row.seq - 1
    while True:
        page = await storage.events.read(row.thread, after=through, limit=_PAGE_EVENTS)
        for event in page.events:
            if event.run == row.run:
                view.apply(event)
        through = page.through
        run = view.runs.get(row.run, Run(id=row.run, status=row.status))
        if run.is_ended or through >= page.head:
            return run
