"""What stands on a screen, as a flat list that any client can be compared with; and a second, naive reducer.

A view is a list of entries `(kind, key, value)`; `vectors/README.md` describes each kind. `flat` reads it off a
`ThreadView`; `Screen` makes it from events and shares no code with the reducer under test.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import msgspec

Entry = tuple[str, str, dict[str, Any]]

_MESSAGE = ("role", "content", "run", "seq", "complete", "span")
_RUN = ("agent", "status", "attempt", "error", "output", "usage", "duration_ms", "cancelled")
_OF_A_RUN = {
    "steps": ("name", "args", "seq", "ok", "result", "error", "final", "duration_ms", "span"),
    "waits": ("kind", "prompt", "call", "due_at", "value", "by"),
    "thinking": ("text", "seq", "complete"),
    "spans": ("agent", "parent", "ok", "output", "error"),
    "opaque": ("type", "name", "value"),
}
_READERS = {names: attrgetter(*names) for names in (_MESSAGE, _RUN, *_OF_A_RUN.values())}
_STATUS = {
    "agent_completed": "completed",
    "agent_failed": "failed",
    "agent_cancelled": "cancelled",
}


def flat(view: Any) -> list[Entry]:
    """Return what a `ThreadView` (of `view.py`, or of a mutant of it) shows."""
    entries: list[Entry] = [("messages", key, _fields(each, _MESSAGE)) for key, each in view.messages.items()]
    for run in view.runs.values():
        entries.append(("runs", run.id, _fields(run, _RUN)))
        for kind, names in _OF_A_RUN.items():
            for key, each in getattr(run, kind).items():
                entries.append((kind, str(key), _fields(each, names) | {"run": run.id}))
        entries += [("args", call, {"text": str(text), "run": run.id}) for call, text in run.args.items()]
    return entries


def _fields(thing: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return dict(zip(names, _READERS[names](thing), strict=True))


class Screen:
    """What stands after these events were shown."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.parts: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}  # by run, kind, key
        self.open: set[str] = set()  # messages and thinking that deltas go on with
        self.only_deltas: set[str] = set()  # runs of which nothing else was told
        self.cut: set[str] = set()  # open streams with a hole: they stay as they are until they are complete
        self._gone: set[str] = set()
        self._entries: list[Entry] | None = None

    @property
    def entries(self) -> list[Entry]:
        if self._entries is None:
            entries: list[Entry] = [("messages", key, value) for key, value in self.messages.items()]
            for run, value in self.runs.items():
                entries.append(("runs", run, value))
                for kind, parts in self.parts[run].items():
                    entries += [(kind, key, part) for key, part in parts.items()]
            self._entries = entries
        return self._entries

    def show(self, event: Any) -> None:
        """Take the next event: a stored one, or a frame."""
        self._entries = None
        if event.run not in self.runs:
            self.runs[event.run] = dict.fromkeys(_RUN) | {"status": "running"}
            self.parts[event.run] = {kind: {} for kind in (*_OF_A_RUN, "args")}
            self.only_deltas.add(event.run)
        if not event.type.endswith("_delta"):
            self.only_deltas.discard(event.run)
        self.runs[event.run]["attempt"] = event.attempt
        data = msgspec.json.decode(event.data)
        run = self.runs[event.run]
        if event.type in _STATUS:
            run["status"] = _STATUS[event.type]
            self.parts[event.run]["args"].clear()
        getattr(self, event.type, self._unknown)(event, data, run)

    def _put(self, event: Any, kind: str, key: Any, /, **values: Any) -> dict[str, Any]:
        """Begin a part of a run, or change what is there."""
        parts = self.parts[event.run][kind]
        if str(key) not in parts:
            parts[str(key)] = dict.fromkeys(_OF_A_RUN.get(kind, ())) | {"run": event.run}
        parts[str(key)].update(values)
        return parts[str(key)]

    def _unknown(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        self._put(event, "opaque", event.seq, type=event.type, value=data)

    def custom(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        self._put(event, "opaque", event.seq, type="custom", name=data["name"], value=data["value"])

    def step_started(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        """Nobody sees it."""

    step_completed = step_started

    def user_message(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        run["status"] = "queued"
        self._message(event, data["message"], role="user", content=data["content"], complete=True)

    def agent_started(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        run.update(status="running", agent=data["agent"])

    def agent_retrying(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        is_waiting = any(wait["by"] is None for wait in self.parts[event.run]["waits"].values())
        run["status"] = "waiting" if is_waiting else "running"

    def _message(self, event: Any, key: str, /, **values: Any) -> None:
        if key not in self.messages:
            fresh = {"role": "assistant", "content": "", "complete": False, "run": event.run, "seq": event.seq}
            self.messages[key] = dict.fromkeys(_MESSAGE) | fresh
        self.messages[key].update(values)

    def message_started(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        self.open.add(data["message"])
        self._message(event, data["message"], role=data["role"], span=data.get("span"))

    def text_delta(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        key = data["message"]
        if key in self.open:
            self._put_text(key, self.messages[key], "content", data)

    def message_completed(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        self.open.discard(data["message"])
        if data["message"] not in self._gone:
            self._message(event, data["message"], content=data["content"], complete=data["complete"])

    def thinking_delta(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        key, shown = data["thinking"], self.parts[event.run]["thinking"]
        if key not in shown and data["offset"] == 0:
            self.open.add(key)
            self._put(event, "thinking", key, seq=event.seq, text="", complete=False)
        if key in self.open:
            self._put_text(key, shown[key], "text", data)

    def _put_text(self, key: str, shown: dict[str, Any], field: str, data: Any) -> None:
        if data["offset"] > len(shown[field]):
            self.cut.add(key)
        if key not in self.cut:
            shown[field] = shown[field][: data["offset"]] + data["text"]

    def agent_thinking(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        key = data.get("thinking", event.seq)
        if key in self._gone:
            return
        self.open.discard(key)
        shown = self._put(event, "thinking", key, complete=True)
        if shown["seq"] is None:
            shown["seq"] = event.seq
        # One that completes a stream and does not say the text again leaves what was streamed.
        if data.get("text") is not None or shown["text"] is None:
            shown["text"] = data.get("text")

    def tool_args_delta(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        call, args = data["call"], self.parts[event.run]["args"]
        if call in self.parts[event.run]["steps"] or (call not in args and data["offset"]):
            return
        shown = self._put(event, "args", call)
        shown.setdefault("text", "")
        self._put_text(call, shown, "text", data)

    def tool_executing(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        self.parts[event.run]["args"].pop(data["call"], None)
        about = {name: data.get(name) for name in ("name", "args", "span")}
        self._put(event, "steps", data["call"], seq=event.seq, **about)

    def tool_completed(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        about = {name: data.get(name) for name in ("name", "ok", "final", "duration_ms", "result", "error")}
        shown = self._put(event, "steps", data["call"], **about)
        if shown["seq"] is None:
            shown["seq"] = event.seq

    def agent_waiting(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        run["status"] = "waiting"
        self._put(event, "waits", data["wait"], **{name: data.get(name) for name in _OF_A_RUN["waits"]})

    def agent_resumed(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        self._put(event, "waits", data["wait"], value=data["value"], by=data["by"])
        self.agent_retrying(event, data, run)

    def subagent_started(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        self._put(event, "spans", data["span"], agent=data["agent"], parent=data.get("parent"))

    def subagent_completed(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        self._put(event, "spans", data["span"], ok=True, output=data.get("output"))

    def subagent_failed(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        self._put(event, "spans", data["span"], ok=False, error=_known(data, "code", "message"))

    def agent_completed(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        run.update(output=data["output"], duration_ms=data["duration_ms"], usage=data.get("usage"))

    def agent_failed(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        run["error"] = _known(data, "code", "message", "error_id", "retryable", "retry_after_s")

    def agent_cancelled(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        run["cancelled"] = _known(data, "by", "reason")

    def superseded(self, event: Any, data: Any, run: dict[str, Any]) -> None:
        gone = {*data["messages"], *data["thinking"]}
        self._gone |= gone
        self.open -= gone
        for key in data["messages"]:
            self.messages.pop(key, None)
        for key in (*data["thinking"], *data["events"]):
            self.parts[event.run]["thinking"].pop(str(key), None)
            self.parts[event.run]["opaque"].pop(str(key), None)

    def keep_what_a_snapshot_has(self) -> None:
        """Forget all that `GET /v1/threads/{id}` does not tell."""
        self._entries = None
        self._gone.clear()
        self.open &= {key for key in self.messages if not self.messages[key]["complete"]}
        for key, run in self.runs.items():
            run.update(dict.fromkeys(("output", "usage", "duration_ms", "cancelled")))
            for kind in ("thinking", "spans", "opaque", "args"):
                self.parts[key][kind].clear()
            for step in self.parts[key]["steps"].values():
                step.update(seq=0, final=None, duration_ms=None, span=None)
        self.only_deltas.clear()
        self.cut.clear()


def _known(data: Any, *names: str) -> dict[str, Any]:
    return {name: data[name] for name in names if name in data}


def disagreement(ideal: Screen, shown: list[Entry], *, came_in_the_middle: bool) -> str | None:
    """Say where a view is not what the whole log says up to its position.

    PROTOCOL lets compaction take the deltas of what is complete. A reader that is in the middle of them lags
    behind in an open text, or has not seen it begin, until its completing event comes; in nothing else.
    """
    left = {(kind, key): value for kind, key, value in shown}
    for kind, key, value in ideal.entries:
        have = left.pop((kind, key), None)
        if have == value:
            continue
        is_open = key in ideal.open or kind == "args"
        if have is None:
            may_lack = (
                (kind == "thinking" and is_open) or kind == "args" or (kind == "runs" and key in ideal.only_deltas)
            )
            if not may_lack:
                return f"{kind} {key} lacks: {value}"
            continue
        lags = {name for name, what in value.items() if have[name] != what}
        text = "content" if kind == "messages" else "text"
        may_lag = {text, "seq"} if is_open else {"seq"} if kind == "thinking" else set()
        if kind not in ("messages", "thinking", "args") or lags - may_lag:
            return f"{kind} {key} is {have}, in the log {value}"
        if text in lags and not str(value[text]).startswith(have[text]):
            return f"{kind} {key} shows {have[text]!r}, in the log {value[text]!r}"
    # A merged delta begins where its stretch did: who came in the middle of that is told more than the log said since.
    more = {name for name in left if not (came_in_the_middle and name[0] in ("thinking", "args"))}
    return f"shown and not in the log: {more}" if more else None
