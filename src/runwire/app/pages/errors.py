"""docs/reference/errors.md: each code that a person, a client or an operator may see, and who must act."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Final

import runwire
from runwire import errors
from runwire.agents import failures
from runwire.protocol.codes import RETRYABLE
from runwire.protocol.meanings import CLOSES, ERRORS, FAILURES
from runwire.resilience.breaker import CircuitOpen
from runwire.resilience.quotas import OverLimit

__all__ = ["EXITS", "OAUTH", "page"]

EXITS: Final[Sequence[tuple[int, str]]] = (
    (0, "done; of `check` and `test`: everything held"),
    (1, "failed, with a sentence; of `check`: a promise was broken; of `test`: a test failed"),
    (2, "wrong usage; of `check` and `test`: nothing could be looked at, which is no success"),
    (78, "configuration: each fault on a line of its own, and nothing was started (`EX_CONFIG` of sysexits.h)"),
    (130, "interrupted (128 + SIGINT)"),
)
OAUTH: Final[Sequence[tuple[str, str]]] = (
    ("invalid_request", "a parameter is missing or wrong; `field` says which"),
    ("invalid_grant", "the refresh token is used up, ended or unknown: sign in"),
    ("invalid_client", "the id or the secret of the service account is wrong, with 401"),
    ("invalid_scope", "the service account may not have this scope"),
    ("unsupported_grant_type", "there are `refresh_token` and `client_credentials`, and no password grant"),
)
_HEAD: Final = """\
# Errors and codes

Made by `python -m runwire.app.pages --write`: do not edit. What an error says beside its code is for people, may
change, and holds no secret. A code that a client does not know means: stop, and show the sentence.

## Refusals

`code` of the `error` in a reply, and of the `application/problem+json` (RFC 9457) of a route, with `field` where a
part of the request is at fault, and `retry_after_s` where time helps: over HTTP as `Retry-After`, too. HTTP has finer
statuses for `bad_request` at times, such as 405 and 408, and 431 for a head that is too large.
"""
_FAILED: Final = """
## Why a run failed

`agent_failed.data.code`. *Again* is its `retryable`: a second try of the same message may well succeed. `error_id` is
in the log of the worker, with the traceback, which people never see. A tool's `tool_completed.error.code` is one of
these, or `cancelled`.
"""
_CLOSED: Final = """
## Close codes

The range says what to do: 1000, 1001 and 4000–4499 mean come back, with backoff and full jitter, and subscribe from
the position; 4500–4999 mean stop. `bye` says the same before the close frame, with `after_s` where the server has
chosen the time.
"""
_RAISED: Final = """
## Exceptions

`runwire.errors`, all below `RunwireError`, which has `code`, `message`, `field` and `retry_after_s`.
"""
_CAUGHT: Final = """
### In code of yours

What calls on the [Context](agent-api.md) raise, beside `PayloadError`: an agent may catch one and go on, and one that
it does not catch ends the run. `OverLimit` is not for agents: it refuses what a person sends.
"""


def page() -> str:
    """Return the Markdown page."""
    refusals = ((f"`{code}`", str(code.http_status), one.what, one.then) for code, one in ERRORS.items())
    failed = ((f"`{code}`", one.what, "yes" if code in RETRYABLE else "no", one.then) for code, one in FAILURES.items())
    closes = (
        (str(code.value), one.what, "yes" if code.may_reconnect else "no", one.then) for code, one in CLOSES.items()
    )
    parts = (
        (_HEAD, ("code", "HTTP", "meaning", "then"), refusals),
        ("\n`/auth/token` adds OAuth's own `error` (RFC 6749 §5.2).\n", ("error", "meaning"), _quoted(OAUTH)),
        (_FAILED, ("code", "meaning", "again", "who acts"), failed),
        (_CLOSED, ("code", "meaning", "come back", "then"), closes),
        ("\n## Exit status\n", ("status", "meaning"), ((str(status), text) for status, text in EXITS)),
        (_RAISED, ("exception", "code", "meaning"), _exceptions()),
        (_CAUGHT, ("exception", "import from", "is a", "code", "meaning"), _caught()),
    )
    return "".join(f"{text}\n{_table(head, rows)}" for text, head, rows in parts)


def _exceptions() -> Iterable[tuple[str, str, str]]:
    for name in errors.__all__:
        kind = getattr(errors, name)
        yield f"`{name}`", f"`{kind.code}`", _meaning(kind)


def _caught() -> Iterable[tuple[str, str, str, str, str]]:
    kinds = [getattr(failures, name) for name in failures.__all__] + [CircuitOpen, OverLimit]
    for kind in sorted(kinds, key=lambda kind: str(kind.__name__)):
        name = kind.__name__
        home = "runwire" if name in runwire.__all__ else kind.__module__
        yield f"`{name}`", f"`{home}`", f"`{kind.__base__.__name__}`", f"`{kind.code}`", _meaning(kind)


def _meaning(kind: type[errors.RunwireError]) -> str:
    first = (inspect.getdoc(kind) or "").split("\n")[0].removesuffix(".")
    return first[:1].lower() + first[1:]


def _quoted(rows: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return ((f"`{key}`", text) for key, text in rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [head, *rows]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines) + "\n"
