"""Judges runs as they end, so that little is kept and the end comes quickly; and the database as a whole at the end."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
from tests.fleet.load import Load, Sent
from tests.fleet.oracle import Evidence, Fault, Row, judge, judge_steps, judge_tabs, rows_of
from tests.fleet.tab import History, Tab
from tests.fleet.traces import Effects, Said, Traces

__all__ = ["Judge"]

_ROWS: Final = """
SELECT r.id, s.first_seq, s.attempt, s.events FROM segment s JOIN run r ON r.key = s.run_key
WHERE r.id = ANY($1::text[]) ORDER BY s.thread_key, s.first_seq
"""
_WHOLE: Final = {
    "lost: segments of a thread overlap or leave a hole": """
        SELECT thread_key, first_seq FROM (
          SELECT thread_key, first_seq, lag(last_seq, 1, 0::bigint) OVER (PARTITION BY thread_key ORDER BY first_seq) b
          FROM segment) x WHERE first_seq <> b + 1 LIMIT 5""",
    "lost: a head is not the last event": """
        SELECT t.id, t.head FROM thread t LEFT JOIN
          (SELECT thread_key, max(last_seq) AS last_seq FROM segment GROUP BY 1) s ON s.thread_key = t.key
        WHERE t.head <> coalesce(s.last_seq, 0) LIMIT 5""",
    "no terminal: a run was left unfinished": """
        SELECT id, status, attempt FROM run WHERE status NOT IN ('completed', 'failed', 'cancelled') LIMIT 5""",
    "terminals: a run's end and its terminal event do not agree": """
        SELECT r.id, r.status, s.n FROM run r LEFT JOIN
          (SELECT run_key, count(*) AS n, max(last_seq) AS seq FROM segment WHERE (flags & 2) <> 0 GROUP BY 1) s
          ON s.run_key = r.key
        WHERE s.n IS DISTINCT FROM 1 OR s.seq IS DISTINCT FROM r.terminal_seq LIMIT 5""",
    "doubled: a key stored two runs": """
        SELECT user_key, idempotency_key FROM run GROUP BY 1, 2 HAVING count(*) > 1 LIMIT 5""",
}
_THREADS: Final = """
SELECT t.id, s.first_seq, s.attempt, s.events FROM segment s JOIN thread t ON t.key = s.thread_key
WHERE t.id = ANY($1::text[]) ORDER BY s.thread_key, s.first_seq
"""
_UNFINISHED: Final = "SELECT count(*) FROM run WHERE status NOT IN ('completed', 'failed', 'cancelled')"
_SETTLED_S: Final = 16.0  # longer than the longest silence that a tab bears
_PATIENCE_S: Final = 90.0  # from the first tab that saw a run's end to the last
_AT_ONCE: Final = 40
_KEPT: Final = 50  # faults whose evidence is kept


class Judge:
    """Judges the runs of a load.

    Args:
        load: whose runs these are.
        url: gives the database's, which is another one after a fail-over.
        traces: what agents wrote.
        folder: for the evidence of violations.
        say: takes a line for each violation.
    """

    def __init__(
        self, load: Load, url: Callable[[], str], traces: Traces, folder: Path, say: Callable[[str], None]
    ) -> None:
        self.load = load
        self.traces = traces
        self.faults: list[Fault] = []
        self.runs = 0
        self.events: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._url = url
        self._folder = folder
        self._say = say
        self._done: dict[str, dict[str, int]] = {}  # run -> step -> how often it was begun, for what zombies do later
        self._connection: asyncpg.Connection[Any] | None = None

    async def work(self) -> None:
        """Judge what has ended, again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(0.5)

    async def look(self) -> int:
        """Judge what has ended and was seen by everybody; return how many runs wait."""
        self.traces.follow()
        for fault in self.load.faults:
            self._report(fault, None)
        self.load.faults.clear()
        now_s = time.monotonic()
        ready = [sent for sent in self.load.ended if self._is_ready(sent, now_s)][:_AT_ONCE]
        if ready:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                rows = await self._rows([sent.run for sent in ready])
                self.traces.follow()
                # A fail-over may have come between: then they are of another history than these rows.
                for sent in (sent for sent in ready if sent.run in self.load.runs):
                    self._judge(sent, rows.get(sent.run, []))
        self.load.ended = [sent for sent in self.load.ended if sent.run in self.load.runs]
        return len(self.load.ended)

    async def finish(self) -> None:
        """Judge the database as a whole, and what was done after its run had been judged."""
        self.traces.follow()
        if self.load.has_failed_over:
            await self._judge_amnestied()
        for sent in list(self.load.runs.values()):
            self._report(Fault("no terminal", sent.run, f"{sent.content} in {sent.thread}, sent {sent.sent_s}"), None)
        connection = await asyncpg.connect(self._url())
        try:
            for name, query in _WHOLE.items():
                if found := await connection.fetch(query):
                    kind, _, detail = name.partition(": ")
                    self._report(Fault(kind, "", f"{detail}: {[tuple(row) for row in found]}"), None)
            stored = await connection.fetchval("SELECT count(*) FROM run")
        finally:
            await connection.close()
        wanted = self.load.counts["runs"]
        if stored != wanted and not self.load.has_failed_over:
            self._report(Fault("forgotten", "", f"{wanted} runs were acknowledged and {stored} are stored"), None)
        await self._judge_late()

    async def _judge_late(self) -> None:
        # What ended with the old history may be done again in the new one.
        late = [run for run in self.traces.runs if run in self._done and not self.load.has_failed_over]
        rows = await self._rows(late)
        for run in late:
            said = self.traces.runs[run]
            for step, count in self._done[run].items():
                said.effects.setdefault(step, Effects()).begun += count
            evidence = Evidence(run, "", b"", "", rows.get(run, []), {}, said)
            judge_steps(evidence, is_late=True)
            for fault in evidence.faults:
                self._report(fault, evidence)
        self.counts["runs with effects after their end"] += len(late)
        if self._connection is not None:
            await self._connection.close()

    async def quiet(self, *, timeout_s: float) -> None:
        """After a fail-over: wait until no run is left unfinished and tabs have had the time to see it."""
        async with asyncio.timeout(timeout_s):
            while True:
                with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                    connection = await asyncpg.connect(self._url(), timeout=5)
                    try:
                        if not await connection.fetchval(_UNFINISHED):
                            break
                    finally:
                        connection.terminate()
                await asyncio.sleep(0.5)
        await asyncio.sleep(_SETTLED_S)

    async def _judge_amnestied(self) -> None:
        """Compare what each tab has applied since its reset with the history that there is now."""
        runs = self.load.amnestied
        threads = sorted({sent.thread for sent in runs.values()})
        connection = await asyncpg.connect(self._url())
        try:
            found = await connection.fetch(_THREADS, threads)
            kept = {
                row[0] for row in await connection.fetch("SELECT id FROM run WHERE id = ANY($1::text[])", list(runs))
            }
        finally:
            await connection.close()
        rows: dict[str, list[Row]] = {}
        for thread, first_seq, attempt, packed in found:
            rows.setdefault(thread, []).extend(rows_of(first_seq, attempt, bytes(packed)))
        for sent in {sent.thread: sent for sent in runs.values()}.values():
            for tab in sent.person.tabs:
                self._judge_thread(sent, tab, rows.get(sent.thread, []))
        self.counts["lived through the fail-over"] = len(kept)
        self.counts["acknowledged and lost by the fail-over"] = len(runs) - len(kept)

    def _judge_thread(self, sent: Sent, tab: Tab, rows: list[Row]) -> None:
        follow = tab.follows.get(sent.thread)
        if follow is None:
            if rows:
                self._report(Fault("lost", sent.run, f"{tab.name} has dropped {sent.thread}, which is there"), None)
            return
        if not rows:
            self.counts["tabs not told that a thread is gone"] += 1
            return
        if follow.log in self.load.old_logs:
            self._report(Fault("reset", sent.run, f"{tab.name} does not know of the other history"), None)
            return
        history = History(sent.thread, follow.shown if follow.resets else [], True)
        evidence = Evidence(sent.run, "", b"", "", [row for row in rows if row.seq > follow.base], {}, Said())
        evidence.tabs[tab.name] = (tab.view, history)
        if follow.resets:
            judge_tabs(evidence)
        for fault in evidence.faults:
            self._report(fault, evidence)

    def _is_ready(self, sent: Sent, now_s: float) -> bool:
        if sent.ended_s is not None and now_s - sent.ended_s > _PATIENCE_S:
            return True
        return all((history := tab.histories.get(sent.run)) is not None and history.is_over for tab in sent.person.tabs)

    async def _rows(self, runs: Collection[str]) -> dict[str, list[Row]]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._url(), timeout=5)
        try:
            found = await self._connection.fetch(_ROWS, list(runs), timeout=20)
        except BaseException:
            self._connection.terminate()
            self._connection = None
            raise
        rows: dict[str, list[Row]] = {}
        for run, first_seq, attempt, packed in found:
            rows.setdefault(run, []).extend(rows_of(first_seq, attempt, bytes(packed)))
        return rows

    def _judge(self, sent: Sent, rows: list[Row]) -> None:
        person = sent.person
        said = self.traces.runs.get(sent.run, Said())
        if not rows:
            self._report(Fault("forgotten", sent.run, f"acknowledged, and nothing is stored: {sent.content}"), None)
        else:
            evidence = Evidence(
                run=sent.run,
                user=person.user,
                canary=person.canary.encode(),
                agent=sent.agent,
                rows=rows,
                tabs={
                    tab.name: (tab.view, tab.histories[sent.run]) for tab in person.tabs if sent.run in tab.histories
                },
                said=said,
                seq=sent.seq,
                content=sent.content,
                is_cancelled=sent.is_cancelled,
                is_amnestied=sent.is_amnestied,
            )
            for tab in person.tabs:
                # A reset may begin behind a run that had ended: it shows the newest one, and what follows.
                hidden = tab.follows[sent.thread].base if sent.thread in tab.follows else 0
                if sent.run not in tab.histories and hidden < rows[-1].seq:
                    evidence.blame("lost", f"{tab.name} has shown nothing of it")
            for fault in judge(evidence):
                self._report(fault, evidence)
            self.runs += 1
            self.events.update(row.type for row in rows)
            self.counts["attempts beyond the first"] += max(row.attempt for row in rows) - 1 > 0
            self.counts["worker_lost"] += rows[-1].type == "agent_failed" and b'"worker_lost"' in rows[-1].data
            self.counts["side effects"] += sum(effects.begun for effects in said.effects.values())
        self._done[sent.run] = {step: effects.begun for step, effects in said.effects.items()}
        self.traces.forget(sent.run)
        self.load.judged(sent)

    def _report(self, fault: Fault, evidence: Evidence | None) -> None:
        self.faults.append(fault)
        self._say(f"VIOLATION {len(self.faults)}: {fault.kind}: {fault.run}: {fault.detail}")
        if evidence is None or len(self.faults) > _KEPT:
            return
        folder = self._folder / "violations"
        folder.mkdir(exist_ok=True)
        kept = {
            "fault": [fault.kind, fault.detail],
            "run": evidence.run,
            "content": evidence.content,
            "rows": [
                [row.seq, row.type, row.attempt, row.ts, row.data.decode(errors="replace"), row.scope]
                for row in evidence.rows
            ],
            "tabs": {name: [view, history.events] for name, (view, history) in evidence.tabs.items()},
            "sayings": [[*key, sorted(sums)] for key, sums in evidence.said.sayings.items()],
            "effects": {step: [one.begun, sorted(one.tokens)] for step, one in evidence.said.effects.items()},
        }
        path = folder / f"{len(self.faults)}-{fault.run or 'all'}.json"
        path.write_text(json.dumps(kept, indent=1), encoding="utf-8")
