"""What the model is made to look at: programs, people, and how many faults of which kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tests.model.state import Event, Run, Segment, State, Worker

__all__ = ["CAMPAIGN", "FAULTS", "SCENARIOS", "Person", "Scenario"]

FAULTS: Final = ("kill", "stop", "blind", "outage", "lose", "delay")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Something that somebody does once, at any time at which it is possible."""

    verb: str  # "send", "answer", "timer", "cancel"
    run: int = 0
    place: int = 0  # of the wait in the run's program
    by: str = ""  # who answers, or on_active of a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One search."""

    name: str
    programs: tuple[tuple[str, ...], ...]  # per run: "say", "tool", "ask"
    threads: tuple[int, ...] = (0,)  # per run
    people: tuple[Person, ...] = ()
    faults: dict[str, int] = field(default_factory=dict)
    at_most: int = 2  # faults in all
    user_limit: int = 2
    workers: int = 2  # 1: they live one after the other
    has_leases: bool = True  # False: a data file, held by one process
    renews: bool = False  # renewals are calls of their own, whose answers may come late; else only with the clock
    drains: bool = False  # workers give runs back

    def begin(self) -> State:
        """Return the first state: one message is stored, the workers are well."""
        second = Worker() if self.workers == 2 else Worker(mode="dead")
        return State(
            runs=(Run(waits=("",) * len(self.programs[0])),),
            logs=tuple(
                (Segment(0, 0, -1, (Event("user"),)),) if thread == self.threads[0] else ()
                for thread in sorted(set(self.threads))
            ),
            workers=(Worker(), second),
            people=tuple(range(len(self.people))),
            faults=(*(self.faults.get(kind, 0) for kind in FAULTS), self.at_most),
        )


_ANSWERS: Final = (Person(verb="answer", by="Ann"), Person(verb="answer", by="Bob"))

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="append",
            programs=(("say", "say"),),
            faults={"kill": 1, "lose": 1, "delay": 1},
        ),
        Scenario(
            name="zombie",
            programs=(("say",),),
            faults={"kill": 1, "stop": 1, "delay": 1},
        ),
        Scenario(
            name="step",
            programs=(("tool",),),
            faults={"kill": 1, "stop": 1, "blind": 1, "lose": 1},
            at_most=1,
            renews=True,
        ),
        Scenario(
            name="outage",
            programs=(("tool",),),
            faults={"outage": 1, "blind": 1, "delay": 1},
        ),
        Scenario(
            name="wait",
            programs=(("ask",),),
            people=_ANSWERS,
            faults={"kill": 1, "stop": 1, "lose": 1},
            at_most=1,
        ),
        Scenario(
            name="cancel",
            programs=(("ask",),),
            people=(Person(verb="answer", by="Ann"), Person(verb="timer", by="timer"), Person(verb="cancel")),
            faults={"kill": 1, "lose": 1},
            at_most=1,
        ),
        Scenario(
            name="hand-over",
            programs=(("tool",),),
            faults={"stop": 1, "delay": 1},
            at_most=1,
            drains=True,
        ),
        Scenario(
            name="more messages",
            programs=((), (), ()),
            threads=(0, 0, 0),
            people=(
                Person(verb="send", run=1, by="enqueue"),
                Person(verb="send", run=2, by="enqueue"),
                Person(verb="send", run=2, by="interrupt"),
            ),
        ),
        Scenario(
            name="two threads",
            programs=(("say",), ("say",)),
            threads=(0, 1),
            people=(Person(verb="send", run=1, by="enqueue"),),
            user_limit=1,
            faults={"kill": 1},
            at_most=1,
        ),
        Scenario(
            name="data file",
            programs=(("tool", "ask"),),
            people=(Person(verb="answer", place=1, by="Ann"), Person(verb="cancel")),
            faults={"kill": 1, "lose": 1},
            workers=1,
            has_leases=False,
        ),
    )
}

_LATER: Final = (Person(verb="answer", place=1, by="Ann"), Person(verb="answer", place=1, by="Bob"))

# Up to a million states each: a minute or two, and 2 GB.
CAMPAIGN: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="step and wait",
            programs=(("tool", "ask"),),
            people=(*_LATER, Person(verb="cancel")),
            faults={"kill": 1, "stop": 1, "lose": 1},
            at_most=1,
            drains=True,
        ),
        Scenario(
            name="wait, twice wrong",
            programs=(("ask",),),
            people=(Person(verb="answer", by="Ann"), Person(verb="timer", by="timer"), Person(verb="cancel")),
            faults={"kill": 1, "lose": 1, "delay": 1},
        ),
        Scenario(
            name="outage, twice wrong",
            programs=(("tool",),),
            faults={"outage": 1, "blind": 1, "delay": 1, "stop": 1, "lose": 1},
            drains=True,
        ),
        Scenario(
            name="two waits of one person",
            programs=(("ask",), ("ask",)),
            threads=(0, 1),
            people=(
                Person(verb="send", run=1, by="enqueue"),
                Person(verb="answer", by="Ann"),
                Person(verb="answer", run=1, by="Ann"),
            ),
            user_limit=1,
            faults={"kill": 1},
            at_most=1,
        ),
        Scenario(
            name="interrupted wait",
            programs=(("ask",), (), ()),
            threads=(0, 0, 0),
            people=(
                Person(verb="send", run=1, by="enqueue"),
                Person(verb="send", run=2, by="interrupt"),
                Person(verb="answer", by="Ann"),
            ),
            faults={"kill": 1, "lose": 1},
            at_most=1,
        ),
        Scenario(
            name="stopped twice",
            programs=(("tool",),),
            faults={"kill": 1, "stop": 2, "blind": 1, "lose": 1},
            renews=True,
        ),
    )
}
