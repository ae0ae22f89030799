"""The tree of errors, split by who must act.

::

    RunwireError
    ├── ProtocolError        the peer sent what it may not   -> error code, maybe a close code
    ├── NotFound             unknown, or somebody else's      -> the same answer for both
    ├── Conflict             the state refuses it             -> another request may succeed
    ├── Unauthenticated      who are you?                     -> a fresh token may help
    ├── Forbidden            known, and may not               -> never
    ├── LogReset             history is gone                  -> the client takes the snapshot
    ├── Fenced               this attempt owns the run no more -> stop silently
    ├── Unavailable          dependency down, breaker open, over a limit -> retry after `retry_after_s`
    ├── PayloadError         a value that cannot be stored    -> the agent's author
    ├── RunFailed            a run must end as `agent_failed` -> the person sees `code`
    └── ConfigurationError   at start only                    -> exit status 78, all faults at once
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "Conflict",
    "Fenced",
    "Forbidden",
    "LogReset",
    "NotFound",
    "PayloadError",
    "ProtocolError",
    "RunFailed",
    "RunwireError",
    "Unauthenticated",
    "Unavailable",
]


class RunwireError(Exception):
    """Carry a stable wire `code` and a sentence that says what to do.

    Args:
        message: one sentence for a person; never a secret, never text of somebody else's exception.
        code: the wire code, when it differs from the class's own.
        field: the field, setting or file at fault.
        retry_after_s: when to try again, if that may help.
    """

    code = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.field = field
        self.retry_after_s = retry_after_s


class ProtocolError(RunwireError):
    """Refuse what a peer sent; `close` is set when the connection must end too."""

    code = "bad_request"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
        close: int | None = None,
    ) -> None:
        super().__init__(message, code=code, field=field, retry_after_s=retry_after_s)
        self.close = close


class NotFound(RunwireError):
    """Answer alike for what does not exist and for what belongs to somebody else."""

    code = "not_found"


class Conflict(RunwireError):
    """Refuse because of the present state: `conflict`, or `run_active`."""

    code = "conflict"


class Unauthenticated(RunwireError):
    """Refuse an identity that a fresh token could prove."""

    code = "unauthenticated"


class Forbidden(RunwireError):
    """Refuse a known identity for good."""

    code = "forbidden"


class LogReset(RunwireError):
    """Say that the wanted history is not to be had; `reason` is the wire's reset reason."""

    code = "conflict"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Fenced(RunwireError):
    """Tell an attempt that it no longer owns its run."""

    code = "conflict"


class Unavailable(RunwireError):
    """Report a dependency that did not answer, or a limit that is reached."""

    code = "unavailable"


class PayloadError(RunwireError):
    """Refuse a value where it is emitted: not JSON, too large, NUL, NaN, lone surrogate."""

    code = "payload_too_large"


class RunFailed(RunwireError):
    """End a run as `agent_failed`; `code` is one of `protocol.codes.RunFailure`."""

    code = "agent_error"


class ConfigurationError(RunwireError):
    """List every fault found at start; the process exits with status 78."""

    code = "bad_request"

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
