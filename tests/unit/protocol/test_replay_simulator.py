"""The replay matcher against random agents crashed everywhere, and the simulator against broken matchers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import Any

import pytest
from tests.unit.protocol.replay_simulator import campaign

from runwire.errors import ProtocolError, RunFailed
from runwire.protocol import replay, sayings
from runwire.protocol.events import EventType, MessageStarted, StoredEvent, Superseded
from runwire.protocol.journal import Journal, LoggedStep, Try
from runwire.protocol.replay import Emit, Replay, Step
from runwire.protocol.sayings import Kind, Saying

Break = Callable[[pytest.MonkeyPatch], None]


def test_runs_crashed_before_every_append_end_as_one_coherent_run() -> None:
    counts = campaign(range(40))
    assert counts["deterministic"] > 1_000
    assert counts["other words"] > 1_000


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_campaign_of_crashed_runs() -> None:
    counts = campaign(range(10_000, 10_040), again=None)
    print(dict(counts))
    assert counts.total() > 28_000


# ── broken matchers: each clause left out shows something twice, lost, or out of order ───────────────────


def no_prefix_compare(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Saying, "allows", lambda self, text, *, at: not (len(text) > self.length - at and self.is_ended))


def goes_on_after_the_logged_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Saying, "allows", lambda self, text, *, at: self.text.startswith(text[: self.length - at], at))


def ends_before_the_logged_text(patch: pytest.MonkeyPatch) -> None:
    close = Replay._close

    def hasty(self: Replay, voice: Any) -> list[Emit]:
        voice.at = voice.open.length if voice.open else 0
        return close(self, voice)

    patch.setattr(Replay, "_close", hasty)


def swallowed_saying_leaves_message_open(patch: pytest.MonkeyPatch) -> None:
    say_whole = Replay._say_whole

    def lax(self: Replay, scope: str, saying: Saying, data: Any) -> list[Emit]:
        voice = self._voice(scope)
        logged, was_open, at = voice.logged, voice.open, voice.at
        emits = say_whole(self, scope, saying, data)
        if logged and not emits:
            voice.open, voice.at = was_open, at
        return emits

    patch.setattr(Replay, "_say_whole", lax)


def step_leaves_message_open(patch: pytest.MonkeyPatch) -> None:
    begin_step = Replay.begin_step

    def lax(self: Replay, scope: str, name: str, args: Any) -> Step:
        voice = self._voice(scope)
        was_open, voice.open = voice.open, None
        step = begin_step(self, scope, name, args)
        voice.open = was_open
        return step

    patch.setattr(Replay, "begin_step", lax)


def only_the_first_saying_is_taken_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replay, "superseded", lambda taken, reason: sayings.superseded(taken[:1], reason))


def the_first_saying_is_not_taken_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replay, "superseded", lambda taken, reason: sayings.superseded(taken[1:], reason))


def nothing_is_taken_back_at_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replay, "end_scope", lambda self, scope: self._close(self._voice(scope)))


def superseded_is_not_read(patch: pytest.MonkeyPatch) -> None:
    readers = {kind: read for kind, read in Journal._readers.items() if kind != EventType.SUPERSEDED}
    patch.setattr(Journal, "_readers", MappingProxyType(readers))


def superseded_keeps_its_address(patch: pytest.MonkeyPatch) -> None:
    def lax(self: Journal, _event: StoredEvent, data: Superseded) -> None:
        ids, seqs = {*data.messages, *data.thinking}, set(data.events)
        for scope in self.scopes.values():
            for each in scope.sayings:
                if each.id in ids or each.seq in seqs:
                    each.kind, each.given, each.is_ended = Kind.CUSTOM, "taken back", True

    patch.setattr(Journal, "_readers", MappingProxyType({**Journal._readers, EventType.SUPERSEDED: lax}))


def superseded_events_are_not_read(patch: pytest.MonkeyPatch) -> None:
    read = Journal._superseded

    def lax(self: Journal, event: StoredEvent, data: Superseded) -> None:
        read(self, event, Superseded(messages=data.messages, thinking=data.thinking, events=[], reason=data.reason))

    patch.setattr(Journal, "_readers", MappingProxyType({**Journal._readers, EventType.SUPERSEDED: lax}))


def new_id_on_continuation(patch: pytest.MonkeyPatch) -> None:
    go_on = Replay._go_on

    def lax(self: Replay, voice: Any, text: str) -> list[Emit]:
        emits = go_on(self, voice, text)
        is_continued = emits and voice.open.kind is Kind.MESSAGE and voice.open.seq
        if not is_continued:
            return emits
        voice.open.id, voice.open.seq = self._new_id("msg"), 0
        return [Emit(MessageStarted(message=voice.open.id), voice.scope), *emits]

    patch.setattr(Replay, "_go_on", lax)


def offset_in_utf16(patch: pytest.MonkeyPatch) -> None:
    put = Saying.put

    def lax(self: Saying, offset: int, text: str) -> None:
        put(self, offset, text)
        self.length = len(self.text.encode("utf-16-le")) // 2

    patch.setattr(Saying, "put", lax)


def offset_in_bytes(patch: pytest.MonkeyPatch) -> None:
    put = Saying.put

    def lax(self: Saying, offset: int, text: str) -> None:
        put(self, offset, text)
        self.length = len(self.text.encode())

    patch.setattr(Saying, "put", lax)


def open_tries_stay_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replay, "_close_tries", lambda self, cut_off, **how: [])


def every_open_try_is_closed(patch: pytest.MonkeyPatch) -> None:
    start = Replay.start

    def eager(self: Replay, *args: Any, **kwargs: Any) -> list[Emit]:
        steps = {key: scope.steps for key, scope in self._journal.scopes.items()}
        for scope in self._journal.scopes.values():
            scope.steps = []
        emits = start(self, *args, **kwargs)
        for key, logged in steps.items():
            self._journal.scopes[key].steps = logged
        return emits

    patch.setattr(Replay, "start", eager)


def closed_try_keeps_its_words(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replay, "_take_back_all", lambda self, cut: [])


def try_is_closed_before_its_words_are_taken_back(patch: pytest.MonkeyPatch) -> None:
    close_tries = Replay._close_tries

    def hasty(self: Replay, cut_off: Iterable[Try], **how: Any) -> list[Emit]:
        emits = close_tries(self, cut_off, **how)
        return sorted(emits, key=lambda emit: isinstance(emit.data, Superseded))

    patch.setattr(Replay, "_close_tries", hasty)


def result_that_is_not_final_is_returned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Try, "is_final", property(lambda self: self.completion is not None))


def finished_step_is_done_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Try, "is_final", property(lambda self: False))


def new_try_has_the_old_number(patch: pytest.MonkeyPatch) -> None:
    begin_try = Replay._begin_try

    def lax(self: Replay, step: LoggedStep, scope: str, emits: list[Emit]) -> Step:
        if step.tries and step.tries[-1].seq:
            step.tries.pop()
        return begin_try(self, step, scope, emits)

    patch.setattr(Replay, "_begin_try", lax)


def what_finished_steps_said_is_taken_back(patch: pytest.MonkeyPatch) -> None:
    unfinished = Replay._unfinished

    def lax(self: Replay, scope: str, *, after: int = 0) -> list[Try]:
        if not after:
            return unfinished(self, scope)
        return [each for each in self._journal.tries.values() if each.seq > after]

    patch.setattr(Replay, "_unfinished", lax)


def tries_begun_after_a_difference_keep_their_words(patch: pytest.MonkeyPatch) -> None:
    unfinished = Replay._unfinished

    def lax(self: Replay, scope: str, *, after: int = 0) -> list[Try]:
        return [] if after else unfinished(self, scope)

    patch.setattr(Replay, "_unfinished", lax)


def new_words_come_before_the_old_are_taken_back(patch: pytest.MonkeyPatch) -> None:
    say_whole = Replay._say_whole

    def hasty(self: Replay, scope: str, saying: Saying, data: Any) -> list[Emit]:
        return sorted(say_whole(self, scope, saying, data), key=lambda emit: isinstance(emit.data, Superseded))

    patch.setattr(Replay, "_say_whole", hasty)


def logged_message_counts_as_said(patch: pytest.MonkeyPatch) -> None:
    def lax(self: Replay) -> list[Saying]:
        return [each for each in self._voice("").log.sayings if each.kind is Kind.MESSAGE]

    patch.setattr(Replay, "_messages", lax)


def swallowed_saying_is_told_again(patch: pytest.MonkeyPatch) -> None:
    say_whole = Replay._say_whole

    def lax(self: Replay, scope: str, saying: Saying, data: Any) -> list[Emit]:
        emits = say_whole(self, scope, saying, data)
        if not emits:
            self._unstored.append(saying)
        return emits or [Emit(data, scope)]

    patch.setattr(Replay, "_say_whole", lax)


def whole_sayings_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replay, "same_json", lambda one, other: True)


def kinds_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    def lax(self: Replay, voice: Any, kind: Kind) -> list[Emit]:
        logged: Saying | None = voice.logged
        if logged is None:
            return self._open_new(voice, kind)
        voice.say(logged)
        voice.open, voice.at = logged, 0
        return []

    patch.setattr(Replay, "_open", lax)


def closing_forgets_the_streams_of_tries(patch: pytest.MonkeyPatch) -> None:
    cut_streams = Replay._cut_streams
    patch.setattr(Replay, "_cut_streams", lambda self, scope: [] if scope else cut_streams(self, scope))


def closing_takes_only_what_was_said_again(patch: pytest.MonkeyPatch) -> None:
    def lax(self: Replay, scope: str) -> list[Emit]:
        return self._close(self._voice(scope))

    patch.setattr(Replay, "_cut_streams", lax)


def parent_try_is_left_out_of_the_key(patch: pytest.MonkeyPatch) -> None:
    key = replay.step_key
    patch.setattr(replay, "step_key", lambda scope, name, n: key("", name, n))


BROKEN: Sequence[Break] = (
    no_prefix_compare,
    goes_on_after_the_logged_end,
    ends_before_the_logged_text,
    swallowed_saying_leaves_message_open,
    step_leaves_message_open,
    only_the_first_saying_is_taken_back,
    the_first_saying_is_not_taken_back,
    nothing_is_taken_back_at_the_end,
    superseded_is_not_read,
    superseded_keeps_its_address,
    superseded_events_are_not_read,
    new_id_on_continuation,
    offset_in_utf16,
    offset_in_bytes,
    open_tries_stay_open,
    every_open_try_is_closed,
    closed_try_keeps_its_words,
    try_is_closed_before_its_words_are_taken_back,
    result_that_is_not_final_is_returned,
    finished_step_is_done_again,
    new_try_has_the_old_number,
    what_finished_steps_said_is_taken_back,
    tries_begun_after_a_difference_keep_their_words,
    new_words_come_before_the_old_are_taken_back,
    logged_message_counts_as_said,
    swallowed_saying_is_told_again,
    whole_sayings_are_not_compared,
    kinds_are_not_compared,
    closing_forgets_the_streams_of_tries,
    closing_takes_only_what_was_said_again,
    parent_try_is_left_out_of_the_key,
)


# How a broken matcher shows: a check of the simulator, an illegal order, taking back what is not there, or
# an agent called nondeterministic that is not. Anything else would be a mutant that is broken itself.
_SEEN = (AssertionError, ProtocolError, KeyError, ValueError, RunFailed)


@pytest.mark.parametrize("mutant", BROKEN, ids=lambda mutant: mutant.__name__)
def test_simulator_sees_a_matcher_where(mutant: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises(_SEEN):
        campaign(range(60), again=1)
