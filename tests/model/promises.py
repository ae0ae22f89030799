"""What no history may contain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.model.state import ENDED, Segment, State

if TYPE_CHECKING:
    from tests.model.scenarios import Scenario

__all__ = ["Broken", "Journal", "check_log", "is_good", "journal"]


class Broken(Exception):
    """A promise is broken; the text says which."""


class Journal:
    """What a log says of a run: how far it has come in its program. Reading it checks the order of its events."""

    def __init__(self, program: tuple[str, ...]) -> None:
        self.program = program
        self.is_started = False
        self.is_ended = False
        self.place = 0
        self.stage = 0
        self.told = [""] * len(program)
        self._has_message = False

    def read(self, kind: str, place: int, by: str) -> None:
        """Take the next event."""
        if self.is_ended:
            raise Broken("an event follows the terminal event")
        if not self._has_message and kind != "user":
            raise Broken("a run begins without its message")
        if kind not in ("user", "started", "cancelled") and not self.is_started:
            raise Broken("something is said before agent_started")
        getattr(self, kind)(place, by)

    def user(self, _place: int, _by: str) -> None:
        self._expect(not self._has_message, "a message is stored twice")
        self._has_message = True

    def started(self, _place: int, _by: str) -> None:
        self._expect(not self.is_started, "a run starts twice")
        self.is_started = True

    def retrying(self, _place: int, _by: str) -> None:
        pass

    def said(self, place: int, _by: str) -> None:
        self._expect(self._is_at(place, "say"), "something is said twice, or lost")
        self.place += 1

    def executing(self, place: int, _by: str) -> None:
        self._expect(self._is_at(place, "tool") and self.stage == 0, "a step is begun twice, or out of turn")
        self.stage = 1

    def cut(self, place: int, _by: str) -> None:
        self._expect(self._is_at(place, "tool") and self.stage == 1, "a try is closed that is not open")
        self.stage = 0

    def done(self, place: int, _by: str) -> None:
        self._expect(self._is_at(place, "tool") and self.stage == 1, "a step is completed twice")
        self.place, self.stage = place + 1, 0

    def waiting(self, place: int, _by: str) -> None:
        self._expect(self._is_at(place, "ask") and self.stage == 0, "a wait is begun twice")
        self.stage = 1

    def resumed(self, place: int, by: str) -> None:
        self._expect(self._is_at(place, "ask") and self.stage == 1, "a wait is closed twice")
        self.place, self.stage = place + 1, 0
        self.told[place] = by

    def completed(self, _place: int, _by: str) -> None:
        self._expect(self.place == len(self.program), "a run completes before its end")
        self.is_ended = True

    def cancelled(self, _place: int, _by: str) -> None:
        self._expect(self.stage == 0, "a run ends with a step or wait open")
        self.is_ended = True

    def _is_at(self, place: int, op: str) -> bool:
        return place == self.place < len(self.program) and self.program[place] == op

    def _expect(self, is_so: bool, what: str) -> None:
        if not is_so:
            raise Broken(what)


def journal(program: tuple[str, ...], log: Iterable[Segment], run: int) -> Journal:
    """Read what a log says of a run."""
    read = Journal(program)
    for segment in log:
        if segment.run == run:
            for event in segment.events:
                read.read(event.kind, event.place, event.by)
    return read


def check_log(scenario: Scenario, log: tuple[Segment, ...], run: int) -> None:
    """Look at a log that has just grown by a segment of this run."""
    journal(scenario.programs[run], log, run)
    stored = [(it.attempt, it.ordinal) for it in log if it.run == run and it.ordinal >= 0]
    if len(stored) != len(set(stored)):
        raise Broken("a batch is stored twice")


def is_good(scenario: Scenario, state: State) -> bool:
    """Return whether only people have anything to do: each run has ended, waits for them, or is behind such a one."""
    resting: set[int] = set()
    for key, run in enumerate(state.runs):
        thread = scenario.threads[key]
        if run.status in ENDED or (run.status == "queued" and thread in resting):
            continue
        if run.status == "waiting" and not run.is_woken and not run.is_called_off and "open" in run.waits:
            resting.add(thread)
            continue
        return False
    return True
