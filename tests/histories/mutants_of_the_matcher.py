"""What a broken replay matcher does wrong: shows something twice, loses it, or shows it out of order."""

from __future__ import annotations

from tests.histories.mutants import Mutant

_CLOSE = "self._journal.close(left, closed)\n        return [*emits, Emit(closed, left.parent)]\n\n\ndef closers"
_SAME_WHOLE = "if logged and same_words(logged.words, words):"

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
    Mutant("ends before the logged text", "voices.py", "if saying and voice.at < saying.length:", "if False:"),
    Mutant(
        "leaves a message open when a saying is swallowed",
        "voices.py",
        "emits = self.close(voice) if voice.open else []",
        "emits = self.close(voice) if voice.open and not voice.logged else []",
    ),
    Mutant(
        "leaves a message open when a step begins",
        "replay.py",
        "emits = self._voices.close(voice) if closes else []",
        "emits = list[Emit]()",
    ),
    Mutant(
        "takes only the first saying back",
        "voices.py",
        'return [Emit(each, voice.scope) for each in superseded(taken, "differs")]',
        'return [Emit(each, voice.scope) for each in superseded(taken[:1], "differs")]',
    ),
    Mutant(
        "does not take the first saying back",
        "voices.py",
        'return [Emit(each, voice.scope) for each in superseded(taken, "differs")]',
        'return [Emit(each, voice.scope) for each in superseded(taken[1:], "differs")]',
    ),
    Mutant(
        "takes nothing back at the end",
        "voices.py",
        "if voice.logged:\n            emits += self._take_back(voice)\n        left",
        "if False:\n            emits += self._take_back(voice)\n        left",
    ),
    Mutant(
        "leaves cut off tries of a scope open",
        "replay.py",
        "for each in reversed(self._journal.open_inside(scope)):",
        "for each in ():",
    ),
    Mutant("reads no superseded", "journal.py", "        EventType.SUPERSEDED: _superseded,\n", ""),
    Mutant(
        "keeps the address of what was taken back",
        "journal.py",
        "[each for each in scope.sayings if each.id not in ids and each.seq not in seqs]",
        "[each if each.id not in ids and each.seq not in seqs else Saying(kind=Kind.CUSTOM, seq=each.seq,"
        " is_ended=True) for each in scope.sayings]",
    ),
    Mutant("reads no events of superseded", "journal.py", "set(data.events)", "set[int]()"),
    Mutant(
        "says a cut off text anew",
        "voices.py",
        "if not saying.allows(text, at=voice.at):",
        "if not saying.allows(text, at=voice.at) or (saying.seq and voice.at == saying.length and voice.at):",
    ),
    Mutant(
        "counts UTF-16 units",
        "sayings.py",
        "min(offset, self.length) + len(text)",
        'min(offset, self.length) + len(text.encode("utf-16-le")) // 2',
    ),
    Mutant(
        "counts bytes",
        "sayings.py",
        "min(offset, self.length) + len(text)",
        "min(offset, self.length) + len(text.encode())",
    ),
    Mutant(
        "leaves open tries open",
        "replay.py",
        "for each in tries:",
        "for each in list[Try]():",
    ),
    Mutant(
        "closes a try that is to be re-entered",
        "replay.py",
        "if not self._journal.has_begun(each.scope):",
        "if True:",
    ),
    Mutant(
        "lets a closed try keep its words",
        "replay.py",
        "emits = self._voices.take_back_all(left.scope)\n        closed = left.completed",
        "emits = list[Emit]()\n        closed = left.completed",
    ),
    Mutant(
        "closes a try before its words are taken back",
        "replay.py",
        _CLOSE,
        _CLOSE.replace("[*emits, Emit(closed, left.parent)]", "[Emit(closed, left.parent), *emits]"),
    ),
    Mutant(
        "returns a result that is not final",
        "journal.py",
        "return self.completion is not None and self.completion.final",
        "return self.completion is not None",
    ),
    Mutant("does a finished step again", "replay.py", "if last.is_final or last.is_open:", "if last.is_open:"),
    Mutant(
        "gives a new try the old number", "replay.py", "number = len(step.tries) + 1", "number = len(step.tries) or 1"
    ),
    Mutant(
        "takes back what finished steps said",
        "journal.py",
        "if not isinstance(each, LoggedWait) and each.completion is None]",
        "if not isinstance(each, LoggedWait)]",
    ),
    Mutant(
        "lets tries begun after a difference keep their words",
        "voices.py",
        "for scope in self._journal.unfinished(voice.scope):",
        "for scope in list[str]():",
    ),
    Mutant(
        "says new words before the old are taken back",
        "voices.py",
        "emits.append(Emit(words, scope))",
        "emits.insert(0, Emit(words, scope))",
    ),
    Mutant(
        "takes a logged message for said",
        "voices.py",
        "for n in range(voice.said + 1):",
        "voice.said = len(voice.log.sayings)\n        for n in range(voice.said + 1):",
    ),
    Mutant(
        "tells a swallowed saying again",
        "voices.py",
        f"{_SAME_WHOLE}\n            voice.say(logged)\n            return emits",
        f"{_SAME_WHOLE}\n            voice.say(logged)\n            self._unstored.append(logged)\n"
        "            return [*emits, Emit(words, scope)]",
    ),
    Mutant(
        "compares no whole sayings",
        "voices.py",
        "if logged and same_words(logged.words, words):",
        "if logged and logged.words:",
    ),
    Mutant(
        "compares no values",
        "sayings.py",
        "all(map(same_json, msgspec.structs.astuple(one), msgspec.structs.astuple(other)))",
        "True",
    ),
    Mutant("compares no kinds", "voices.py", "if logged and logged.kind is kind:", "if logged:"),
    Mutant(
        "forgets the streams of tries when it closes",
        "replay.py",
        "            yield from self._what_cuts(each.scope)\n",
        "",
    ),
    Mutant(
        "closes only what was said again",
        "voices.py",
        "for saying in self._journal.scope(each).sayings if not saying.is_ended",
        "for saying in self._journal.scope(each).sayings[: self.enter(each).said] if not saying.is_ended",
    ),
    Mutant("leaves the parent out of a step's key", "acts.py", "which = (n,) if", 'scope, which = "", (n,) if'),
)
