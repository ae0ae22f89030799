"""What the scopes of one attempt say, matched against what the log has of each.

One position per scope is all the state::

    sayings of a scope   A  B  C│ D  E       `said` = 3: this attempt has said A B C
                                └ address 3: what it says next is compared with D

    D again   swallowed          anything else   superseded{D, E}, then that under a new id
    nothing   the scope ends: superseded{D, E}
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from runwire.protocol.acts import RUN, Emit
from runwire.protocol.events import (
    AgentThinking,
    Custom,
    EventType,
    MessageStarted,
    StoredEvent,
    decode_data,
)
from runwire.protocol.journal import Act, Journal, ScopeLog
from runwire.protocol.sayings import Kind, Saying, completion, deltas, same_words, superseded

__all__ = ["Voice", "Voices"]


@dataclass(slots=True, eq=False)
class Voice:
    """How far this attempt has come in a scope."""

    scope: str
    log: ScopeLog
    span: str | None  # the sub-agent that speaks
    said: int = 0  # how many sayings of `log` this attempt has said, or begun
    open: Saying | None = None  # the message or stream it is in: the last of those
    at: int = 0  # how many code points of `open` it has said
    begun: int = 0  # how many steps, waits and sub-agents of `log` it has begun
    named: Counter[tuple[str | None, ...]] = field(default_factory=Counter)  # the same and what it derived, by name
    gathers: list[tuple[int, list[str]]] = field(default_factory=list)  # sayings before it, and its branches
    has_differed: bool = False
    is_ended: bool = False

    @property
    def logged(self) -> Saying | None:
        """Return what the log has at the next address."""
        return self.log.sayings[self.said] if self.said < len(self.log.sayings) else None

    @property
    def logged_act(self) -> Act | None:
        """Return the next step, wait or sub-agent that the log has."""
        return self.log.begun[self.begun] if self.begun < len(self.log.begun) else None

    def say(self, saying: Saying) -> None:
        """Move past the next address; the saying is the one there, or a new one."""
        if self.said == len(self.log.sayings):
            self.log.sayings.append(saying)
        self.said += 1

    def begin(self, *name: str | None) -> None:
        """Move past the next step, wait or sub-agent; what it is called counts for the key of the one after it."""
        self.begun += 1
        self.named[name] += 1

    def has_come_as_answered(self, answered_seq: int) -> bool:
        """Return whether this attempt has said exactly what stood here when a wait inside was answered."""
        if self.has_differed or (self.logged and self.logged.seq < answered_seq):
            return False
        if self.open and self.at < self.open.length:
            return False
        if any(said < answered_seq < taken for said, taken in self.log.taken):
            return False
        return all(0 < each.last_seq < answered_seq for each in self.log.sayings[: self.said])


class Voices:
    """The scopes that this attempt has entered.

    Args:
        journal: what the log has; what is said here is added to it.
        new_id: makes an id from a prefix.
    """

    def __init__(self, journal: Journal, new_id: Callable[[str], str]) -> None:
        self._journal = journal
        self._new_id = new_id
        self._voices: dict[str, Voice] = {}
        self._unstored: deque[Saying] = deque()  # whole sayings of this attempt whose seq `learn` will tell

    def __contains__(self, scope: str) -> bool:
        """Return whether this attempt has entered a scope: what is said there is its own from then on."""
        return scope in self._voices

    def enter(self, scope: str) -> Voice:
        """Return how far a scope has come; from the first call on it is this attempt's own."""
        voice = self._voices.get(scope)
        if voice is None:
            voice = Voice(scope, self._journal.scope(scope), self._journal.span_of(scope))
            self._voices[scope] = voice
        return voice

    def learn(self, stored: Iterable[StoredEvent]) -> None:
        """Take the seqs of what of this attempt was stored."""
        for event in stored:
            is_thought = event.type == EventType.AGENT_THINKING and decode_data(event).thinking is None
            if is_thought or event.type == EventType.CUSTOM:
                self._unstored.popleft().seq = event.seq

    # ── saying ───────────────────────────────────────────────────────────────────────────────────────────

    def say_whole(self, scope: str, kind: Kind, words: AgentThinking | Custom) -> list[Emit]:
        """Say a whole thought or custom event."""
        voice = self.enter(scope)
        emits = self.close(voice) if voice.open else []
        logged = voice.logged
        if logged and same_words(logged.words, words):
            voice.say(logged)
            return emits
        if logged:
            emits += self._take_back(voice)
        saying = Saying(kind=kind, words=words, is_ended=True)
        voice.say(saying)
        self._unstored.append(saying)
        emits.append(Emit(words, scope))
        return emits

    def say_piece(self, scope: str, kind: Kind, text: str) -> list[Emit]:
        """Go on in the open message or stream, or begin one."""
        if not text:
            return []
        voice = self.enter(scope)
        if voice.open and voice.open.kind is kind:
            return self.go_on(voice, text)
        return [*self.close(voice), *self.open(voice, kind), *self.go_on(voice, text)]

    def open(self, voice: Voice, kind: Kind) -> list[Emit]:
        """Begin a message or stream."""
        logged = voice.logged
        if logged and logged.kind is kind:
            voice.say(logged)
            voice.open, voice.at = logged, 0
            return []
        emits = self._take_back(voice) if logged else []
        return [*emits, *self._open_new(voice, kind)]

    def _open_new(self, voice: Voice, kind: Kind) -> list[Emit]:
        saying = Saying(kind=kind, id=self._new_id("msg" if kind is Kind.MESSAGE else "thk"))
        voice.say(saying)
        voice.open, voice.at = saying, 0
        if kind is Kind.STREAM:
            return []
        return [Emit(MessageStarted(message=saying.id, span=voice.span or msgspec.UNSET), voice.scope)]

    def go_on(self, voice: Voice, text: str) -> list[Emit]:
        """Go on in what is open."""
        saying = voice.open
        assert saying is not None, "only called after open"
        if not saying.allows(text, at=voice.at):
            return self._say_anew(voice, saying, saying.text[: voice.at] + text)
        new = text[saying.length - voice.at :]
        voice.at += len(text)
        if new:
            saying.last_seq = 0
        return [Emit(delta, voice.scope) for delta in deltas(saying, new)]

    def _say_anew(self, voice: Voice, saying: Saying, text: str) -> list[Emit]:
        """Take the open saying back with all after it and say `text`, its part so far, in a new one."""
        voice.said -= 1
        return [*self._take_back(voice), *self._open_new(voice, saying.kind), *self.go_on(voice, text)]

    def close(self, voice: Voice, kind: Kind | None = None) -> list[Emit]:
        """End what the scope has open. Whatever it begins next does this first, spoken or swallowed."""
        saying, emits = voice.open, list[Emit]()
        if saying and kind and saying.kind is not kind:
            return []
        if saying and voice.at < saying.length:
            emits = self._say_anew(voice, saying, saying.text[: voice.at])
            saying = voice.open
        voice.open = None
        if saying is None or saying.is_ended:
            return emits
        saying.is_ended = True
        return [*emits, Emit(completion(saying), voice.scope)]

    def end(self, voice: Voice) -> list[Emit]:
        """End the scope: what the log has beyond what it said, also in branches that it did not begin, goes."""
        emits = self.close(voice)
        if voice.logged:
            emits += self._take_back(voice)
        left = [self._journal.scope(each) for each in self._journal.branches_of(voice.scope) if each not in self]
        taken = [saying for log in left for saying in self._cut(log)]
        return [*emits, *(Emit(each, voice.scope) for each in superseded(taken, "differs"))]

    # ── taking back ──────────────────────────────────────────────────────────────────────────────────────

    def _take_back(self, voice: Voice) -> list[Emit]:
        """Take back what the log has from the next address on: in the scope, and in scopes inside it after that.

        What finished steps and sub-agents said stands: their results are what this attempt goes on with. So does
        what this attempt said itself in scopes that it entered.
        """
        voice.has_differed = True
        seq = voice.log.sayings[voice.said].seq
        taken = self._cut(voice.log, voice.said)
        for scope in self._journal.unfinished(voice.scope):
            if scope not in self:
                log = self._journal.scope(scope)
                # Once in order, they are still so: the first one after the difference, and all after that.
                taken += self._cut(log, sum(each.seq < seq for each in log.sayings))
        return [Emit(each, voice.scope) for each in superseded(taken, "differs")]

    def take_back_all(self, scope: str) -> list[Emit]:
        """Take back all that a try which is being closed has said, in its branches too."""
        scopes = (scope, *self._journal.branches_of(scope))
        taken = [saying for each in scopes for saying in self._cut(self._journal.scope(each))]
        return [Emit(each, scope) for each in superseded(taken, "try_closed")]

    def _cut(self, log: ScopeLog, at: int = 0) -> list[Saying]:
        taken = log.sayings[at:]
        del log.sayings[at:]
        return taken

    def unfinished(self, scope: str) -> list[tuple[Saying, str]]:
        """Return the messages and streams that are open in a scope and its branches, and where; inner ones first."""
        scopes = reversed((scope, *self._journal.branches_of(scope)))
        return [
            (saying, each) for each in scopes for saying in self._journal.scope(each).sayings if not saying.is_ended
        ]

    # ── what was said ────────────────────────────────────────────────────────────────────────────────────

    def texts(self, scope: str = RUN) -> list[str]:
        """Return the messages of a scope and its branches in this attempt, branch after branch."""
        voice = self._voices.get(scope)
        if voice is None:
            return []
        branches: dict[int, list[str]] = {}  # by how much was said before them
        for said, scopes in voice.gathers:
            branches.setdefault(said, []).extend(scopes)
        texts = list[str]()
        for n in range(voice.said + 1):
            texts += [text for branch in branches.get(n, ()) for text in self.texts(branch)]
            each = voice.log.sayings[n] if n < voice.said else None
            if each and each.kind is Kind.MESSAGE:
                texts.append(each.text[: voice.at] if each is voice.open else each.text)
        return texts
