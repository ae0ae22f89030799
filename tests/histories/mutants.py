"""Named mutants: one change in the source text of the rule, the reducer, the matcher or the JavaScript client.

A mutant is a substitution in a *copy* of the text; the copy is loaded under another name, with the modules that
build on it, and the tree is never touched. One whose pattern the source no longer has is an error, not a pass.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
_PROTOCOL = ROOT / "src" / "runwire" / "protocol"
_ALIAS = "runwire_mutant"

# Modules of the same copy: each imports only those before it.
_FAMILIES = (("shown", "view"), ("sayings", "journal", "replay"))


@dataclass(frozen=True)
class Mutant:
    name: str  # what it does wrong
    file: str
    old: str  # occurs once; more than the changed line only where that alone is not unique
    new: str

    @property
    def source(self) -> str:
        """Return the changed text.

        Raises:
            LookupError: the source has changed; write the mutant anew.
        """
        path = (ROOT if "/" in self.file else _PROTOCOL) / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise LookupError(f"{self.file} has {text.count(self.old)} times: {self.old!r} (mutant {self.name!r})")
        return text.replace(self.old, self.new)


@contextmanager
def loaded(mutant: Mutant) -> Iterator[ModuleType]:
    """Load the copy; the module that is given is the last of its family (`view` or `replay`)."""
    stem = mutant.file.removesuffix(".py")
    family = next(family for family in _FAMILIES if stem in family)
    changed = mutant.source
    try:
        for name in family:
            text = changed if name == stem else (_PROTOCOL / f"{name}.py").read_text(encoding="utf-8")
            for sibling in family:
                text = text.replace(f"from runwire.protocol.{sibling} import", f"from {_ALIAS}_{sibling} import")
            module = ModuleType(f"{_ALIAS}_{name}")
            sys.modules[module.__name__] = module  # before it runs: dataclasses look themselves up
            exec(compile(text, f"{name}.py, {mutant.name}", "exec"), vars(module))
        yield sys.modules[f"{_ALIAS}_{family[-1]}"]
    finally:
        for name in family:
            sys.modules.pop(f"{_ALIAS}_{name}", None)


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
        "return () if self.is_asking or self._following is None else",
        "return () if self._following is None else",
    ),
    Mutant(
        "takes late frames of a socket that is gone",
        "view.py",
        "return () if self.is_asking or self._following is None else",
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
    Mutant("ends all waits with one", "view.py", "if all(each.by is not None", "if any(each.by is not None"),
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

_JS = "clients/js/runwire.js"

CLIENT = (
    Mutant(
        "applies whatever is newer",
        _JS,
        'if (frame.op === "position" || frame.prev > this.last) return this.subscribe();',
        'if (frame.op === "position") return this.subscribe();',
    ),
    Mutant(
        "applies again what it has",
        _JS,
        "if (frame.seq <= this.last || !this.isSubscribed) return [];",
        'if ((frame.op === "position" && frame.seq <= this.last) || !this.isSubscribed) return [];',
    ),
    Mutant(
        "never learns that the last event was lost",
        _JS,
        'if (frame.op === "position" || frame.prev > this.last) return this.subscribe();',
        'if (frame.op === "position") return [];\n    if (frame.prev > this.last) return this.subscribe();',
    ),
    Mutant(
        "takes late frames of a subscription that is being replaced",
        _JS,
        "if (frame.thread !== this.thread || this.isAsking || this.#following === null) return [];",
        "if (frame.thread !== this.thread || this.#following === null) return [];",
    ),
    Mutant(
        "takes late frames of a socket that is gone",
        _JS,
        "if (frame.thread !== this.thread || this.isAsking || this.#following === null) return [];",
        "if (frame.thread !== this.thread || this.isAsking) return [];",
    ),
    Mutant(
        "goes on showing what may never have happened",
        _JS,
        'this.shown?.clear();\n      return [{ do: "dropView"',
        'return [{ do: "dropView"',
    ),
    Mutant("asks for its position in whatever history there is", _JS, "if (this.log !== null) frame.log =", "if (false) frame.log ="),
    Mutant("takes the reply to a send for its position", _JS, "this.last ??= data.after;", "this.last = data.after;"),
    Mutant("names a new log for an old position", _JS, "this.log ??= frame.log;\n    // Asked", "this.log = frame.log;\n    // Asked"),
    Mutant("asks for a hole at each later piece", _JS, "      this.shown.passOver(event);\n    }\n    this.last = event.seq;\n    return [{", "    }\n    this.last = event.seq;\n    return [{"),
    Mutant("counts UTF-16 units", _JS, "this.length = offset + codePoints(text);", "this.length = offset + text.length;"),
    Mutant("cuts at UTF-16 units", _JS, 'Array.from(this.text).slice(0, offset).join("")', "this.text.slice(0, offset)"),
    Mutant("takes no stream of thinking back", _JS, "for (const thinking of data.thinking) run", "for (const thinking of []) run"),
    Mutant("takes every message for complete", _JS, "message.completeWith(data.content, data.complete);", "message.completeWith(data.content, true);"),
    Mutant("ends all waits with one", _JS, "[...run.waits.values()].every(", "[...run.waits.values()].some("),
    Mutant("does not go on with a message of a snapshot", _JS, "const known = isOpen && isText(content) ? new Text(content) : content;", "const known = content;"),
)  # fmt: skip

_CLOSE_TRIES = "emits.append(Emit(each.complete(ok=False, final=final, error=error), each.parent))"
_SAME_WHOLE = "if logged and logged.kind is saying.kind and same_json(logged.given, saying.given):"

MATCHER = (
    Mutant(
        "compares no prefix",
        "sayings.py",
        "return logged == 0 or self.text.startswith(text[:logged], at)",
        "return True",
    ),
    Mutant(
        "goes on after the logged end",
        "sayings.py",
        "if len(text) > logged and self.is_ended:",
        "if False:",
    ),
    Mutant("ends before the logged text", "replay.py", "if saying and voice.at < saying.length:", "if False:"),
    Mutant(
        "leaves a message open when a saying is swallowed",
        "replay.py",
        f"emits = self._close(voice)\n        logged = voice.logged\n        {_SAME_WHOLE}",
        f"emits = [] if voice.logged else self._close(voice)\n        logged = voice.logged\n        {_SAME_WHOLE}",
    ),
    Mutant(
        "leaves a message open when a step begins",
        "replay.py",
        "emits = self._close(voice)\n        voice.begun += 1",
        "emits = list[Emit]()\n        voice.begun += 1",
    ),
    Mutant("takes only the first saying back", "replay.py", 'superseded(taken, "differs")', 'superseded(taken[:1], "differs")'),
    Mutant("does not take the first saying back", "replay.py", 'superseded(taken, "differs")', 'superseded(taken[1:], "differs")'),
    Mutant(
        "takes nothing back at the end",
        "replay.py",
        "if voice.logged:\n            emits += self._take_back(voice)\n        for each",
        "if False:\n            emits += self._take_back(voice)\n        for each",
    ),
    Mutant(
        "leaves cut off tries of a scope open",
        "replay.py",
        "for each in reversed(self._unfinished(scope)):",
        "for each in ():",
    ),
    Mutant("reads no superseded", "journal.py", "        EventType.SUPERSEDED: _superseded,\n", ""),
    Mutant(
        "keeps the address of what was taken back",
        "journal.py",
        "[each for each in scope.sayings if each.id not in ids and each.seq not in seqs]",
        '[each if each.id not in ids and each.seq not in seqs else Saying(kind=Kind.CUSTOM, given="gone", seq=each.seq,'
        " is_ended=True) for each in scope.sayings]",
    ),
    Mutant("reads no events of superseded", "journal.py", "set(data.events)", "set[int]()"),
    Mutant(
        "says a cut off text anew",
        "replay.py",
        "if not saying.allows(text, at=voice.at):",
        "if not saying.allows(text, at=voice.at) or (saying.seq and voice.at == saying.length and voice.at):",
    ),
    Mutant(
        "counts UTF-16 units",
        "sayings.py",
        "min(offset, self.length) + len(text)",
        'min(offset, self.length) + len(text.encode("utf-16-le")) // 2',
    ),
    Mutant("counts bytes", "sayings.py", "min(offset, self.length) + len(text)", "min(offset, self.length) + len(text.encode())"),
    Mutant(
        "leaves open tries open",
        "replay.py",
        "closed = self._close_tries(cut_off, final=False, reason=reason)",
        "closed = list[Emit]()",
    ),
    Mutant(
        "closes a try that is to be re-entered",
        "replay.py",
        "for each in self._journal.open_tries if not self._journal.scope(each.scope).steps]",
        "for each in self._journal.open_tries]",
    ),
    Mutant("lets a closed try keep its words", "replay.py", "            emits += self._take_back_all(each)\n", ""),
    Mutant("closes a try before its words are taken back", "replay.py", _CLOSE_TRIES, _CLOSE_TRIES.replace("append(", "insert(0, ")),
    Mutant(
        "returns a result that is not final",
        "journal.py",
        "return self.completion is not None and self.completion.final",
        "return self.completion is not None",
    ),
    Mutant("does a finished step again", "replay.py", "if last.is_final or last.is_open:", "if last.is_open:"),
    Mutant("gives a new try the old number", "replay.py", "number = len(step.tries) + 1", "number = len(step.tries) or 1"),
    Mutant(
        "takes back what finished steps said",
        "replay.py",
        "begun_after = [each for each in unfinished if not each.is_entered]",
        "begun_after = [e for e in self._journal.tries.values() if e.seq > voice.log.sayings[voice.said].seq]",
    ),
    Mutant(
        "lets tries begun after a difference keep their words",
        "replay.py",
        "begun_after = [each for each in unfinished if not each.is_entered]",
        "begun_after = list[Try]()",
    ),
    Mutant(
        "says new words before the old are taken back",
        "replay.py",
        "return [*emits, Emit(data, scope)]",
        "return [Emit(data, scope), *emits]",
    ),
    Mutant(
        "takes a logged message for said",
        "replay.py",
        "for each in voice.log.sayings[: voice.said] if each.kind is Kind.MESSAGE",
        "for each in voice.log.sayings if each.kind is Kind.MESSAGE",
    ),
    Mutant(
        "tells a swallowed saying again",
        "replay.py",
        f"{_SAME_WHOLE}\n            voice.say(logged)\n            return emits",
        f"{_SAME_WHOLE}\n            voice.say(logged)\n            self._unstored.append(saying)\n"
        "            return [*emits, Emit(data, scope)]",
    ),
    Mutant("compares no whole sayings", "replay.py", " and same_json(logged.given, saying.given)", ""),
    Mutant("compares no kinds", "replay.py", "if logged and logged.kind is kind:", "if logged:"),
    Mutant(
        "forgets the streams of tries when it closes",
        "replay.py",
        "emits += [*self._cut_streams(each.scope), Emit(",
        "emits += [Emit(",
    ),
    Mutant(
        "closes only what was said again",
        "replay.py",
        "for each in self._journal.scope(scope).sayings if not each.is_ended]",
        "for each in self._journal.scope(scope).sayings[: self._voice(scope).said] if not each.is_ended]",
    ),
    Mutant("leaves the parent out of a step's key", "replay.py", "_digest(scope, name, n)", "_digest(name, n)"),
)  # fmt: skip
