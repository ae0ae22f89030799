"""The judge: journals of side effects, the log over HTTP and in the file, and what each screen applied must agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.agents import expected
from tests.chaos.deployment import ChaosServer
from tests.outside import TERMINAL, Outside, text_of

__all__ = ["Account", "Said", "judge_file", "judge_thread", "stored_events"]

DELTAS = {"text_delta", "thinking_delta", "tool_args_delta"}
CLOSING = {"tool_completed", "message_completed", "agent_thinking", "superseded"}
MAX_ATTEMPTS = 5

Event = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """A message that somebody tried to send, and what became of that."""

    key: str
    agent: str
    content: str
    run: str | None  # None: refused
    seq: int = 0
    is_cancelled: bool = False  # the cancellation was acknowledged


@dataclass
class Account:
    """Figures of a campaign."""

    counts: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """Return the figures on one line."""
        return ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))


def stored_events(client: Outside, thread: str, *, after: int = 0) -> list[Event]:
    """Read a thread's whole log over HTTP. Raises OSError when the server cannot answer now."""
    events: list[Event] = []
    while True:
        status, page = client.http("GET", f"/v1/threads/{thread}/events?after={after}")
        if status == 503:
            raise OSError(page["message"] if "message" in page else str(page))
        assert status == 200, (status, page)
        events += page["events"]
        if page["through"] <= after:
            return events
        after = page["through"]


def judge_thread(
    server: ChaosServer,
    stored: list[Event],
    *,
    shown: list[Event],
    lifecycle: list[Event],
    said: list[Said],
    account: Account,
    is_compacted: bool = False,
) -> None:
    """Assert that one finished conversation is the same in all histories, and right."""
    bare = _bare(e for e in stored if e["type"] not in DELTAS)
    if is_compacted:
        # What was shown and is gone from the log since can only be a delta; what is there was shown.
        whole = _bare(e for e in shown if e["type"] not in DELTAS)
        assert whole == bare, _difference(whole, bare)
        seen = {e["seq"]: e["data"] for e in shown}
        left = [e for e in stored if e["type"] in DELTAS]
        assert all(seen.get(e["seq"], e["data"]) == e["data"] for e in left), "a delta was changed"
        for one in said:
            assert text_of(shown, one.run or "") == text_of(stored, one.run or ""), one
    else:
        assert shown == stored, _difference(shown, stored)
        assert [e["seq"] for e in stored] == list(range(1, len(stored) + 1)), "the log has a hole"
    other = _bare(lifecycle)
    assert other == bare, _difference(other, bare)
    messages = {e["run"]: e for e in stored if e["type"] == "user_message"}
    contents = Counter(str(e["data"]["content"]) for e in messages.values())
    for one in said:
        assert contents.pop(one.content, 0) == (one.run is not None), f"not exactly once, or though refused: {one}"
        if one.run:
            assert messages[one.run]["seq"] == one.seq, one
            assert messages[one.run]["data"]["content"] == one.content, one
            _judge_run(server, [e for e in stored if e["run"] == one.run and e["type"] != "user_message"], one, account)
    assert not contents, f"nobody said this: {contents}"
    account.counts["events"] += len(stored)


def _bare(events: Iterable[Event]) -> list[Event]:
    """Return events without `prev`, which belongs to the view."""
    return [{**e, "prev": None} for e in events]


def _judge_run(server: ChaosServer, events: list[Event], said: Said, account: Account) -> None:
    kinds = [e["type"] for e in events]
    where = (said, kinds)
    assert [k for k in kinds if k in TERMINAL] == kinds[-1:], where  # exactly one terminal event, the last
    end, attempts = events[-1], [e["attempt"] for e in events]
    assert attempts == sorted(attempts), where
    if len(events) > 1:
        assert kinds[0] == "agent_started", where
        assert kinds.count("agent_started") == 1, where
    else:
        assert kinds == ["agent_cancelled"], where  # ended while it was queued
    retries = [e["data"]["attempt"] for e in events if e["type"] == "agent_retrying"]
    assert retries == sorted(set(retries)), where
    for attempt in sorted(set(attempts))[1:]:
        words = [e["type"] for e in events if e["attempt"] == attempt]
        # A cancelled run that was lost is ended by the next holder, which closes what is open and says no other word.
        assert words[0] == "agent_retrying" or (words[-1] in TERMINAL and CLOSING.issuperset(words[:-1])), where
    _judge_end(events, end, said)
    _judge_steps(server, events, said)
    account.counts["runs"] += 1
    account.counts["runs given up as worker_lost"] += end["data"].get("code") == "worker_lost"
    account.counts[f"runs {end['type'].removeprefix('agent_')}"] += 1
    account.counts["takeovers"] += len(retries)
    account.counts["superseded"] += kinds.count("superseded")
    account.counts["tries cut off"] += sum(e["type"] == "tool_completed" and not e["data"]["final"] for e in events)
    account.counts["side effects"] += len(server.effects(said.run or ""))


