"""Which order of things is legal: the statuses of a run, and the events of a run (DESIGN §6).

Two tables and the little code that no table can say. The runtime feeds it what it is about to append,
the checker what a deployment sent; both see the same `ProtocolError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, ClassVar, Final, NamedTuple

from runwire.errors import ProtocolError
from runwire.protocol.events import TERMINAL_TYPES, EventType

__all__ = ["FINAL_STATUSES", "NEXT_STATUSES", "STATUS_OF_TERMINAL", "RunOrder", "check_transition"]

NEXT_STATUSES: Final[Mapping[str, frozenset[str]]] = {
    "queued": frozenset({"running", "cancelled"}),
    "running": frozenset({"waiting", "completed", "failed", "cancelled"}),
    "waiting": frozenset({"running", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
FINAL_STATUSES: Final = frozenset(status for status, later in NEXT_STATUSES.items() if not later)
STATUS_OF_TERMINAL: Final[Mapping[str, str]] = {
    EventType.AGENT_COMPLETED: "completed",
    EventType.AGENT_FAILED: "failed",
    EventType.AGENT_CANCELLED: "cancelled",
}


def check_transition(status: str, later: str) -> None:
    """Refuse a change of a run's status that the table does not have. Raises ProtocolError."""
    if later not in NEXT_STATUSES[status]:
        raise ProtocolError(f"A run that is {status} cannot become {later}.", field="status")


class _Act(Enum):
    """What an event does to the thing it names."""

    OPEN = auto()  # begins it; its id was never used in this run
    WITHIN = auto()  # continues it; it must be open
    BEGIN_OR_WITHIN = auto()  # its first one begins it: a stream that has no event for its start
    BEFORE = auto()  # comes before it begins
    CLOSE = auto()  # ends it; it must be open
    END_ONCE = auto()  # ends it, seen to begin or not: its deltas may be compacted or not in this view


class _Rule(NamedTuple):
    thing: str
    act: _Act
    field: str  # of the data, with the thing's id; of an internal step its number stands in `try_`

    def key(self, data: Any) -> str | None:
        """Return the id of the thing that an event is about."""
        key: str | None = getattr(data, self.field)
        return f"{key}/{data.try_}" if self.thing == "step" else key


_RULES: Final[Mapping[str, _Rule]] = {
    EventType.MESSAGE_STARTED: _Rule("message", _Act.OPEN, "message"),
    EventType.TEXT_DELTA: _Rule("message", _Act.WITHIN, "message"),
    EventType.MESSAGE_COMPLETED: _Rule("message", _Act.CLOSE, "message"),
    EventType.THINKING_DELTA: _Rule("thinking", _Act.BEGIN_OR_WITHIN, "thinking"),
    EventType.AGENT_THINKING: _Rule("thinking", _Act.END_ONCE, "thinking"),
    EventType.TOOL_ARGS_DELTA: _Rule("tool", _Act.BEFORE, "call"),
    EventType.TOOL_EXECUTING: _Rule("tool", _Act.OPEN, "call"),
    EventType.TOOL_COMPLETED: _Rule("tool", _Act.CLOSE, "call"),
    EventType.STEP_STARTED: _Rule("step", _Act.OPEN, "step"),
    EventType.STEP_COMPLETED: _Rule("step", _Act.CLOSE, "step"),
    EventType.AGENT_WAITING: _Rule("wait", _Act.OPEN, "wait"),
    EventType.AGENT_RESUMED: _Rule("wait", _Act.CLOSE, "wait"),
    EventType.SUBAGENT_STARTED: _Rule("span", _Act.OPEN, "span"),
    EventType.SUBAGENT_COMPLETED: _Rule("span", _Act.CLOSE, "span"),
    EventType.SUBAGENT_FAILED: _Rule("span", _Act.CLOSE, "span"),
}

# They name nothing that could be open and change nothing here: they may stand wherever a run goes on. Most are such.
_FREE: Final = frozenset({EventType.CUSTOM})
_FREE_IF_WHOLE: Final = frozenset({EventType.AGENT_THINKING})

# What may come when a run is being ended: it closes what is open, saying that it did not finish.
_CLOSING: Final[Mapping[str, Callable[[Any], bool]]] = {
    EventType.MESSAGE_COMPLETED: lambda data: not data.complete,
    EventType.AGENT_THINKING: lambda data: data.thinking is not None,
    EventType.TOOL_COMPLETED: lambda data: not data.ok,
    EventType.STEP_COMPLETED: lambda data: not data.ok,
    EventType.AGENT_RESUMED: lambda data: True,  # a gateway may write an answer between any two events
    EventType.SUBAGENT_FAILED: lambda data: True,
    EventType.AGENT_FAILED: lambda data: True,
    EventType.AGENT_CANCELLED: lambda data: True,
}


