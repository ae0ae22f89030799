"""What a look at one thing came to. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Finding", "State", "by_sentence", "fault", "fine", "skipped", "warning"]

State = Literal["ok", "warning", "fault", "skipped"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `what` stands for itself, as a setting's name does, and is the same in each release."""

    what: str
    state: State
    found: str  # never a secret
    fix: str | None = None  # which setting or command mends it; None: nothing is to be mended


def fine(what: str, found: str) -> Finding:
    """Say that something is as it should be."""
    return Finding(what=what, state="ok", found=found)


def skipped(what: str, found: str) -> Finding:
    """Say why something was not looked at."""
    return Finding(what=what, state="skipped", found=found)


def warning(what: str, found: str, fix: str) -> Finding:
    """Say what a server starts with, and somebody may regret."""
    return Finding(what=what, state="warning", found=found, fix=fix)


def fault(what: str, found: str, fix: str) -> Finding:
    """Say what keeps a server from starting, or from doing what it is for."""
    return Finding(what=what, state="fault", found=found, fix=fix)


def by_sentence(what: str, sentence: str, *, otherwise: str, between: str = ": ") -> Finding:
    """Return the fault that a sentence tells whose last part says what to do.

    Args:
        what: it is about.
        sentence: such as `The database is empty: run this.`
        otherwise: what to do if the sentence does not say it.
        between: what stands before the part that does.
    """
    found, has_fix, fix = sentence.rstrip(".").rpartition(between)
    return fault(what, found if has_fix else fix, fix if has_fix else otherwise)
