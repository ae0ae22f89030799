"""What a broken replay matcher does wrong: shows something twice, loses it, or shows it out of order."""

from __future__ import annotations

from tests.histories.mutants import Mutant

_CLOSE_TRIES = "emits.append(Emit(each.complete(ok=False, final=final, error=error), each.parent))"
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
    Mutant("ends before the logged text", "replay.py", "if saying and voice.at < saying.length:", "if False:"),
    Mutant(
        "leaves a message open when a saying is swallowed",
        "replay.py",
        "emits = self._close(voice) if voice.open else []",
        "emits = self._close(voice) if voice.open and not voice.logged else []",
    ),
    Mutant(
        "leaves a message open when a step begins",
        "replay.py",
        "emits = self._close(voice)\n        voice.begun += 1",
        "emits = list[Emit]()\n        voice.begun += 1",
    ),
    Mutant(
        "takes only the first saying back",
        "replay.py",
        'superseded(taken, "differs")',
        'superseded(taken[:1], "differs")',
    ),
    Mutant(
        "does not take the first saying back",
        "replay.py",
        'superseded(taken, "differs")',
        'superseded(taken[1:], "differs")',
    ),
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
        "[each if each.id not in ids and each.seq not in seqs else Saying(kind=Kind.CUSTOM, seq=each.seq,"
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
    Mutant(
        "counts bytes",
        "sayings.py",
        "min(offset, self.length) + len(text)",
        "min(offset, self.length) + len(text.encode())",
    ),
    Mutant(
        "leaves open tries open",
        "replay.py",
        "for each in cut_off:",
        "for each in list[Try]():",
    ),
    Mutant(
        "closes a try that is to be re-entered",
        "replay.py",
        "for each in self._journal.open_tries if not self._journal.scope(each.scope).steps]",
        "for each in self._journal.open_tries]",
    ),
    Mutant("lets a closed try keep its words", "replay.py", "            emits += self._take_back_all(each)\n", ""),
    Mutant(
        "closes a try before its words are taken back",
        "replay.py",
        _CLOSE_TRIES,
        _CLOSE_TRIES.replace("append(", "insert(0, "),
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
        "emits.append(Emit(words, scope))",
        "emits.insert(0, Emit(words, scope))",
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
        f"{_SAME_WHOLE}\n            voice.say(logged)\n            self._unstored.append(logged)\n"
        "            return [*emits, Emit(words, scope)]",
    ),
    Mutant(
        "compares no whole sayings",
        "replay.py",
        "if logged and same_words(logged.words, words):",
        "if logged and logged.words:",
    ),
    Mutant(
        "compares no values",
        "sayings.py",
        "all(map(same_json, msgspec.structs.astuple(one), msgspec.structs.astuple(other)))",
        "True",
    ),
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
)
