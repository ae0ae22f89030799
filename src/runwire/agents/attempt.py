"""The port between what an agent's code sees and the runtime behind it, so that this room knows no worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar, TypeVarTuple

import msgspec

from runwire.agents.tracing import RunTrace
from runwire.errors import RunwireError
from runwire.protocol.events import AgentResumed
from runwire.protocol.replay import Emit, Replay, Step
from runwire.resilience.breaker import Permit

__all__ = ["Attempt", "Begun", "Place", "Used"]

Ts = TypeVarTuple("Ts")


class _HasEmits(Protocol):
    @property
    def emits(self) -> list[Emit]: ...


Begun = TypeVar("Begun", bound=_HasEmits)


class Place(msgspec.Struct, eq=False, gc=False):
    """Where a task of the agent's code is in the tree of its run: the scope that it speaks for."""

    scope: str = ""  # "" the run, else a try, a sub-agent or a branch
    open_bytes: int = 0  # of the message that `write` streams into
    depth: int = 0  # sub-agents that it is within
    permit: Permit | None = None  # of the step it is in: what it says first is the first token of an answer


class Used(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one call of a model has used."""

    input_tokens: int
    output_tokens: int
    cost: float  # in the currency that the operator's limits are in
    is_new: bool  # else a replay tells of it again


class Attempt(Protocol):
    """What a Context needs of the attempt it belongs to; `runtime.speech.Speaker` is one. Agent loop only."""

    @property
    def places(self) -> Mapping[asyncio.Task[Any] | None, Place]:
        """Return the tasks that may speak, each with its place: the agent's own and its branches."""
        ...

    @property
    def trace(self) -> RunTrace:
        """Return what learns of steps and sub-agents that are executed."""
        ...

    def stray(self) -> RunwireError:
        """Return what to raise in a task that has no place: the run fails for it, if it is not over already."""
        ...

    async def say(
        self, speech: Callable[[Replay, *Ts], list[Emit]], *args: *Ts, blobs: Mapping[str, bytes] | None = None
    ) -> None:
        """Emit what the speech adds to the log; waits only for room in the run's buffer.

        Args:
            speech: a method of the run's matcher.
            *args: its arguments.
            blobs: values that these events name by `$ref`.

        Raises:
            RunEnded: the run is over for this code.
            RunFailed: it differs where it may not.
        """
        ...

    async def begin(self, speech: Callable[[Replay], Begun], *, blobs: Mapping[str, bytes] | None = None) -> Begun:
        """Emit the beginning of a sub-agent or of branches; return what the speech returned."""
        ...

    async def begin_step(
        self,
        speech: Callable[[Replay], Step],
        *,
        blobs: Mapping[str, bytes] | None = None,
        pause_s: float | None = None,
    ) -> Step:
        """Begin a step, or after a pause its next try.

        Returns once its beginning is committed and the worker may execute it, or at once if its result is recorded.
        If the agent stops waiting in there, the step is ended like one that was `cut`.
        """
        ...

    async def end_step(
        self, speech: Callable[[Replay], list[Emit]], *, blobs: Mapping[str, bytes] | None = None, is_final: bool = True
    ) -> None:
        """Emit the end of a step or sub-agent; of a try that will be repeated once what it said has a seq."""
        ...

    def cut(self, speech: Callable[[Replay], list[Emit]]) -> None:
        """Emit the end of what the agent stopped waiting for, unless the run is being unwound. Never waits."""
        ...

    async def wait(
        self,
        scope: str,
        kind: Literal["approval", "input", "timer"],
        *,
        prompt: Any = None,
        call: str | None = None,
        after_s: float | None = None,
        blobs: Mapping[str, bytes] | None = None,
    ) -> AgentResumed:
        """Wait for a person or a time; return how it ended.

        Args:
            scope: that waits.
            kind: what for.
            prompt: what the person is asked.
            call: the tool call that it is about.
            after_s: when it ends without an answer, from its first beginning on.
            blobs: values that the prompt names by `$ref`.
        """
        ...

    def report(self, used: Used) -> None:
        """Add what the agent has used to the run's sum, and have it counted for its person if it is new."""
        ...

    def fork(self, places: Mapping[asyncio.Task[Any], Place]) -> None:
        """Let the branches of the running task speak until they end, while it waits for them."""
        ...

    def derive(self, scope: str, what: str) -> str:
        """Return 64 hex digits that are the same whenever the run is replayed."""
        ...

    @property
    def is_stopping(self) -> bool:
        """Return whether the run is being unwound: then a cancellation is the server's, not the author's."""
        ...

    async def resolve(self, value: Any) -> Any:
        """Return a recorded field as it was given, read back if it was put aside."""
        ...

    def seconds_left(self) -> float:
        """Return how long the run may still run."""
        ...
