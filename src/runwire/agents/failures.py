"""What a call on the Context may raise, beside `errors.PayloadError`: a recorded end that a replay raises again."""

from __future__ import annotations

from runwire.errors import Fenced, RunwireError

__all__ = ["CallFailed", "OutcomeUnknown", "RunEnded", "SubagentFailed", "ToolFailed", "WaitExpired", "WrongAnswer"]


class CallFailed(RunwireError):
    """Tell the agent how a call ended that failed; the sentence may be shown to the person."""

    code = "tool_error"


class ToolFailed(CallFailed):
    """Tell the agent that a tool or a step failed.

    A tool may raise it itself: then its sentence is shown to the person and kept for a replay. Of any other
    exception only the type's name and an error id are; the text stays in the server's log.
    """


class OutcomeUnknown(ToolFailed):
    """Tell the agent that a crash cut off a step with `on_crash="fail"`: it may have taken effect or not.

    Args:
        message: for a person.
        idempotency_key: what the step's function saw as `ctx.idempotency_key`, to ask the other side with.
    """

    code = "outcome_unknown"

    def __init__(self, message: str, *, idempotency_key: str) -> None:
        super().__init__(message)
        self.idempotency_key = idempotency_key


class SubagentFailed(CallFailed):
    """Tell the agent that a sub-agent failed; `code` and message are those that the person sees."""

    code = "agent_error"


class WaitExpired(CallFailed):
    """Tell the agent that nobody answered in time."""

    code = "wait_expired"


class WrongAnswer(CallFailed):
    """Tell the agent that a person answered, and not what `returns` asks for."""

    code = "wrong_answer"


class RunEnded(Fenced):
    """Tell code that outlived its run: nothing it says counts any more."""
