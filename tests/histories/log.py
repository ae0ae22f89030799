"""Random legal logs of one thread: every event type, and what only a newer or a careless server would write.

A log is made of runs told act by act by `_Teller`; `lifecycle.RunOrder` proves that each of them is legal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec

from runwire.protocol.events import (
    AgentCancelled,
    AgentCompleted,
    AgentFailed,
    AgentResumed,
    AgentRetrying,
    AgentStarted,
    AgentThinking,
    AgentWaiting,
    Custom,
    EventData,
    EventError,
    MessageCompleted,
    MessageStarted,
    StepCompleted,
    StepStarted,
    StoredEvent,
    SubagentCompleted,
    SubagentFailed,
    SubagentStarted,
    Superseded,
    TextDelta,
    ThinkingDelta,
    ToolArgsDelta,
    ToolCompleted,
    ToolExecuting,
    UserMessage,
    decode_data,
    emitted,
)
from runwire.protocol.lifecycle import RunOrder

LETTERS = "abé\u0301😀\n "
_SPEECH = ("open_message", "grow", "grow", "grow", "recite", "think", "think_aloud", "show", "close", "take_back")
_WORK = ("draft_call", "call", "return_", "journal", "wait", "resume", "delegate", "undelegate")
_ACCIDENTS = ("retry", "park", "unknown", "ask_next")


@dataclass
class History:
    """The log of one thread, whole: nothing of it is compacted."""

    events: list[StoredEvent] = field(default_factory=list)

    def say(self, run: str, attempt: int, data: EventData) -> int:
        kind = emitted(data, ts=0)
        seq = len(self.events) + 1
        ts = 1_790_000_000_000 + seq
        self.events.append(StoredEvent(seq=seq, run=run, attempt=attempt, type=kind.type, ts=ts, data=kind.data))
        return seq


class _Teller:
    """Writes one run into a history, one random act after the other."""

    def __init__(
        self, history: History, run: str, chance: random.Random, later: Iterator[_Teller], *, is_plain: bool
    ) -> None:
        self.history, self.run, self.chance, self.is_plain = history, run, chance, is_plain
        self.later = later  # the runs that are asked for after this one
        self.is_asked = False
        self.attempt = 0
        self.has_waited = False  # since the attempt began: another may go on without a word
        self.open: dict[str, str] = {}  # message or thinking -> its text so far
        self.said: list[str] = []  # streams that may be taken back
        self.whole: list[int] = []  # seqs of thoughts and customs that may be taken back
        self.drafts: dict[str, str] = {}  # calls whose arguments are being streamed
        self.calls: list[ToolExecuting] = []
        self.waits: list[str] = []
        self.spans: list[str] = []
        self.ids = (f"{run}_{n}" for n in count())
        self.next: _Teller | None = None

    def say(self, data: EventData) -> int:
        seq = self.history.say(self.run, self.attempt, data)
        if self.chance.random() < 0.05:  # a newer server says more
            stored = self.history.events[-1]
            more = msgspec.json.decode(stored.data) | {"newer": {"n": None}}
            self.history.events[-1] = msgspec.structs.replace(stored, data=msgspec.Raw(msgspec.json.encode(more)))
        return seq

    def ask(self) -> None:
        content: Any = "hi 😀"
        if self.chance.random() < 0.2:
            content = self.chance.choice([[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], self.big()])
        metadata = {"k": 1} if self.chance.random() < 0.1 else None
        self.say(UserMessage(message=f"u_{self.run}", content=content, metadata=metadata))
        self.is_asked = True

    def tell(self) -> _Teller | None:
        """Tell the run to its end; return the one that was asked for meanwhile."""
        if not self.is_asked:
            self.ask()
        if self.chance.random() < 0.1:
            self.say(AgentCancelled(by="user"))
            return None
        self.attempt = 1
        version = "v1" if self.chance.random() < 0.2 else None
        self.say(AgentStarted(agent="a", message=f"u_{self.run}", version=version))
        acts = self.chance.choices((*_SPEECH, *_WORK, *_ACCIDENTS), k=self.chance.randrange(3, 25))
        for act in acts:
            getattr(self, act)()
        self.end()
        return self.next

    def big(self, head: str = "xyz") -> dict[str, Any]:
        return {"$ref": f"blob_{next(self.ids)}", "bytes": 70_000, "head": head}

    def value(self) -> Any:
        return self.chance.choice([1, None, "x", [1, {"a": "😀"}], {"b": None, "a": 1.5}, True, self.big()])

    # what it says

    def open_message(self) -> None:
        message = f"m_{next(self.ids)}"
        self.open[message] = ""
        self.said.append(message)
        self.say(MessageStarted(message=message, span=self.some_span() or msgspec.UNSET))

    def some_span(self) -> str | None:
        return self.chance.choice(self.spans) if self.spans and self.chance.random() < 0.5 else None

    def think_aloud(self) -> None:
        thinking = f"t_{next(self.ids)}"
        self.open[thinking] = ""
        self.said.append(thinking)
        self.grow(thinking)

    def recite(self) -> None:
        """Say many pieces in one stream."""
        self.chance.choice([self.open_message, self.think_aloud, self.draft_call])()
        stream = self.said[-1] if self.said and self.said[-1] in self.open else None
        for _ in range(self.chance.randrange(2, 6)):
            if stream and self.chance.random() < 0.8:
                self.grow(stream)
            else:
                self.draft_call()

    def grow(self, stream: str | None = None) -> None:
        if not self.open:
            return
        stream = stream or self.chance.choice(list(self.open))
        offset, text = self.piece(self.open[stream])
        self.open[stream] = self.open[stream][:offset] + text
        if stream.startswith("m_"):
            self.say(TextDelta(message=stream, offset=offset, text=text))
        else:
            self.say(ThinkingDelta(thinking=stream, offset=offset, text=text))

    def piece(self, so_far: str) -> tuple[int, str]:
        text = "".join(self.chance.choices(LETTERS, k=self.chance.randrange(1, 4)))
        offset = len(so_far)
        if offset and self.chance.random() < 0.2:  # as a merged delta does: it says again what was said
            return offset - 1, so_far[-1] + text
        return offset, text

    def close(self, *, complete: bool = True) -> None:
        if not self.open:
            return
        stream = self.chance.choice(list(self.open))
        text: Any = self.open.pop(stream)
        if self.chance.random() < 0.1:
            text = self.big(text)
        if stream.startswith("m_"):
            self.say(MessageCompleted(message=stream, content=text, complete=complete))
        else:
            self.say(AgentThinking(thinking=stream, text=text if self.is_plain or self.chance.random() < 0.9 else None))

    def think(self) -> None:
        self.whole.append(self.say(AgentThinking(text=self.chance.choice(["hm", "hm", None, self.big()]))))

    def show(self) -> None:
        self.whole.append(self.say(Custom(name="n", value=self.value())))

    def unknown(self) -> None:
        seq = self.say(Custom(name="n", value=1))
        stored = self.history.events[-1]
        self.history.events[-1] = msgspec.structs.replace(stored, type="future", data=msgspec.Raw(b'{"new":true}'))
        self.whole.append(seq)

    def take_back(self) -> None:
        streams = [stream for stream in self.said if self.chance.random() < 0.5]
        whole = [seq for seq in self.whole if self.chance.random() < 0.5]
        if not streams and not whole:
            return
        self.said = [stream for stream in self.said if stream not in streams]
        self.whole = [seq for seq in self.whole if seq not in whole]
        for stream in streams:
            self.open.pop(stream, None)
        messages = [stream for stream in streams if stream.startswith("m_")]
        thinking = [stream for stream in streams if stream.startswith("t_")]
        self.say(Superseded(messages=messages, thinking=thinking, events=whole, reason="differs"))

    # what it does

    def draft_call(self) -> None:
        call = self.chance.choice([*self.drafts, f"c_{next(self.ids)}"])
        offset, text = self.piece(self.drafts.get(call, ""))
        self.drafts[call] = self.drafts.get(call, "")[:offset] + text
        self.say(ToolArgsDelta(call=call, offset=offset, text=text))

    def call(self) -> None:
        call = self.drafts.popitem()[0] if self.drafts else f"c_{next(self.ids)}"
        begun = ToolExecuting(
            call=call, step=f"s_{call}", try_=1, name="n", args=self.chance.choice([{"a": 1}, self.big()]),
            span=self.some_span(),
        )  # fmt: skip
        self.calls.append(begun)
        self.say(begun)

    def return_(self, *, ok: bool | None = None) -> None:
        if not self.calls:
            return
        call = self.calls.pop(self.chance.randrange(len(self.calls)))
        is_ok = self.chance.random() < 0.6 if ok is None else ok
        is_final = is_ok or ok is not None or self.chance.random() < 0.5
        outcome: dict[str, Any] = {"result": self.value()}
        if not is_ok:
            outcome = {"error": EventError(code="agent_error", message="m")}
        same: dict[str, Any] = {"step": call.step, "try_": call.try_, "name": "n"}
        span = call.span or msgspec.UNSET
        self.say(ToolCompleted(call=call.call, ok=is_ok, final=is_final, duration_ms=1, span=span, **same, **outcome))
        if not is_final:
            around = call.span if call.span in self.spans else None
            again = msgspec.structs.replace(call, call=f"c_{next(self.ids)}", try_=call.try_ + 1, span=around)
            self.calls.append(again)
            self.say(again)

    def journal(self) -> None:
        step = f"s_{next(self.ids)}"
        self.say(StepStarted(step=step, try_=1, name="now"))
        self.say(StepCompleted(step=step, try_=1, ok=True, final=True, result=1))

    def wait(self) -> None:
        self.waits.append(f"w_{next(self.ids)}")
        kind = self.chance.choice(["approval", "input", "timer"])
        about: dict[str, Any] = {"due_at": 1_790_000_000_000} if kind == "timer" else {"prompt": self.value()}
        self.say(AgentWaiting(wait=self.waits[-1], kind=kind, **about))  # type: ignore[arg-type]  # of choice
        self.has_waited = True

    def resume(self, *, by: str | None = None) -> None:
        if self.waits:
            wait = self.waits.pop(self.chance.randrange(len(self.waits)))
            by = by or self.chance.choice(["usr_1", "timer"])
            self.say(AgentResumed(wait=wait, value=self.value() if by == "usr_1" else None, by=by))

    def delegate(self) -> None:
        parent = self.some_span()
        self.spans.append(f"sp_{next(self.ids)}")
        self.say(SubagentStarted(span=self.spans[-1], agent="b", parent=parent))

    def undelegate(self, *, ok: bool | None = None) -> None:
        if not self.spans:
            return
        span = self.spans.pop()
        if self.chance.random() < 0.5 if ok is None else ok:
            self.say(SubagentCompleted(span=span, output=self.value()))
        else:
            self.say(SubagentFailed(span=span, code="agent_error", message="m"))

    # what happens to it

    def retry(self) -> None:
        if self.chance.random() < 0.5:
            self.attempt += 1
            self.has_waited = False
            self.say(AgentRetrying(attempt=self.attempt, reason="worker_lost"))

    def park(self) -> None:
        """Another worker goes on after a wait, and says nothing of it."""
        if self.has_waited and not self.waits:
            self.attempt += 1
            self.has_waited = False
            self.think()

    def ask_next(self) -> None:
        """The person sends a second message while this run goes on."""
        if not self.is_plain and self.next is None and (following := next(self.later, None)):
            following.ask()
            self.next = following

    def end(self) -> None:
        is_cut = self.chance.random() < 0.4
        ends: list[tuple[Any, Callable[[], None]]] = [
            (self.calls, lambda: self.return_(ok=not is_cut)),
            (self.open, lambda: self.close(complete=not is_cut)),
            (self.waits, lambda: self.resume(by="ended" if is_cut else None)),
            (self.spans, lambda: self.undelegate(ok=not is_cut)),
        ]
        for things, end in ends:
            while things:
                end()
        if not is_cut:
            usage: Any = {"tokens": 3} if self.chance.random() < 0.3 else msgspec.UNSET
            self.say(AgentCompleted(output=self.value(), duration_ms=1, usage=usage))
        elif self.chance.random() < 0.3:
            self.say(AgentCancelled(by="operator", reason="why" if self.chance.random() < 0.5 else None))
        else:
            retry_after_s = 1.5 if self.chance.random() < 0.3 else None
            self.say(
                AgentFailed(code="agent_error", message="m", error_id="e", retryable=False, retry_after_s=retry_after_s)
            )


def random_history(
    chance: random.Random, *, beginning: History | None = None, runs: str = "r", is_plain: bool = False
) -> History:
    """Make a log of one to three runs.

    Args:
        chance: decides everything.
        beginning: events that it shares with another log.
        runs: what the ids of its runs begin with.
        is_plain: one run after the other, and what completes a stream has its whole text.
    """
    history = beginning or History()
    tellers: list[_Teller] = []
    later = iter(tellers)  # before it is filled: each teller sees those after it
    names = [f"{runs}{number}" for number in range(chance.randrange(1, 4))]
    tellers += [_Teller(history, name, chance, later, is_plain=is_plain) for name in names]
    waiting: _Teller | None = None
    while waiting or (waiting := next(later, None)):
        waiting = waiting.tell()
    orders: dict[str, RunOrder] = {}
    for event in history.events:
        orders.setdefault(event.run, RunOrder()).accept(event.type, decode_data(event), event.attempt)
    assert all(order.is_ended for order in orders.values())
    return history
