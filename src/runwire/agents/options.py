"""How a function wants to be called as a tool, and what is refused of an author's arguments to the Context."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar, get_args

from runwire.agents.payload import check_text, told
from runwire.errors import PayloadError

__all__ = [
    "MAX_TRIES",
    "OnCrash",
    "ToolOptions",
    "check_breaker",
    "check_function",
    "checked_options",
    "is_name",
    "name_of",
    "options_of",
    "refused",
    "seconds_of",
    "tool",
]

F = TypeVar("F", bound=Callable[..., Any])
OnCrash = Literal["retry", "fail"]

MAX_TRIES: Final = 100
_MAX_NAME_CHARS: Final = 200
_MAX_SECONDS: Final = 100 * 365.25 * 86_400  # a hundred years: a number of milliseconds fits wherever it goes
_ATTRIBUTE: Final = "__runwire_tool__"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """How a function is called as a step."""

    name: str | None = None  # None: the function's own
    retry: int = 1  # how many tries it has if it raises
    on_crash: OnCrash = "retry"  # what happens to a try that a crash cut off
    returns: Any = None  # what its result is made into; None: what its annotation says
    breaker: str | None = None  # name of what it asks; None: it is always called


def tool(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    retry: int = 1,
    on_crash: OnCrash = "retry",
    returns: Any = None,
    breaker: str | None = None,
) -> Callable[[F], F]:
    """Say how a function wants to be called by `ctx.tool`. The function itself stays as it is.

    ::

        @tool(name="send_mail", retry=3, on_crash="fail")
        async def send(to: str, text: str) -> str: ...

    Args:
        fn: nothing: the decorator is written with parentheses.
        name: shown to the person and part of the step's key; else the function's own.
        retry: how many tries it has if it raises, 1 to 100.
        on_crash: what happens if a crash cuts a try off: "retry" calls it again, "fail" raises `OutcomeUnknown`.
        returns: the type that its result is made into, in place of the annotation.
        breaker: name of what it asks, such as a service: while that fails too often, `CircuitOpen` is raised instead.

    Raises:
        ValueError: an option is out of its bounds.
    """
    if fn is not None:
        raise TypeError("write `@tool(…)` with parentheses; a function without options needs no decorator")
    try:
        options = checked_options(name=name, retry=retry, on_crash=on_crash, returns=returns, breaker=breaker)
    except PayloadError as error:
        raise ValueError(error.message) from None

    def mark(fn: F) -> F:
        try:
            setattr(fn, _ATTRIBUTE, options)
        except AttributeError:
            kind = type(fn).__name__
            raise TypeError(f"@tool(…) cannot mark a {kind}; wrap it in a function: `def my_tool(…): …`") from None
        return fn

    return mark


def checked_options(
    *, name: str | None, retry: int, on_crash: OnCrash, returns: Any, breaker: str | None = None
) -> ToolOptions:
    """Return the options of a call.

    Raises:
        PayloadError: one is out of its bounds; the sentence names it.
    """
    if name is not None:
        if not is_name(name):
            raise refused("name", f"is a text of 1 to {_MAX_NAME_CHARS} characters, not {_shown(name)}")
        check_text(name)
    if not _is_tries(retry):
        raise refused("retry", f"says how many tries a call has, 1 to {MAX_TRIES}, and is not {_shown(retry)}")
    if on_crash not in get_args(OnCrash):
        raise refused("on_crash", f'is "retry" or "fail", not {_shown(on_crash)}')
    if breaker is not None:
        check_breaker(breaker)
    return ToolOptions(name=name, retry=retry, on_crash=on_crash, returns=returns, breaker=breaker)


def check_breaker(given: object) -> None:
    """Refuse what cannot be the name of a breaker.

    Raises:
        PayloadError: it is none.
    """
    if not is_name(given):
        raise refused("breaker", f"is a text of 1 to {_MAX_NAME_CHARS} characters, not {_shown(given)}")


def check_function(fn: object) -> None:
    """Refuse what cannot be called as a step, above all the result of a call.

    Raises:
        PayloadError: it is no function.
    """
    if callable(fn):
        return
    if inspect.iscoroutine(fn):
        fn.close()
        sentence = f"is called already: give the function and its arguments, as in `ctx.tool({fn.__name__}, …)`"
        raise refused("fn", sentence)
    raise refused("fn", f"is a function to call, not {_shown(fn)}")


def options_of(fn: Callable[..., Any]) -> ToolOptions:
    """Return what `tool` said of a function, or of the one that a partial is of."""
    found = getattr(fn, _ATTRIBUTE, None)
    while found is None and isinstance(fn, functools.partial):
        fn = fn.func
        found = getattr(fn, _ATTRIBUTE, None)
    return found if isinstance(found, ToolOptions) else ToolOptions()


def name_of(fn: Callable[..., Any]) -> str:
    """Return the name of a function, or of the one that a partial is of, as it can be stored."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return told(getattr(fn, "__name__", None) or type(fn).__name__)


def seconds_of(given: object, *, field: str) -> float:
    """Return a length of time in seconds.

    Raises:
        PayloadError: it is none: negative, infinite, over a hundred years, not a number.
    """
    if isinstance(given, timedelta):
        given = given.total_seconds()
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not math.isfinite(given) or not 0 <= given <= _MAX_SECONDS:  # type: ignore[arg-type, operator] # a number
        raise refused(field, f"is a number of seconds from 0 to a hundred years, not {_shown(given)}")
    return float(given)  # type: ignore[arg-type] # a number


def is_name(given: object) -> bool:
    """Return whether this can be the name of a step or agent."""
    return isinstance(given, str) and 0 < len(given) <= _MAX_NAME_CHARS


def refused(field: str, why: str) -> PayloadError:
    """Return the error for an argument that cannot be."""
    return PayloadError(f"`{field}` {why}", code="agent_error", field=field)


def _is_tries(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= MAX_TRIES


def _shown(value: object) -> str:
    text = told(repr(value)) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:80] + "…"
