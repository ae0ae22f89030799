"""How a client sees a thread: the apply rule of PROTOCOL §1, and the reducer from events to what is shown.

`Cursor` decides which frames count, `ThreadView` what they mean. The server makes its snapshots with the same
`ThreadView`, the Python client and the checker use both; `clients/js` follows them line by line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

import msgspec

from runwire.protocol import frames
from runwire.protocol.events import EVENT_DATA, EventData, EventType, HasData, View, decode_data
from runwire.protocol.lifecycle import STATUS_OF_TERMINAL
from runwire.protocol.shown import Message, Opaque, Run, Span, Step, Text, Thought, Wait

__all__ = ["Action", "Apply", "Ask", "Cursor", "DropView", "Ended", "NotSubscribed", "ThreadView"]


class _AnEvent(HasData, Protocol):
    """A stored event or an event frame."""

    @property
    def seq(self) -> int: ...

    @property
    def run(self) -> str: ...

    @property
    def attempt(self) -> int: ...


# ── the apply rule ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Apply:
    """This event is the next one; a `ThreadView` given to the cursor has it already."""

    event: frames.Event


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this frame on the current socket."""

    frame: frames.Subscribe


@dataclass(frozen=True, slots=True)
class DropView:
    """Forget what is shown; what is older than the events that follow is at `GET …/messages`."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotSubscribed:
    """The server refused the subscription; an older one of this socket goes on, if it is of the same view."""

    error: frames.ErrorBody


@dataclass(frozen=True, slots=True)
class Ended:
    """The subscription is over."""

    reason: str  # "asked" | "deleted"


Action = Apply | Ask | DropView | NotSubscribed | Ended


class Cursor:
    """The client's half of one thread's subscription: what was applied, and what to do with each frame.

    Every input returns what to do, in order; nothing at all means: drop the frame. At most one `subscribe`
    of the thread is under way, and until its answer everything else of the thread is dropped.

    Args:
        thread: the only thread it listens to.
        new_id: makes the `id` of the next command of this socket.
        view: belongs to the position; see `restart`.
        shown: applies each event there, and drops it at a reset.
    """

    def __init__(
        self, thread: str, *, new_id: Callable[[], str], view: View = "all", shown: ThreadView | None = None
    ) -> None:
        self.thread = thread
        self.view: View = view
        self.last: int | None = None  # seq of the last event applied, or where events begin; None: no position
        self.log: str | None = None  # identity of the history that `last` belongs to; None: not known yet
        self.shown = shown
        self._following: tuple[str, View] | None = None  # log and view of this socket's subscription; None: it has none
        self._new_id = new_id
        self._asked: str | None = None  # id of the subscribe under way
        self._given_up: set[str] = set()  # ids of those before it without an answer: at most the commands in flight
        self._unfit_seq: int | None = None  # a delta that did not fit and was asked for again

    @property
    def is_asking(self) -> bool:
        """Return whether a subscribe waits for its answer."""
        return self._asked is not None

    @property
    def is_subscribed(self) -> bool:
        """Return whether events of this socket count. If not and nothing is asked, `subscribe` again."""
        return self._is_of_this_view and self._following is not None and self._following[0] == self.log

    def subscribe(self, after: int = 0) -> tuple[Action, ...]:
        """Ask for what comes after the position, or after `after` where none is held (-1: from now)."""
        if self.is_asking:
            return ()
        if self.last is None and after >= 0:
            # Held from now on: a `send` whose reply comes first must not move it past what was asked for.
            self.last = after
        self._asked = self._new_id()
        position = -1 if self.last is None else self.last
        return (
            Ask(frames.Subscribe(id=self._asked, thread=self.thread, after=position, log=self.log, view=self.view)),
        )

    def restart(self, *, after: int = 0, log: str | None = None, view: View | None = None) -> tuple[Action, ...]:
        """Take another position (such as a snapshot's) or view, then subscribe from there.

        The caller fills `shown` anew: with the snapshot, or with nothing for `after` 0.
        """
        self.last, self.log = (after if after >= 0 else None), log
        self.view = view or self.view
        if self._asked:
            self._given_up.add(self._asked)  # its answer moves no position any more
        self._asked = None
        return self.subscribe(after)

    def disconnect(self) -> None:
        """The socket is gone; the position stays. Next, on another socket: `subscribe`."""
        self._following = self._asked = None
        self._given_up.clear()

    def sent(self, reply: frames.SendData) -> tuple[Action, ...]:
        """Take the reply to a `send` to this thread, which subscribes the socket (PROTOCOL §1)."""
        # A subscription that is there goes on, and its view may be one that was given up.
        self._following = (reply.log, self._following[1] if self._following else "all")
        if self.last is None:
            self.last = reply.after
        self.log = self.log or reply.log
        return () if self.is_subscribed else self.subscribe()

    def receive(self, frame: frames.ServerFrame | frames.UnknownFrame) -> tuple[Action, ...]:
        """Take any frame of this socket; those of other threads and commands return nothing."""
        match frame:
            case frames.Reply():
                return self._refused(frame)
            case frames.Event() | frames.Position() | frames.Reset() if frame.thread == self.thread:
                return () if self.is_asking or not self._is_of_this_view else self._follow(frame)
            case frames.Subscribed() if frame.id == self._asked:
                return self._begin(frame)
            case frames.Subscribed() if frame.id in self._given_up:
                # If the one under way is refused, this subscription is what goes on.
                self._given_up.remove(frame.id)
                self._following = (frame.log, frame.view)
            case frames.Unsubscribed() if frame.thread == self.thread:
                return self._end(frame)
        return ()

    @property
    def _is_of_this_view(self) -> bool:
        return self._following is not None and self._following[1] == self.view

    def _begin(self, frame: frames.Subscribed) -> tuple[Action, ...]:
        self._asked = None
        self._following = (frame.log, self.view)
        # With another log held, a reset follows and brings the new one. Until then the position is of the old
        # log: were the socket cut in between, the old position in the new log would name other events.
        self.log = self.log or frame.log
        if self.last is not None and frame.after > self.last:
            # Asked for "from now" while a `send` was under way whose reply gave a position: a gap like any other.
            return self.subscribe()
        self.last = frame.after
        return ()

    def _refused(self, frame: frames.Reply) -> tuple[Action, ...]:
        if frame.id is None or frame.error is msgspec.UNSET:
            return ()
        self._given_up.discard(frame.id)
        if frame.id != self._asked:
            return ()
        self._asked = None
        return (NotSubscribed(frame.error),)

    def _end(self, frame: frames.Unsubscribed) -> tuple[Action, ...]:
        self._following = None
        if frame.reason == "deleted":
            self.last = self.log = None
            if self.shown:
                self.shown.clear()
        return (Ended(frame.reason),)

    def _follow(self, frame: frames.Event | frames.Position | frames.Reset) -> tuple[Action, ...]:
        if isinstance(frame, frames.Reset):
            self.last, self.log = frame.from_, frame.log
            self._following = (frame.log, self.view)
            if self.shown:
                self.shown.clear()
            return (DropView(frame.reason),)
        assert self.last is not None, "a subscription gives a position"
        if frame.seq <= self.last or not self.is_subscribed:
            return ()
        if isinstance(frame, frames.Position) or frame.prev > self.last:
            return self.subscribe()
        return self._apply(frame)

    def _apply(self, event: frames.Event) -> tuple[Action, ...]:
        if self.shown and not self.shown.apply(event):
            if self._unfit_seq != event.seq:
                # Once: a server that sends it again as it was would be asked for ever. What completes it comes.
                self._unfit_seq = event.seq
                return self.subscribe()
            self.shown.pass_over(event)
        self.last = event.seq
        return (Apply(event),)


# ── from events to what a person sees ────────────────────────────────────────────────────────────────────


class ThreadView:
    """Messages and runs as the events of a thread tell them. Feed it each event once, in order."""

    def __init__(self) -> None:
        self.seq = 0  # of the last event applied
        self.messages: dict[str, Message] = {}  # by id, in the order they began
        self.runs: dict[str, Run] = {}  # by id, in the order they began
        self._taken_back: set[str] = set()  # ids of messages and thinking that must not come back

    def clear(self) -> None:
        """Forget everything: a reset."""
        self.seq = 0
        self.messages.clear()
        self.runs.clear()
        self._taken_back.clear()

    @classmethod
    def from_snapshot(cls, snapshot: Mapping[str, Any]) -> ThreadView:
        """Make a view of the body of `GET /v1/threads/{id}`; events after its `seq` continue it."""
        view = cls()
        view.seq = snapshot.get("seq", 0)
        for shape in snapshot["runs"]:
            run = Run(id=shape["run"], agent=shape["agent"], status=shape["status"])
            run.attempt, run.error = shape["attempt"], shape["error"]
            run.steps = {step["call"]: Step(seq=0, **_known(step, _STEP)) for step in shape["steps"]}
            run.waits = {wait["wait"]: Wait(**_known(wait, _WAIT)) for wait in shape["waits"]}
            view.runs[run.id] = run
        for shape in snapshot["messages"]:
            run_shown = view.runs.get(shape["run"])
            is_open = not shape["complete"] and run_shown is not None and not run_shown.is_ended
            content = shape["content"]
            view.messages[shape["message"]] = Message(
                id=shape["message"],
                # An open one is streamed on; its text so far is the beginning that this view saw.
                content=Text(content) if is_open and isinstance(content, str) else content,
                **_known(shape, ("role", "run", "seq", "complete", "span")),
            )
        return view

    def to_snapshot(self) -> dict[str, Any]:
        """Return `messages` and `runs` exactly as in `GET /v1/threads/{id}`."""
        return {
            "messages": [message.to_json() for message in self.messages.values()],
            "runs": [run.to_json() for run in self.runs.values()],
        }

    def apply(self, event: _AnEvent) -> bool:
        """Take the next event.

        Returns:
            False: it is a delta beyond the end of a stream that began in this view, and nothing was changed.
        """
        reduce, data = self._REDUCERS.get(event.type), _data_of(event)
        if not isinstance(data, EventData):
            reduce = None  # of a newer version: a type or a shape
        run = self.runs.get(event.run)
        if run is None:
            run = self.runs[event.run] = Run(id=event.run, status="running")
        if reduce is None:
            run.opaque[event.seq] = Opaque(seq=event.seq, type=event.type, name=None, value=data)
        elif reduce(self, run, event, data) is False:
            return False
        run.attempt = event.attempt
        self.seq = event.seq
        return True

    def pass_over(self, event: _AnEvent) -> None:
        """Take a delta that does not fit and will not: from here on its stream waits for its completing event.

        Otherwise each later delta of it would be a gap of its own: for one fault as many subscribes as it has pieces.
        """
        run, data = self.runs[event.run], decode_data(event)
        match event.type:
            case EventType.TEXT_DELTA:
                self.messages[data.message].cut_off()
            case EventType.THINKING_DELTA:
                run.thinking[data.thinking].cut_off()
            case EventType.TOOL_ARGS_DELTA:
                run.args[data.call].is_cut_off = True
        self.apply(event)

    def _user_message(self, run: Run, event: _AnEvent, data: Any) -> None:
        run.status = "queued"
        self.messages[data.message] = Message(
            id=data.message, role="user", content=data.content, run=run.id, seq=event.seq, complete=True
        )

    def _agent_started(self, run: Run, event: _AnEvent, data: Any) -> None:
        run.agent = data.agent
        run.status = "running"

    def _agent_retrying(self, run: Run, event: _AnEvent, data: Any) -> None:
        run.status = run.status_at_work  # a wait that is open is entered again without a word

    # messages

    def _message_started(self, run: Run, event: _AnEvent, data: Any) -> None:
        self.messages[data.message] = Message(
            id=data.message,
            role=data.role,
            content=Text(),
            run=run.id,
            seq=event.seq,
            complete=False,
            span=data.span or None,
        )

    def _text_delta(self, run: Run, event: _AnEvent, data: Any) -> bool:
        message = self.messages.get(data.message)
        return message is None or message.put(data.offset, data.text) is not False

    def _message_completed(self, run: Run, event: _AnEvent, data: Any) -> None:
        if data.message in self._taken_back:
            return
        message = self.messages.get(data.message)
        if message is None:
            message = self.messages[data.message] = Message(
                id=data.message, role="assistant", content="", run=run.id, seq=event.seq, complete=False
            )
        message.complete_with(data.content, complete=data.complete)

    # thinking

    def _thinking_delta(self, run: Run, event: _AnEvent, data: Any) -> bool:
        thought = run.thinking.get(data.thinking)
        if thought is None:
            if data.offset or data.thinking in self._taken_back:
                return True
            thought = run.thinking[data.thinking] = Thought(
                id=data.thinking, seq=event.seq, text=Text(), complete=False
            )
        return thought.put(data.offset, data.text) is not False

    def _agent_thinking(self, run: Run, event: _AnEvent, data: Any) -> None:
        if data.thinking in self._taken_back:
            return
        thought = run.thinking.get(data.thinking) if data.thinking else None
        if thought is None:
            thought = Thought(id=data.thinking, seq=event.seq, text=None, complete=False)
            run.thinking[data.thinking or event.seq] = thought
        # One that only ends its stream says the text no second time: what was streamed stands.
        thought.complete_with(thought.text if data.text is None else data.text)

    # tools

    def _tool_args_delta(self, run: Run, event: _AnEvent, data: Any) -> bool:
        text = run.args.get(data.call)
        if text is None:
            if data.offset or data.call in run.steps:
                return True
            text = run.args[data.call] = Text()
        return text.put(data.offset, data.text)

    def _tool_executing(self, run: Run, event: _AnEvent, data: Any) -> None:
        run.args.pop(data.call, None)  # complete now
        run.steps[data.call] = Step(
            call=data.call, name=data.name, args=data.args, seq=event.seq, span=data.span or None
        )

    def _tool_completed(self, run: Run, event: _AnEvent, data: Any) -> None:
        step = run.steps.get(data.call)
        if step is None:
            step = run.steps[data.call] = Step(call=data.call, name=data.name, args=None, seq=event.seq)
        step.ok, step.final, step.duration_ms = data.ok, data.final, data.duration_ms
        step.result = None if data.result is msgspec.UNSET else data.result
        step.error = msgspec.to_builtins(data.error) if data.error else None

    # waits and sub-agents

    def _agent_waiting(self, run: Run, event: _AnEvent, data: Any) -> None:
        run.status = "waiting"
        run.waits[data.wait] = Wait(
            wait=data.wait, kind=data.kind, prompt=data.prompt, call=data.call, due_at=data.due_at
        )

    def _agent_resumed(self, run: Run, event: _AnEvent, data: Any) -> None:
        wait = run.waits.setdefault(data.wait, Wait(wait=data.wait, kind=None))
        wait.value, wait.by = data.value, data.by
        run.status = run.status_at_work

    def _subagent_started(self, run: Run, event: _AnEvent, data: Any) -> None:
        run.spans[data.span] = Span(span=data.span, agent=data.agent, parent=data.parent)

    def _subagent_completed(self, run: Run, event: _AnEvent, data: Any) -> None:
        span = run.spans.setdefault(data.span, Span(span=data.span, agent=None))
        span.ok, span.output = True, data.output

    def _subagent_failed(self, run: Run, event: _AnEvent, data: Any) -> None:
        span = run.spans.setdefault(data.span, Span(span=data.span, agent=None))
        span.ok, span.error = False, {"code": data.code, "message": data.message}

    # the rest

    def _custom(self, run: Run, event: _AnEvent, data: Any) -> None:
        run.opaque[event.seq] = Opaque(seq=event.seq, type=event.type, name=data.name, value=data.value)

    def _superseded(self, run: Run, event: _AnEvent, data: Any) -> None:
        self._taken_back.update(data.messages, data.thinking)
        for message in data.messages:
            self.messages.pop(message, None)
        for thinking in data.thinking:
            run.thinking.pop(thinking, None)
        for seq in data.events:
            run.thinking.pop(seq, None)
            run.opaque.pop(seq, None)

    def _agent_completed(self, run: Run, event: _AnEvent, data: Any) -> None:
        run.output, run.duration_ms, run.usage = data.output, data.duration_ms, data.usage or None
        self._end(run, event)

    def _agent_failed(self, run: Run, event: _AnEvent, data: Any) -> None:
        run.error = msgspec.to_builtins(data)
        self._end(run, event)

    def _agent_cancelled(self, run: Run, event: _AnEvent, data: Any) -> None:
        run.cancelled = msgspec.to_builtins(data)
        self._end(run, event)

    def _end(self, run: Run, event: _AnEvent) -> None:
        run.status = STATUS_OF_TERMINAL[event.type]
        run.args.clear()

    def _nothing(self, run: Run, event: _AnEvent, data: Any) -> None:
        """Internal: a client never gets it, the server's own snapshot passes over it."""

    _REDUCERS: ClassVar[Mapping[str, Callable[[ThreadView, Run, _AnEvent, Any], bool | None]]] = {
        EventType.USER_MESSAGE: _user_message,
        EventType.AGENT_STARTED: _agent_started,
        EventType.AGENT_RETRYING: _agent_retrying,
        EventType.MESSAGE_STARTED: _message_started,
        EventType.TEXT_DELTA: _text_delta,
        EventType.MESSAGE_COMPLETED: _message_completed,
        EventType.THINKING_DELTA: _thinking_delta,
        EventType.AGENT_THINKING: _agent_thinking,
        EventType.TOOL_ARGS_DELTA: _tool_args_delta,
        EventType.TOOL_EXECUTING: _tool_executing,
        EventType.TOOL_COMPLETED: _tool_completed,
        EventType.AGENT_WAITING: _agent_waiting,
        EventType.AGENT_RESUMED: _agent_resumed,
        EventType.SUBAGENT_STARTED: _subagent_started,
        EventType.SUBAGENT_COMPLETED: _subagent_completed,
        EventType.SUBAGENT_FAILED: _subagent_failed,
        EventType.CUSTOM: _custom,
        EventType.SUPERSEDED: _superseded,
        EventType.AGENT_COMPLETED: _agent_completed,
        EventType.AGENT_FAILED: _agent_failed,
        EventType.AGENT_CANCELLED: _agent_cancelled,
        EventType.STEP_STARTED: _nothing,
        EventType.STEP_COMPLETED: _nothing,
    }


def _data_of(event: _AnEvent) -> Any:
    """Return an event's data, whatever words a newer version has in it; of another type or shape as plain JSON."""
    try:
        return decode_data(event)
    except msgspec.ValidationError:
        pass
    try:
        return _NEWER_WORDS[event.type].decode(event.data)
    except (KeyError, msgspec.ValidationError):
        return msgspec.json.decode(event.data)


_NEWER_WORDS: Final[Mapping[str, msgspec.json.Decoder[EventData]]] = {
    str(kind): msgspec.json.Decoder(frames.with_any_word(data)) for kind, data in EVENT_DATA.items()
}
_STEP: Final = ("call", "name", "args", "ok", "result", "error")
_WAIT: Final = ("wait", "kind", "prompt", "call", "due_at", "value", "by")


def _known(shape: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields this version knows; a newer server may send more."""
    return {name: shape[name] for name in fields if name in shape}
