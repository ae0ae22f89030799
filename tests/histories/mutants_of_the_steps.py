"""What a matcher does wrong that is broken where branches, waits, sub-agents and tries are matched."""

from __future__ import annotations

from tests.histories.mutants import Mutant

_UNFINISHED = "if not isinstance(each, LoggedWait) and each.completion is None]"
_CLOSE_WAIT = 'emits = self._voices.close(voice)\n        voice.begin("wait", kind)'
_CLOSE_SPAN = 'emits = self._voices.close(voice)\n        voice.begin("span", agent)'
_CLOSE_GATHER = "emits = self._voices.close(voice)\n        scopes = ["
_NEW_SPAN = "if logged is None:\n            self._journal.begin(begun)\n            emits.append(Emit(SubagentStarted"
_NEW_WAIT = "if logged is None:\n            self._journal.begin(begun)\n            emits.append(Emit(AgentWaiting"
_CHECK_CHAIN = "for each in self._journal.chain(scope):\n            if not self._voices.enter(each).has_come"

STEPS = (
    Mutant(
        "takes back what completed sub-agents said",
        "journal.py",
        _UNFINISHED,
        "if not isinstance(each, LoggedWait) and (each.completion is None or isinstance(each, LoggedSpan))]",
    ),
    Mutant(
        "lets branches begun after a difference keep their words",
        "journal.py",
        "for each in (*log.branches, *inner):",
        "for each in inner:",
    ),
    Mutant(
        "lets sub-agents begun after a difference keep their words",
        "journal.py",
        _UNFINISHED,
        "if isinstance(each, Try) and each.completion is None]",
    ),
    Mutant(
        "takes back what finished tries inside a scope said",
        "journal.py",
        _UNFINISHED,
        "if not isinstance(each, LoggedWait) and (each.completion is None or isinstance(each, Try))]",
    ),
    Mutant(
        "takes back what this attempt said in its branches",
        "voices.py",
        "if scope not in self:\n                log",
        'if scope not in self or "|" in scope:\n                log',
    ),
    Mutant(
        "lets branches that were not begun keep their words",
        "voices.py",
        "for each in self._journal.branches_of(voice.scope) if each not in self]",
        "for each in list[str]()]",
    ),
    Mutant(
        "takes nothing back of the branches of a try",
        "voices.py",
        "scopes = (scope, *self._journal.branches_of(scope))\n        taken",
        "scopes = (scope,)\n        taken",
    ),
    Mutant(
        "leaves a message open when a wait begins",
        "replay.py",
        _CLOSE_WAIT,
        _CLOSE_WAIT.replace("self._voices.close(voice)", "list[Emit]()"),
    ),
    Mutant(
        "leaves a message open when a sub-agent begins",
        "replay.py",
        _CLOSE_SPAN,
        _CLOSE_SPAN.replace("self._voices.close(voice)", "list[Emit]()"),
    ),
    Mutant(
        "leaves a message open when branches begin",
        "replay.py",
        _CLOSE_GATHER,
        _CLOSE_GATHER.replace("self._voices.close(voice)", "list[Emit]()"),
    ),
    Mutant(
        "closes a message for the time",
        "replay.py",
        "self._voices.close(voice) if closes else []",
        "self._voices.close(voice)",
    ),
    Mutant(
        "begins an open sub-agent anew",
        "replay.py",
        _NEW_SPAN,
        _NEW_SPAN.replace("if logged is None:", "if logged is None or logged.completion is None:"),
    ),
    Mutant("asks again", "replay.py", _NEW_WAIT, _NEW_WAIT.replace("if logged is None:", "if recorded is None:")),
    Mutant(
        "leaves the index out of a branch",
        "acts.py",
        'return f"{outer}|g{gather}.{index}"',
        'return f"{outer}|g{gather}.0"',
    ),
    Mutant(
        "leaves the gather out of a branch",
        "acts.py",
        'return f"{outer}|g{gather}.{index}"',
        'return f"{outer}|g0.{index}"',
    ),
    Mutant(
        "leaves the scope out of a wait",
        "acts.py",
        'key = _digest(scope, "wait", kind, n)',
        'key = _digest("wait", kind, n)',
    ),
    Mutant(
        "leaves the scope out of a sub-agent",
        "acts.py",
        'key = _digest(scope, "span", agent, n)',
        'key = _digest("span", agent, n)',
    ),
    Mutant(
        "leaves a provider's id out of a key",
        "acts.py",
        "which = (n,) if ident is None else (ident, n)",
        "which = (n,)",
    ),
    Mutant(
        "leaves the kind out of a key", "acts.py", "_digest(scope, name, *which, kind)", "_digest(scope, name, *which)"
    ),
    Mutant("derives another id in each try", "acts.py", r're.sub(r"/\d+", "", scope)', "scope"),
    Mutant("ignores a recorded answer", "replay.py", "return wait.completion\n", "return None\n"),
    Mutant(
        "ignores a recorded sub-agent",
        "replay.py",
        "recorded = logged.completion if logged else None",
        "recorded = None",
    ),
    Mutant(
        "allows an approval after a difference",
        "replay.py",
        "if not self._voices.enter(each).has_come_as_answered(answered_seq):",
        "if False:",
    ),
    Mutant(
        "looks for a difference only in the scope that asks",
        "replay.py",
        _CHECK_CHAIN,
        _CHECK_CHAIN.replace("self._journal.chain(scope)", "[scope]"),
    ),
    Mutant(
        "forgets what was taken back after an approval",
        "voices.py",
        "if any(said < answered_seq < taken for",
        "if False and any(said < answered_seq < taken for",
    ),
    Mutant(
        "forgets what was said after an approval",
        "voices.py",
        "return all(0 < each.last_seq < answered_seq for",
        "return True or all(0 < each.last_seq < answered_seq for",
    ),
    Mutant(
        "forgets what was not said again before an approval",
        "voices.py",
        "(self.logged and self.logged.seq < answered_seq)",
        "False",
    ),
    Mutant(
        "takes a crash for a raise",
        "journal.py",
        "(each.is_open or each.is_final or each.cut_off)",
        "(each.is_open or each.is_final)",
    ),
    Mutant("takes a raise for a crash", "replay.py", "if error and error.code in CUT_OFF:", "if False:"),
    Mutant("tries again what must not be", "replay.py", 'if last.cut_off and on_crash == "fail":', "if False:"),
    Mutant("forgets to learn", "voices.py", "self._unstored.popleft().seq = event.seq", "self._unstored.popleft()"),
    Mutant("enters a try again that was being closed", "replay.py", "elif each.is_closing:", "elif False:"),
    Mutant(
        "closes a try in whose branch a step began",
        "journal.py",
        "any(self.scope(each).begun for each in (scope, *self.branches_of(scope)))",
        "bool(self.scope(scope).begun)",
    ),
    Mutant(
        "closes outer things first",
        "replay.py",
        "for each in reversed(self._journal.open.values()):",
        "for each in self._journal.open.values():",
    ),
    Mutant(
        "closes when it is only asked how",
        "replay.py",
        "return [emit for _, emit in self._what_closes(EventError(code=code, message=message))]",
        "return self.close_all(code=code, message=message)",
    ),
    Mutant(
        "leaves waits open at the end",
        "replay.py",
        "if scope == RUN or not isinstance(each, LoggedWait) else []",
        "if not isinstance(each, LoggedWait) else []",
    ),
    Mutant(
        "closes a wait that may still be answered",
        "replay.py",
        "if scope == RUN or not isinstance(each, LoggedWait) else []",
        "if True else []",
    ),
    Mutant(
        "ends a sub-agent and not its words", "replay.py", "emits = self.end_scope(span.scope)", "emits = list[Emit]()"
    ),
    Mutant(
        "says nothing of whose message it is", "voices.py", "span=voice.span or msgspec.UNSET", "span=msgspec.UNSET"
    ),
    Mutant(
        "says nothing of whose sub-agent it is",
        "replay.py",
        "parent=voice.span, input=input",
        "parent=None, input=input",
    ),
    Mutant(
        "says that a parked run goes on",
        "replay.py",
        "reason=reason))] if reason else []",
        'reason=reason or "drained"))]',
    ),
    Mutant(
        "counts no words of branches",
        "voices.py",
        "for branch in branches.get(n, ()) for text in",
        "for branch in list[str]() for text in",
    ),
)
