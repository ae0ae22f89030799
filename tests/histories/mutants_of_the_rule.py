"""What a broken apply rule or reducer in Python does wrong."""

from __future__ import annotations

from tests.histories.mutants import Mutant

_CURSOR = (
    Mutant(
        "applies whatever is newer",
        "view.py",
        "isinstance(frame, frames.Position) or frame.prev > self.last:",
        "isinstance(frame, frames.Position):",
    ),
    Mutant(
        "takes a view that skips numbers for one with gaps",
        "view.py",
        "isinstance(frame, frames.Position) or frame.prev > self.last:",
        "isinstance(frame, frames.Position) or frame.seq != self.last + 1:",
    ),
    Mutant(
        "applies again what it has",
        "view.py",
        "if frame.seq <= self.last or not self.is_subscribed:",
        "if not self.is_subscribed or (isinstance(frame, frames.Position) and frame.seq <= self.last):",
    ),
    Mutant(
        "applies events of a history that it does not follow",
        "view.py",
        "if frame.seq <= self.last or not self.is_subscribed:",
        "if frame.seq <= self.last:",
    ),
    Mutant(
        "never learns that the last event was lost",
        "view.py",
        "case frames.Event() | frames.Position() | frames.Reset() if",
        "case frames.Event() | frames.Reset() if",
    ),
    Mutant(
        "takes late frames of a subscription that is being replaced",
        "view.py",
        "return () if self.is_asking or not self._is_of_this_view else",
        "return () if not self._is_of_this_view else",
    ),
    Mutant(
        "takes late frames of a socket that is gone",
        "view.py",
        "return () if self.is_asking or not self._is_of_this_view else",
        "return () if self.is_asking else",
    ),
    Mutant(
        "asks twice",
        "view.py",
        "if self.is_asking:\n            return ()\n        if self.last is None and after >= 0:",
        "if False:\n            return ()\n        if self.last is None and after >= 0:",
    ),
    Mutant(
        "asks again, and shows the later event meanwhile",
        "view.py",
        "return self.subscribe()\n        return self._apply(frame)",
        "return self.subscribe() + (self._apply(frame) if isinstance(frame, frames.Event) else ())\n"
        "        return self._apply(frame)",
    ),
    Mutant(
        "goes on showing what may never have happened",
        "view.py",
        "self.shown.clear()\n            return (DropView",
        "pass\n            return (DropView",
    ),
    Mutant(
        "takes what follows a reset for old",
        "view.py",
        "self.last, self.log = frame.from_, frame.log",
        "self.log = frame.log",
    ),
    Mutant(
        "keeps the log at a reset",
        "view.py",
        "self.last, self.log = frame.from_, frame.log",
        "self.last = frame.from_",
    ),
    Mutant("asks for its position in whatever history there is", "view.py", "log=self.log, view=", "log=None, view="),
    Mutant(
        "takes the reply to a send for its position",
        "view.py",
        "if self.last is None:\n            self.last = reply.after",
        "if True:\n            self.last = reply.after",
    ),
    Mutant(
        "takes the log of the reply to a send for its own",
        "view.py",
        "self.log = self.log or reply.log",
        "self.log = reply.log",
    ),
    Mutant(
        "takes the answer to an older subscribe for its own",
        "view.py",
        "case frames.Subscribed() if frame.id == self._asked:",
        "case frames.Subscribed() if self.is_asking:",
    ),
    Mutant(
        "begins anew after a cut, on top of what is shown",
        "view.py",
        "self._following = self._asked = None",
        "self._following = self._asked = None\n        self.last = self.last and 0",
    ),
    Mutant(
        "waits for an answer of a dead socket",
        "view.py",
        "self._following = self._asked = None",
        "self._following = None",
    ),
    Mutant(
        "skips to now",
        "view.py",
        "if self.last is not None and frame.after > self.last:",
        "if False:",
    ),
    Mutant(
        "names a new log for an old position",
        "view.py",
        "self.log = self.log or frame.log",
        "self.log = frame.log",
    ),
    Mutant(
        "waits for ever after a refusal",
        "view.py",
        "self._asked = None\n        return (NotSubscribed",
        "return (NotSubscribed",
    ),
    Mutant(
        "keeps the log of a deleted thread",
        "view.py",
        "self.last = self.log = None",
        "self.last = None",
    ),
    Mutant(
        "keeps showing a deleted thread",
        "view.py",
        "self.shown.clear()\n        return (Ended",
        "pass\n        return (Ended",
    ),
    Mutant(
        "takes a subscription of another view for its own",
        "view.py",
        "return self._following is not None and self._following[1] == self.view",
        "return self._following is not None",
    ),
    Mutant(
        "takes any view for what a send goes on with",
        "view.py",
        'self._following[1] if self._following else "all"',
        '"all"',
    ),
    Mutant(
        "passes over answers that it does not wait for",
        "view.py",
        "self._following = (frame.log, frame.view)",
        "pass",
    ),
    Mutant("asks for ever for a hole", "view.py", "if self._unfit_seq != event.seq:", "if True:"),
    Mutant(
        "asks for a hole at each later piece", "view.py", "            self.shown.pass_over(event)", "            pass"
    ),
)

