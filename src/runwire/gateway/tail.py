"""One tail per node and database: it keeps a ring for every thread that somebody here listens to.

Rings are fed by the bus and completed from the log: a committed segment is taken iff it continues the
ring; anything else is only a reason to look. Whatever the bus loses, the periodic check finds, with one
query for all threads. While the node hears its own beacon on the bus: those with an unfinished run each 2 s, idle
threads each 10 s. Else each 100 ms and each second. And all at once when the bus says that it may have lost something,
or the database leads to another history. Rings with holes queue up, and one query fills all that wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from runwire.errors import RunwireError, Unavailable
from runwire.gateway.lookups import Found, Lookups
from runwire.gateway.ring import Budget, Ring
from runwire.protocol import events
from runwire.protocol.ids import new_id
from runwire.storage.base import Bus, BusMessage, Committed, Storage, Wake

__all__ = ["Tail", "TailSettings"]

_log: Final = structlog.get_logger(__name__)
_FILL_EVENTS: Final = 2_000  # of one query that fills rings


@dataclass(frozen=True, slots=True, kw_only=True)
class TailSettings:
    """How the tail looks after its rings."""

    beacon_s: float | None = None  # time between beacons on the bus; None: what the bus says that it bears
    beacon_fresh_s: float | None = None  # a younger beacon proves that the bus works; None: twice that time
    blind_check_s: float = 0.1  # check of threads with an unfinished run without a fresh beacon
    # Check of all threads without a fresh beacon, for runs that began elsewhere. It is told only what moved: for ten
    # thousand threads one query of 50 ms there and 6 ms here. Ten a second would take half a core for idle ones.
    blind_idle_check_s: float = 1.0
    active_check_s: float = 2.0  # check of threads with an unfinished run with a fresh beacon
    idle_check_s: float = 10.0  # check of all threads
    ring_events: int = 2_000  # events kept per thread
    ring_bytes: int = 4_194_304  # memory of the events kept per thread, with their frames
    node_bytes: int = 268_435_456  # memory of the events kept of all threads
    fills: int = 2  # queries at a time that fill rings: a slow one does not hold up what is wanted meanwhile
    query_s: float = 5.0  # one of these, or a look-up, that takes longer is given up; a database has shorter limits
    fill_threads: int = 1_000  # rings that one of them fills at most


class Tail:
    """Recent events of all threads with a listener on this node.

    Limits: one ring per thread with a listener, each bounded, and all of them together: over `node_bytes`
    the ring that was fed longest ago is emptied. A ring waits at most once to be filled, and one fill reads no more
    than `EventLog.read_many` does at once, whatever the number of rings.

    Args:
        storage: the log.
        bus: hints about it.
        settings: times and sizes.
    """

    def __init__(self, storage: Storage, bus: Bus, settings: TailSettings | None = None) -> None:
        self._storage = storage
        self._bus = bus
        self._settings = settings or TailSettings()
        self._beacon_s = self._settings.beacon_s or bus.beacon_s
        self._fresh_s = self._settings.beacon_fresh_s or 2 * self._beacon_s
        self._looks_at_all = False  # at the next check
        self._node = new_id("node")
        self._rings: dict[tuple[str, str], Ring] = {}  # (user, thread): who asks for a foreign thread gets its own
        self._of_thread: dict[str, list[Ring]] = {}
        self._stops: dict[Ring, Callable[[], None]] = {}  # the bus follows the owner of each ring
        self._to_fill: dict[Ring, None] = {}  # in the order in which they came
        self._has_to_fill = asyncio.Event()
        self._unfilled: set[Ring] = set()  # the query failed; each check has them queue up again
        self._log_seen = storage.log
        self._lookups = Lookups(storage, query_s=self._settings.query_s)
        self._budget = Budget(self._settings.node_bytes)
        self._beacon_at_s = float("-inf")

    @property
    def kept_bytes(self) -> int:
        """Return how much memory the events kept here take."""
        return self._budget.kept_bytes

    @property
    def threads(self) -> int:
        """Return how many threads have a listener here."""
        return len(self._rings)

    def bus_age_s(self) -> float:
        """Return how old the last beacon is that came back over the bus."""
        return asyncio.get_running_loop().time() - self._beacon_at_s

    # ── listeners ───────────────────────────────────────────────────────────────────────────────────────

    def listen(self, *, user: str, thread: str, wake: Callable[[], None]) -> Ring:
        """Return the thread's ring and call `wake()` whenever there may be something new in it.

        Call it before reading the thread's head: what is committed in between is then heard of, for the bus brings
        the owner's commits from here on.
        """
        ring = self._rings.get((user, thread))
        if ring is None:
            settings = self._settings
            ring = Ring(user=user, thread=thread, limit_events=settings.ring_events, limit_bytes=settings.ring_bytes)
            self._rings[user, thread] = ring
            self._of_thread.setdefault(thread, []).append(ring)
            self._stops[ring] = self._bus.follow(user)
        ring.listeners.add(wake)
        return ring

    async def look_up(self, *, user: str, thread: str) -> Found:
        """Return a thread of this user, and the history that tells so; asked together with what others ask for.

        Raises:
            NotFound: unknown, deleted, or somebody else's.
            Unavailable: the database does not answer.
        """
        return await self._lookups.get(user, thread)

    def leave(self, ring: Ring, wake: Callable[[], None]) -> None:
        """Stop listening; the last one to leave takes the ring with it. Idempotent."""
        ring.listeners.discard(wake)
        if ring.listeners or self._rings.get((ring.user, ring.thread)) is not ring:
            return
        del self._rings[ring.user, ring.thread]
        self._stops.pop(ring)()
        self._budget.release(ring)
        self._to_fill.pop(ring, None)
        self._unfilled.discard(ring)
        rings = self._of_thread[ring.thread]
        rings.remove(ring)
        if not rings:
            del self._of_thread[ring.thread]

    def complete(self, ring: Ring, *, head: int | None = None) -> None:
        """Have the ring filled from the log if its thread's head is beyond it, or not known."""
        if not ring.is_open:
            ring.wants_fill = True  # when it begins: until then nobody knows what it will lack
            return
        if head is None:
            ring.seen = max(ring.seen, ring.through)
        else:
            ring.seen = max(ring.seen, head)
            if not ring.has_hole and not ring.wants_fill:
                return  # what was asked for before the ring began is still to be done
        ring.wants_fill = True
        if not ring.is_filling and not ring.is_deleted:
            self._queue(ring)

    def _queue(self, ring: Ring) -> None:
        ring.is_filling = True
        self._to_fill[ring] = None
        self._has_to_fill.set()

    # ── the bus ─────────────────────────────────────────────────────────────────────────────────────────

    def hear(self, message: BusMessage) -> None:
        """Take a message of the bus, or what this node itself has just committed."""
        if isinstance(message, Committed):
            for ring in self._of_thread.get(message.thread, ()):
                self._continue(ring, message)
        elif message.topic == "beacon" and message.node == self._node:
            self._beacon_at_s = asyncio.get_running_loop().time()
        elif message.topic == "moved" and message.thread and message.seq:
            for ring in self._of_thread.get(message.thread, ()):
                self.complete(ring, head=message.seq)
        elif message.topic == "moved":
            self._looks_at_all = True
        elif message.topic == "deleted" and message.thread:
            for ring in self._of_thread.get(message.thread, ()):
                self.complete(ring)  # a hint proves nothing: the log says whether the thread is gone

    def _continue(self, ring: Ring, committed: Committed) -> None:
        is_ours = committed.log == ring.log and committed.user == ring.user
        if not ring.is_open or not is_ours:
            self.complete(ring)
        elif committed.first_seq == ring.through + 1:
            ring.extend(
                events.unpack(
                    committed.packed, first_seq=committed.first_seq, run=committed.run, attempt=committed.attempt
                ),
                through=committed.last_seq,
            )
            self._fed(ring)
        else:
            self.complete(ring, head=committed.last_seq)

    def _fed(self, ring: Ring) -> None:
        """Tell the ring's listeners, and keep the memory of all rings bounded."""
        if ring.listeners:  # else it was left while it was being filled
            self._budget.keep(ring)
            ring.wake()

    # ── loops ───────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Feed the rings until cancelled."""
        stop = self._bus.listen(self.hear)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat())
                group.create_task(self._check())
                group.create_task(self._lookups.run())
                for _ in range(self._settings.fills):
                    group.create_task(self._fill_all())
        finally:
            stop()

    async def _beat(self) -> None:
        while True:
            self._bus.publish(Wake(topic="beacon", node=self._node))
            await asyncio.sleep(self._beacon_s)

    async def _check(self) -> None:
        clock = asyncio.get_running_loop().time
        active_at_s = idle_at_s = blind_at_s = clock()
        while True:
            now_s = clock()
            is_blind = now_s - self._beacon_at_s > self._fresh_s
            self._notice_history()
            self._try_again()
            if now_s >= idle_at_s or self._looks_at_all:
                self._looks_at_all = False  # before the look: what is heard during it leads to another one
                await self._look_at(list(self._rings.values()), all_heads=True)
                active_at_s = now_s + self._settings.active_check_s
                idle_at_s = now_s + self._settings.idle_check_s
                blind_at_s = now_s + self._settings.blind_idle_check_s
            elif is_blind and now_s >= blind_at_s:
                await self._look_at(list(self._rings.values()), all_heads=False)
                blind_at_s = now_s + self._settings.blind_idle_check_s
            elif now_s >= active_at_s or is_blind:
                await self._look_at([ring for ring in self._rings.values() if ring.is_active], all_heads=False)
                active_at_s = now_s + self._settings.active_check_s
            await asyncio.sleep(self._settings.blind_check_s)

    def _notice_history(self) -> None:
        """Have all rings of a history that is over read again: heads that did not move say nothing."""
        log = self._storage.log
        if log == self._log_seen:
            return
        self._log_seen = log
        for ring in self._rings.values():
            if ring.log != log:
                self.complete(ring)

    def _try_again(self) -> None:
        unfilled, self._unfilled = self._unfilled, set()
        for ring in unfilled:
            self.complete(ring)

    async def _look_at(self, due: list[Ring], *, all_heads: bool) -> None:
        """Ask for the heads of these threads, all at once, and have those filled that moved.

        A thread that was to be answered in any case and is not among the answers is gone.
        """
        if all_heads:
            for ring in due:
                if not ring.is_open:
                    self.complete(ring)  # its own first read may be older than what leads to this look
        due = [ring for ring in due if ring.is_open and not ring.is_deleted]
        if not due:
            return
        # -1: answered in any case, also to learn whether a run goes on.
        known = {ring.thread: -1 if all_heads or ring.activity is None else ring.through for ring in due}
        try:
            heads = await self._storage.events.heads(known)
            for ring in due:
                head = heads.get(ring.thread)
                if head:
                    ring.learn(head)
                    self.complete(ring, head=head.seq)
                elif known[ring.thread] < 0:
                    self.complete(ring)  # a read proves that it is gone
        except Exception as error:  # top of a worker loop: the next check comes
            _log.warning("tail_check_failed", threads=len(due), error=type(error).__name__)

    async def _fill_all(self) -> None:
        while True:
            await self._has_to_fill.wait()
            batch = self._next_batch()
            if not batch:
                self._has_to_fill.clear()
                continue
            try:
                await self._fill_or_halve(batch)
            except Exception as error:  # top of a worker loop: the next check asks again
                if isinstance(error, RunwireError):
                    _log.warning("tail_fill_failed", threads=len(batch), error=error.code)
                else:
                    _log.exception("tail_fill_failed", threads=len(batch), error=type(error).__name__)
                self._unfilled.update(ring for ring in batch.values() if ring.listeners)  # the others were left
            finally:
                for ring in batch.values():
                    ring.is_filling = ring in self._to_fill

    def _next_batch(self) -> dict[str, Ring]:
        """Take those that have waited longest, one ring of each thread, no more than one query brings to their ends."""
        batch: dict[str, Ring] = {}
        expected = 0
        for ring in self._to_fill:
            if len(batch) >= self._settings.fill_threads or expected >= _FILL_EVENTS:
                break
            if ring.thread not in batch:
                batch[ring.thread] = ring
                expected += ring.seen - ring.through
        for ring in batch.values():
            del self._to_fill[ring]
        return batch

    async def _fill_or_halve(self, batch: Mapping[str, Ring]) -> None:
        """Fill a batch. If something of one thread breaks it, which is no outage, only that one stays as it is."""
        try:
            await self._fill(batch)
        except RunwireError:
            raise
        except Exception:
            if len(batch) == 1:
                raise
            rings = list(batch.items())
            middle = len(rings) // 2
            try:
                await self._fill_or_halve(dict(rings[:middle]))
            finally:
                await self._fill_or_halve(dict(rings[middle:]))

    async def _fill(self, batch: Mapping[str, Ring]) -> None:
        """Read on for all these rings at once; those that are not at their end queue up again, behind the others."""
        for ring in batch.values():
            # Arm before looking: who asks again while this reads gets another read.
            ring.wants_fill = False
            if ring.seen - ring.through > self._settings.ring_events:
                # More than the ring holds: begin anew, and let those who are behind read the log themselves.
                ring.restart(at=ring.seen, log=ring.log)
                self._fed(ring)
        cursors = {thread: ring.through for thread, ring in batch.items()}
        try:
            async with asyncio.timeout(self._settings.query_s):
                pages = await self._storage.events.read_many(cursors, limit=_FILL_EVENTS)
        except TimeoutError as error:
            raise Unavailable("The database does not answer.") from error
        for thread, ring in batch.items():
            page = pages.get(thread)
            if page is None:
                ring.is_deleted = True
                ring.wake()
                continue
            is_done = ring.take(page)
            self._fed(ring)
            if ring.listeners and (ring.wants_fill or not is_done):
                self._queue(ring)
