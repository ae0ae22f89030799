"""The rules that keep runs whole: each can be left out of the model, to see what it is there for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["RULES", "Rule"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, and what the model finds as soon as it is left out."""

    name: str  # as `Database.has` is asked for it, and as docs/explanation/durability.md calls it
    scenario: str  # in which a history without it breaks a promise
    breaks: str  # which one


_STUCK: Final = "a run never ends, although a worker is well"
_TAKEN: Final = "a run is taken from a worker that was well"
_BESIDE: Final = "a step is begun while another worker holds the run"
_DURING: Final = "a run is taken during a short step begun under a lease"
_CLOSED: Final = "a wait is closed twice"
_REFUSED: Final = "the rightful owner is refused"

RULES: Final = (
    # Append.
    Rule("attempt fence", "zombie", "a worker that had lost the run wrote to its log"),
    Rule("expected ordinal", "append", "a run starts twice"),
    Rule("a batch is frozen when it is sent", "append", _REFUSED),
    Rule("a stored batch is known again", "append", _REFUSED),
    Rule("number and event in one write", "more messages", "a number is shown before a smaller one is written"),
    Rule("terminal event and status in one write", "append", "a run is claimed whose log has its terminal event"),
    Rule("each write is one statement", "hand-over", _STUCK),
    Rule("overtaken by an answer", "cancel", _CLOSED),
    Rule("a run's end closes its waits", "cancel", "an event follows the terminal event"),
    # Ownership.
    Rule("only a lease that has run out is taken", "step", _TAKEN),
    Rule("only who was connected for a lease takes over", "outage", _TAKEN),
    Rule("a claim says how long it is good for", "outage", _TAKEN),
    Rule("a lease that was given since is not taken", "outage", "a run is taken from itself"),
    Rule("a claim names what is held", "data file", _STUCK),
    Rule("renewal names the attempt", "step", _BESIDE),
    Rule("giving back names the attempt", "hand-over", _BESIDE),
    Rule("who is leaving learns of its loss too", "zombie", _STUCK),
    Rule("a lease counts from when it was asked for", "step", _BESIDE),
    Rule("a lease counts as over a margin early", "step", _DURING),
    Rule("the lease is looked at again before the call", "step", _DURING),
    Rule("a tool is announced before it is called", "step", "a tool is called and the log does not say so"),
    Rule("an attempt goes through the log of the others", "append", "something is said twice, or lost"),
    # Turns.
    Rule("one active run per thread", "more messages", "two runs of a thread are active, or out of turn"),
    Rule("the oldest of a thread first", "more messages", "two runs of a thread are active, or out of turn"),
    Rule("an interrupt cancels what is queued", "more messages", "a queued run goes on although it was interrupted"),
    Rule("a user's row is locked before counting", "two threads", "a user has more running runs than the limit"),
    # Waits.
    Rule("first answer wins", "wait", _CLOSED),
    Rule("a timer looks whether it was answered", "cancel", _CLOSED),
    Rule("an answer wakes a parked run", "wait", _STUCK),
    Rule("who was woken is claimed", "wait", _STUCK),
    Rule("parking sees answers", "wait", _STUCK),
    Rule("parking sees a cancel", "cancel", _STUCK),
    Rule("a cancel ends only what nobody holds", "cancel", "a run ends with a step or wait open"),
    Rule("a cancel leaves a woken run to who claims it", "cancel", _CLOSED),
)