_REDUCER = (
    Mutant("appends at any offset", "shown.py", "if offset < self.length:", "if False:"),
    Mutant(
        "counts UTF-16 units",
        "shown.py",
        "self.length = offset + len(text)",
        'self.length = offset + len(text.encode("utf-16-le")) // 2',
    ),
    Mutant("puts a text over a hole", "shown.py", "if offset > self.length:", "if False:"),
    Mutant(
        "shows any delta",
        "view.py",
        "message = self.messages.get(data.message)\n        return message is None",
        "message = self.messages.setdefault(data.message, Message(id=data.message, role='assistant', content=Text(),"
        " run=run.id, seq=event.seq, complete=False))\n        return message is None",
    ),
    Mutant(
        "begins thinking anywhere",
        "view.py",
        "if data.offset or data.thinking in self._taken_back:",
        "if data.thinking in self._taken_back:",
    ),
    Mutant(
        "begins arguments anywhere",
        "view.py",
        "if data.offset or data.call in run.steps:",
        "if data.call in run.steps:",
    ),
    Mutant("takes no message back", "view.py", "for message in data.messages:", "for message in ():"),
    Mutant("takes no stream of thinking back", "view.py", "for thinking in data.thinking:", "for thinking in ():"),
    Mutant("takes no whole thought back", "view.py", "run.thinking.pop(seq, None)", "pass"),
    Mutant("takes no custom event back", "view.py", "run.opaque.pop(seq, None)", "pass"),
    Mutant(
        "keeps what was streamed",
        "view.py",
        "message.complete_with(data.content, complete=data.complete)",
        "message.complete = data.complete",
    ),
    Mutant(
        "takes every message for complete",
        "view.py",
        "message.complete_with(data.content, complete=data.complete)",
        "message.complete_with(data.content, complete=True)",
    ),
    Mutant(
        "drops a thought whose end has no text",
        "view.py",
        "thought.complete_with(thought.text if data.text is None else data.text)",
        "thought.complete_with(data.text)",
    ),
    Mutant("ends all waits with one", "shown.py", "if any(wait.by is None", "if all(wait.by is None"),
    Mutant("takes every try for the last", "view.py", "= data.ok, data.final, data.duration_ms", "= data.ok, True, 1"),
    Mutant("leaves arguments beside the call", "view.py", "run.args.pop(data.call, None)", "pass"),
    Mutant("leaves arguments at the end of a run", "view.py", "run.args.clear()", "pass"),
    Mutant(
        "knows only the first attempt", "view.py", "run.attempt = event.attempt", "run.attempt = min(event.attempt, 1)"
    ),
    Mutant(
        "does not go on with a message of a snapshot",
        "view.py",
        "content=Text(content) if is_open and isinstance(content, str) else content,",
        "content=content,",
    ),
    Mutant(
        "drops what it does not know",
        "view.py",
        "            run.opaque[event.seq] = Opaque(seq=event.seq, type=event.type, name=None, value=data)",
        "            pass",
    ),
)

RULE = (*_CURSOR, *_REDUCER)
