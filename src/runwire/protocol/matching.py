"""Whether what a scope begins is what the log has at that place, and what is said of an agent for which it is not."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from runwire.errors import RunFailed
from runwire.protocol.acts import RUN, outer_of_branch
from runwire.protocol.codes import RunFailure
from runwire.protocol.journal import Act, LoggedSpan, LoggedStep, LoggedWait
from runwire.protocol.sayings import same_json
from runwire.protocol.voices import Voice

__all__ = ["matched", "not_as_approved"]

A = TypeVar("A", LoggedStep, LoggedWait, LoggedSpan)


def matched(voice: Voice, begun: A) -> A | None:
    """Return what the log has at this place in the scope; None: nothing.

    Raises:
        RunFailed: `nondeterministic_agent`: it has something else.
    """
    logged = voice.logged_act
    if logged is None:
        return None
    if isinstance(logged, type(begun)) and logged.key == begun.key and same_json(_given(logged), _given(begun)):
        return logged
    raise RunFailed(
        f"Step {voice.begun + 1} of {_place(voice.scope)} ({logged.key}) was {_called(logged)} in an earlier attempt "
        f"and is {_called(begun)} now. Make the agent call the same tools with the same arguments each time.",
        code=RunFailure.NONDETERMINISTIC_AGENT,
        field=logged.key,
    )


def _given(act: Act) -> Any:
    if isinstance(act, LoggedStep):
        return act.args
    return act.input if isinstance(act, LoggedSpan) else [act.prompt, act.call]


def _called(act: Act) -> str:
    name = act.name if isinstance(act, LoggedStep) else act.agent if isinstance(act, LoggedSpan) else act.kind
    text = msgspec.json.encode(_given(act), order="sorted").decode()
    return f"{name} {text if len(text) <= 200 else text[:200] + '…'}"


def _place(scope: str) -> str:
    """Name a scope for people."""
    if scope == RUN:
        return "the run"
    if outer_of_branch(scope) is not None:
        return f"branch {scope}"
    return f"try {scope}" if "/" in scope else f"sub-agent {scope}"


def not_as_approved(scope: str, wait: str) -> RunFailed:
    """Return how a run fails that comes to an answered approval with other words."""
    return RunFailed(
        f"Before approval {wait} was given, {_place(scope)} had said something else than it says now: "
        "what was approved is not what would be done. Make the agent say the same each time.",
        code=RunFailure.NONDETERMINISTIC_AGENT,
        field=wait,
    )
