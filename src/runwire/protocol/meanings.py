"""What each code means, who must act, and whether the same may work later. `codes.py` spells them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from runwire.protocol.codes import CloseCode, ErrorCode, RunFailure

__all__ = ["CLOSES", "ERRORS", "FAILURES", "Meaning"]


class Meaning(NamedTuple):
    """One code for a person: what happened, and what is to be done by whom."""

    what: str
    then: str


ERRORS: Final[Mapping[ErrorCode, Meaning]] = MappingProxyType(
    {
        ErrorCode.BAD_REQUEST: Meaning("what was sent is wrong; `field` says where", "mend the client"),
        ErrorCode.UNAUTHENTICATED: Meaning("no valid credential", "refresh the token, or sign in; then ask again"),
        ErrorCode.FORBIDDEN: Meaning("known, and may not", "an administrator gives a role or a scope"),
        ErrorCode.NOT_FOUND: Meaning("it does not exist, or belongs to somebody else", "look at the id"),
        ErrorCode.CONFLICT: Meaning("the present state refuses it", "read the state, then decide"),
        ErrorCode.RUN_ACTIVE: Meaning("a run of this thread has not ended", "wait, or send with another `on_active`"),
        ErrorCode.RATE_LIMITED: Meaning("a limit of the person, key or address is reached", "wait `retry_after_s`"),
        ErrorCode.TOO_LARGE: Meaning("a frame, body or field is over its limit", "send less"),
        ErrorCode.UNAVAILABLE: Meaning(
            "a dependency does not answer, or the server is full or stopping",
            "wait `retry_after_s`, then the same again",
        ),
        ErrorCode.CIRCUIT_OPEN: Meaning("what would be asked is left alone for now", "wait `retry_after_s`"),
        ErrorCode.DEADLINE: Meaning("no answer in time: it may have been done", "the same again, with the same key"),
        ErrorCode.UNSUPPORTED: Meaning("this server has no such command or route", "update it, or ask otherwise"),
        ErrorCode.INTERNAL: Meaning("the server failed; its log has the reason", "tell the operator"),
    }
)
FAILURES: Final[Mapping[RunFailure, Meaning]] = MappingProxyType(
    {
        RunFailure.AGENT_ERROR: Meaning("the agent's code raised", "the agent's author: the log has `error_id`"),
        RunFailure.DEADLINE_EXCEEDED: Meaning("it ran longer than its deadline", "ask for less, or allow more time"),
        RunFailure.NO_RESULT: Meaning("it returned and yielded nothing", "the agent's author"),
        RunFailure.CIRCUIT_OPEN: Meaning("calls to a provider are stopped for now", "wait `retry_after_s`"),
        RunFailure.PROVIDER_UNAVAILABLE: Meaning("a model or tool provider did not answer", "wait, then again"),
        RunFailure.WORKER_LOST: Meaning("its worker was lost too often without progress", "the operator: workers die"),
        RunFailure.NONDETERMINISTIC_AGENT: Meaning("executed again, it took another way", "the agent's author"),
        RunFailure.PARALLEL_WITHOUT_GATHER: Meaning("its context was used from another task", "the agent's author"),
        RunFailure.PAYLOAD_TOO_LARGE: Meaning("it emitted a value that cannot be stored", "the agent's author"),
        RunFailure.LOOP_BLOCKED: Meaning("its code never yielded to the event loop", "the agent's author"),
        RunFailure.QUOTA_EXCEEDED: Meaning("the user's quota is used up", "wait for the next period"),
        RunFailure.AGENT_UNAVAILABLE: Meaning("no worker has this agent", "the operator: start one that has"),
        RunFailure.INTERNAL: Meaning("the server failed", "the operator: the log has `error_id`"),
    }
)
CLOSES: Final[Mapping[CloseCode, Meaning]] = MappingProxyType(
    {
        CloseCode.NORMAL: Meaning("closed on request", "nothing"),
        CloseCode.GOING_AWAY: Meaning("one side is going away", "come back"),
        CloseCode.TOO_BIG: Meaning("a frame is larger than `limits.frame_bytes`", "mend the client"),
        CloseCode.INTERNAL: Meaning("the server failed", "come back"),
        CloseCode.DRAINING: Meaning("the server is being stopped or updated", "come back after `after_s`"),
        CloseCode.NO_HELLO: Meaning("no `hello` in time", "say hello within five seconds"),
        CloseCode.TOKEN_EXPIRED: Meaning("the token expired", "refresh it first, then come back"),
        CloseCode.TOO_SLOW: Meaning("unsent bytes did not fall: the reader is too slow", "come back, and read faster"),
        CloseCode.NO_LIFE: Meaning("no sign of life for `ping_s + pong_s`", "come back"),
        CloseCode.UNAVAILABLE: Meaning("a dependency is unavailable", "come back"),
        CloseCode.RATE: Meaning(
            "too fast, too many sockets that wait for their `hello`, or 1,000 control frames without a message",
            "come back after `after_s`",
        ),
        CloseCode.BAD_FRAME: Meaning("not JSON, binary, nested too deep, or invalid UTF-8", "mend the client"),
        CloseCode.UNAUTHENTICATED: Meaning("no valid credential", "sign in"),
        CloseCode.FORBIDDEN: Meaning("forbidden, or a refreshed token of another user", "use the person's own token"),
        CloseCode.TOO_MANY_CONNECTIONS: Meaning("the person has too many connections", "close one"),
        CloseCode.VERSION: Meaning("no protocol version in common", "update the client or the server"),
        CloseCode.REVOKED: Meaning("access was withdrawn: the user was disabled, or the session ended", "sign in"),
    }
)