class RunOrder:
    """The legal continuations of one run, of the whole log or of any view of it from the run's start.

    Feed it every event in order; each call either accepts and remembers, or raises and forgets the event.
    """

    def __init__(self) -> None:
        self.attempt = 0  # of the last event of a worker
        self.is_started = False
        self.is_ended = False
        self._is_empty = True
        self._is_ending = False  # only what closes may follow
        self._has_waited = False  # in this attempt: the run may have been parked, and taken up without a word
        self._answered = 0  # attempt that held the run when the last answer was written
        self._open: dict[str, dict[str, Any]] = {rule.thing: {} for rule in _RULES.values()}
        self._used: dict[str, set[str]] = {rule.thing: set() for rule in _RULES.values()}
        self._tries: dict[str, float] = {}  # the last try of each step; infinite: final

    @property
    def open_things(self) -> list[str]:
        """Name what is open, such as `message msg_1`: a terminal event must find nothing here."""
        return [f"{thing} {key}" for thing, things in self._open.items() for key in things]

    def accept(self, event_type: str, data: Any, attempt: int) -> None:
        """Take the run's next event.

        Args:
            event_type: as on the wire; an unknown one is accepted wherever an event may stand.
            data: its decoded struct (`events.decode_data`).
            attempt: of the event.

        Raises:
            ProtocolError: it may not stand here; `field` is the event's type.
        """
        is_free = event_type in _FREE or (event_type in _FREE_IF_WHOLE and data.thinking is None)
        if is_free and self.is_started and attempt == self.attempt and not self._is_ending and not self.is_ended:
            return
        try:
            self._check_place(event_type, data, attempt)
            self._check_attempt(event_type, data, attempt)
            self._check_thing(event_type, data)
        except _Illegal as error:
            raise ProtocolError(f"{event_type} {error}", field=event_type) from None
        self._remember(event_type, data, attempt)

    def _check_place(self, event_type: str, data: Any, attempt: int) -> None:
        if self.is_ended:
            raise _Illegal("comes after the terminal event")
        if event_type == EventType.USER_MESSAGE:
            if not self._is_empty:
                raise _Illegal("is not the run's first event")
            if attempt != 0:
                raise _Illegal("belongs to no attempt; its attempt is 0")
        elif event_type == EventType.AGENT_STARTED:
            if self.is_started:
                raise _Illegal("comes a second time")
        elif not self.is_started and event_type not in (EventType.AGENT_FAILED, EventType.AGENT_CANCELLED):
            raise _Illegal("comes before agent_started")
        if event_type in TERMINAL_TYPES and self.open_things:
            raise _Illegal(f"leaves open: {', '.join(self.open_things)}")
        if self._is_ending and not _is_closing(event_type, data):
            raise _Illegal("comes where the run is being ended")

    def _check_attempt(self, event_type: str, data: Any, attempt: int) -> None:
        if attempt < self.attempt:
            raise _Illegal(f"is of attempt {attempt}, after one of attempt {self.attempt}")
        is_first = attempt > self.attempt
        if event_type == EventType.AGENT_RETRYING:
            if not is_first or data.attempt != attempt:
                raise _Illegal("is not the first event of the attempt that it names")
        elif is_first and self.is_started and not self._may_go_on_silently(event_type, data):
            raise _Illegal(f"comes before the agent_retrying of attempt {attempt}")
        elif attempt == 0 and event_type not in (EventType.USER_MESSAGE, EventType.AGENT_CANCELLED):
            raise _Illegal("needs an attempt from 1")

    def _may_go_on_silently(self, event_type: str, data: Any) -> bool:
        # After a wait nothing extra is said. Who ends a run without replay closes and ends, no more.
        # An answer is written beside the worker, perhaps before the first word of a new attempt.
        return self._has_waited or _is_closing(event_type, data)

    def _check_thing(self, event_type: str, data: Any) -> None:
        rule = _RULES.get(event_type)
        key = rule.key(data) if rule else None
        if rule and key is not None:
            is_open, is_used = key in self._open[rule.thing], key in self._used[rule.thing]
            if rule.act in (_Act.OPEN, _Act.BEFORE) and is_used:
                raise _Illegal(f"names {rule.thing} {key}, which has begun already")
            if rule.act in (_Act.WITHIN, _Act.CLOSE) and not is_open:
                raise _Illegal(f"names {rule.thing} {key}, which is not open")
            if is_used and not is_open:
                raise _Illegal(f"names {rule.thing} {key}, which has ended")
        more = self._MORE_CHECKS.get(event_type)
        if more:
            more(self, data)

    def _check_text_delta(self, data: Any) -> None:
        self._check_offset(data.offset, self._open["message"][data.message])

    def _check_thinking_delta(self, data: Any) -> None:
        self._check_offset(data.offset, self._open["thinking"].get(data.thinking, 0))

    def _check_offset(self, offset: int, length: int) -> None:
        if not 0 <= offset <= length:
            raise _Illegal(f"has offset {offset} in a text of {length} code points")

    def _check_tool_executing(self, data: Any) -> None:
        self._check_try(data)
        self._check_span(data.span)

    def _check_try(self, data: Any) -> None:
        if data.try_ <= self._tries.get(data.step, -1):
            raise _Illegal(f"repeats try {data.try_} of step {data.step}, or a step that is final")

    def _check_message_started(self, data: Any) -> None:
        self._check_span(data.span)

    def _check_subagent_started(self, data: Any) -> None:
        self._check_span(data.parent)

    def _check_span(self, span: Any) -> None:
        if span and span not in self._open["span"]:
            raise _Illegal(f"belongs to span {span}, which is not open")

    def _check_tool_completed(self, data: Any) -> None:
        if (data.step, data.try_, data.name) != self._open["tool"][data.call]:
            raise _Illegal(f"does not name the step, try and tool of call {data.call}")
        self._check_outcome(data)

    def _check_outcome(self, data: Any) -> None:
        if data.ok and not data.final:
            raise _Illegal("is ok and yet not final")

    def _check_superseded(self, data: Any) -> None:
        for message in data.messages:
            if message not in self._used["message"]:
                raise _Illegal(f"takes back message {message}, which is not there")

    def _remember(self, event_type: str, data: Any, attempt: int) -> None:
        self._is_empty = False
        if attempt > self.attempt and event_type != EventType.AGENT_RESUMED:
            self._is_ending = self.is_started and not self._has_waited and event_type != EventType.AGENT_RETRYING
            self.attempt = attempt
            # Also what was answered before its first word may be what it waited for, without having heard.
            self._has_waited = bool(self._open["wait"]) or self._answered == attempt
        if event_type in TERMINAL_TYPES:
            self.is_ended = True
        elif event_type == EventType.AGENT_STARTED:
            self.is_started = True
        elif event_type == EventType.AGENT_WAITING:
            self._has_waited = True
        elif event_type == EventType.AGENT_RESUMED:
            self._answered = attempt
        elif event_type in (EventType.TOOL_COMPLETED, EventType.STEP_COMPLETED):
            self._tries[data.step] = float("inf") if data.final else data.try_
        elif event_type == EventType.MESSAGE_COMPLETED:
            self._is_ending = self._is_ending or not data.complete
        elif event_type == EventType.SUPERSEDED:
            self._take_back(data)
        self._remember_thing(event_type, data)

    def _remember_thing(self, event_type: str, data: Any) -> None:
        rule = _RULES.get(event_type)
        key = rule.key(data) if rule else None
        if rule is None or key is None or rule.act is _Act.BEFORE:
            return
        self._used[rule.thing].add(key)
        if rule.act in (_Act.CLOSE, _Act.END_ONCE):
            self._open[rule.thing].pop(key, None)
        else:
            self._open[rule.thing][key] = _kept(event_type, data)

    def _take_back(self, data: Any) -> None:
        for thing, keys in (("message", data.messages), ("thinking", data.thinking)):
            self._used[thing].update(keys)
            for key in keys:
                self._open[thing].pop(key, None)

    _MORE_CHECKS: ClassVar[Mapping[str, Callable[[RunOrder, Any], None]]] = {
        EventType.MESSAGE_STARTED: _check_message_started,
        EventType.TEXT_DELTA: _check_text_delta,
        EventType.THINKING_DELTA: _check_thinking_delta,
        EventType.TOOL_EXECUTING: _check_tool_executing,
        EventType.TOOL_COMPLETED: _check_tool_completed,
        EventType.STEP_STARTED: _check_try,
        EventType.STEP_COMPLETED: _check_outcome,
        EventType.SUBAGENT_STARTED: _check_subagent_started,
        EventType.SUPERSEDED: _check_superseded,
    }


class _Illegal(Exception):
    """Why an event may not stand where it stands."""


def _kept(event_type: str, data: Any) -> Any:
    """Return what must be known of an open thing: a text's length, or which try of which step a call is."""
    if event_type in (EventType.TEXT_DELTA, EventType.THINKING_DELTA):
        return data.offset + len(data.text)
    if event_type == EventType.TOOL_EXECUTING:
        return (data.step, data.try_, data.name)
    return 0


def _is_closing(event_type: str, data: Any) -> bool:
    closes = _CLOSING.get(event_type)
    return closes is not None and closes(data)
