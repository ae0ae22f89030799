"""The port of tracing, as far as an attempt goes. What is traced, and by which names, says `app.tracing` alone.

Nobody is traced unless the operator wants it: then `UNTRACED` stands here, and a step costs four calls that do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

from runwire.protocol.acts import Step
from runwire.protocol.events import StoredEvent
from runwire.storage.base import Claim

if TYPE_CHECKING:
    from runwire.agents.attempt import Used

__all__ = ["UNTRACED", "Outcome", "RunTrace", "Traced", "Tracing"]

Outcome = Literal["completed", "failed", "cancelled", "handed_over", "parked"]


class Traced(Protocol):
    """What is going on as long as it is entered. Agent loop only; how it was left is its outcome."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, _: object, /) -> None: ...

    def returned(self, value: Any) -> None:
        """Learn what came of it; shown only where the operator wants content."""
        ...


class RunTrace(Protocol):
    """The trace of one attempt. Nothing here waits or raises."""

    def begin(self, message: str, logged: Sequence[StoredEvent]) -> None:
        """Learn that the code is about to start. Control loop.

        Args:
            message: what the person wrote.
            logged: the run's events so far: who was lost before has left its own there.
        """
        ...

    def end(self, outcome: Outcome, *, error: str = "", output: Any = None) -> None:
        """Learn how the attempt ended. Never said of one that is lost: who takes the run over knows. Control loop."""
        ...

    def code(self) -> Traced:
        """Return what the agent's code runs in. Agent loop."""
        ...

    def step(self, step: Step, *, asks: str | None, given: Any) -> Traced:
        """Return what one try runs in that is executed; what a replay returns is no try. Agent loop.

        Args:
            step: as it was begun.
            asks: name of the model or service that it asks.
            given: its arguments, as the author gave them.
        """
        ...

    def subagent(self, name: str, message: Any) -> Traced:
        """Return what a sub-agent runs in. Agent loop."""
        ...

    def used(self, used: Used) -> None:
        """Learn what was used: by the model step that goes on, and by the run. Agent loop."""
        ...


class Tracing(Protocol):
    """Makes traces of attempts."""

    def run(self, claim: Claim) -> RunTrace:
        """Return the trace of an attempt that has just been claimed. Control loop."""
        ...


class _Untraced:
    """Traces nothing: the attempt, its steps and all else at once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def returned(self, value: Any) -> None: ...

    def begin(self, message: str, logged: Sequence[StoredEvent]) -> None: ...

    def end(self, outcome: Outcome, *, error: str = "", output: Any = None) -> None: ...

    def code(self) -> Self:
        return self

    def step(self, step: Step, *, asks: str | None, given: Any) -> Self:
        return self

    def subagent(self, name: str, message: Any) -> Self:
        return self

    def used(self, used: Used) -> None: ...

    def run(self, claim: Claim) -> Self:
        return self


UNTRACED: Final = _Untraced()