def _judge_end(events: list[Event], end: Event, said: Said) -> None:
    text = text_of(events, said.run or "")
    if end["type"] == "agent_completed":
        assert said.agent != "breaks", said
        assert not (said.agent == "steady" and said.is_cancelled), f"an acknowledged cancellation was forgotten: {said}"
        if said.agent != "fickle" and said.agent != "steady":
            assert text == expected(said.agent, said.content), (said, text)
            differs = [e for e in events if e["type"] == "superseded" and e["data"]["reason"] == "differs"]
            assert not differs, (said, differs)
        if said.agent != "long":
            assert end["data"]["output"] == text, (said, text, end)
    elif end["type"] == "agent_failed":
        code = end["data"]["code"]
        if code == "worker_lost":
            assert end["attempt"] > MAX_ATTEMPTS, (said, end)
        else:
            assert (said.agent, code) == ("breaks", "agent_error"), (said, end)
    else:
        assert end["data"]["by"] in ("user", "policy"), (said, end)


def _judge_steps(server: ChaosServer, events: list[Event], said: Said) -> None:
    """Compare what the log says about tools with what they did to the world."""
    begun, ended = Counter[str](), dict[str, list[str]]()
    for effect in server.effects(said.run or ""):
        step = effect["key"].partition(":")[2]
        if effect["phase"] == "begun":
            begun[step] += 1
        else:
            ended.setdefault(step, []).append(effect["token"])
    tries, final = _tries(events, said)
    for step, count in begun.items():
        assert count <= tries[step], f"a tool ran that the log does not know of: {said} {step} {count}"
    for step, data in final.items():
        if data["ok"]:
            assert data["result"]["token"] == ended[step][-1], f"not the result of the last call: {said} {data}"


def _tries(events: list[Event], said: Said) -> tuple[Counter[str], dict[str, dict[str, Any]]]:
    """Return how often each step was tried, and its final completion; the tries must be in order and paired."""
    tries, final = Counter[str](), dict[str, dict[str, Any]]()
    open_tries = dict[str, dict[str, Any]]()
    for event in events:
        data = event["data"]
        if event["type"] == "tool_executing":
            assert data["step"] not in final, f"a step with a recorded result was tried again: {said} {data}"
            tries[data["step"]] += 1
            assert data["try"] == tries[data["step"]], (said, data)
            open_tries[data["call"]] = data
        elif event["type"] == "tool_completed":
            assert data["call"] in open_tries, f"completed twice, or never begun: {said} {data}"
            assert open_tries.pop(data["call"])["try"] == data["try"], (said, data)
            if data["final"]:
                assert data["step"] not in final, (said, data)
                final[data["step"]] = data
    assert not open_tries, (said, open_tries)
    return tries, final


def judge_file(server: ChaosServer, *, is_over: bool) -> None:
    """Assert what must hold in the file whenever a process has died, and in the end."""
    checks = {
        "the file is damaged": "SELECT * FROM pragma_quick_check WHERE quick_check <> 'ok'",
        "segments of a thread overlap or leave a hole": """
            SELECT thread_key, first_seq FROM (
              SELECT thread_key, first_seq,
                lag(last_seq, 1, t.floor) OVER (PARTITION BY thread_key ORDER BY first_seq) AS before
              FROM segment s JOIN thread t ON t.key = s.thread_key WHERE s.first_seq > t.floor)
            WHERE first_seq <> before + 1""",
        "a head is not the last event": """
            SELECT t.id, t.head FROM thread t
            WHERE t.head <> (SELECT coalesce(max(last_seq), 0) FROM segment s WHERE s.thread_key = t.key)""",
        "a run's end and its terminal event do not agree": """
            SELECT r.id, r.status FROM run r LEFT JOIN segment s ON s.run_key = r.key AND s.flags & 2
            WHERE (r.status IN ('completed', 'failed', 'cancelled')) <> (s.key IS NOT NULL)
              OR s.last_seq IS NOT r.terminal_seq""",
        "attempts are out of order": """
            SELECT run_key FROM (
              SELECT run_key, attempt, lag(attempt, 1, 0) OVER (PARTITION BY run_key ORDER BY first_seq) AS before
              FROM segment) WHERE attempt < before""",
        "an ordinal is not what was appended": """
            SELECT r.id FROM run r WHERE r.ended_at IS NULL AND r.ordinal <> (
              SELECT coalesce(sum(last_seq - first_seq + 1), 0) FROM segment s
              WHERE s.run_key = r.key AND s.ordinal IS NOT NULL)""",
        "a key stored two runs": """
            SELECT user_key, idempotency_key FROM run WHERE idempotency_key IS NOT NULL
            GROUP BY 1, 2 HAVING count(*) > 1""",
        "two runs of a thread are active": """
            SELECT thread_key FROM run WHERE status IN ('running', 'waiting') GROUP BY 1 HAVING count(*) > 1""",
    }
    if is_over:
        checks["a run was left unfinished"] = (
            "SELECT id, status, attempt FROM run WHERE status NOT IN ('completed', 'failed', 'cancelled')"
        )
    for (fault, _), rows in zip(checks.items(), server.look(checks.values()), strict=True):
        assert not rows, f"{fault}: {rows[:5]}"


def _difference(shown: list[Event], stored: list[Event]) -> str:
    for n, (left, right) in enumerate(zip(shown, stored, strict=False)):
        if left != right:
            return f"event {n} differs: shown {left}, stored {right}"
    rest = shown[len(stored) :] or stored[len(shown) :]
    return f"shown {len(shown)}, stored {len(stored)}; beyond: {rest[:3]}"
