"""JSON becomes the type that a function says it returns, alike in the live call and in a replay.

A result goes to JSON and comes back from it before the agent sees it (`payload.plain`, then `typed`), so that no code
can depend on whether it was called or recorded.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from types import NoneType, SimpleNamespace
from typing import Any, Final

import msgspec

__all__ = ["Mismatch", "declared", "typed"]

_AWAITED: Final = (collections.abc.Awaitable, collections.abc.Coroutine)
_SAYS_NOTHING: Final = (None, NoneType, object, typing.NoReturn, typing.Never, inspect.Signature.empty)
_MAX_ERRORS: Final = 3
_ENUM_VALUE: Final = re.compile(r"(Invalid enum value) (?:'.*'|\S+)", re.DOTALL)  # msgspec quotes what it was given


class Mismatch(ValueError):
    """Say how a value differs from its type: where, and what was expected."""


class _Foreign(Exception):
    """A type that nobody here can make from JSON."""


def declared(fn: Callable[..., Any]) -> Any:
    """Return the type that a function says it returns; `Any` if it says none, or names what cannot be looked up."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, type):
        return Any
    if not inspect.isroutine(fn):
        fn = getattr(type(fn), "__call__", fn)  # noqa: B004 - the question is not whether it can be called
    fn = inspect.unwrap(getattr(fn, "__func__", fn))
    try:
        said = SimpleNamespace(__annotations__={"return": fn.__annotations__["return"]})
        names = {**getattr(fn, "__globals__", {}), **_closed_over(fn)}
        hint = typing.get_type_hints(said, globalns=names, localns={}, include_extras=True)["return"]
    except Exception:  # the author's annotation: it may be text, and of what is not there
        return Any
    if typing.get_origin(hint) in _AWAITED and typing.get_args(hint):
        hint = typing.get_args(hint)[-1]
    return Any if hint in _SAYS_NOTHING else hint


def typed(value: Any, kind: Any, *, is_asked_for: bool, is_strict: bool = True) -> Any:
    """Return a plain value as the type: dataclass, msgspec or pydantic model, TypedDict, NamedTuple, set, UUID, ….

    Args:
        value: plain JSON (`payload.plain`).
        kind: what it is to be.
        is_asked_for: whether the author named the type for this (`returns`); an annotation that nobody can make from
            JSON, such as a protocol, gives the plain value.
        is_strict: whether text is no number; else `"5"` is an `int`, too.

    Raises:
        Mismatch: the value does not fit.
    """
    if kind is Any:
        return value
    try:
        return _converted(value, kind, is_strict=is_strict)
    except _Foreign:
        if is_asked_for:
            raise Mismatch(f"nothing of type {_type_name(kind)} can be made from JSON") from None
        return value


def _converted(value: Any, kind: Any, *, is_strict: bool) -> Any:
    try:
        return msgspec.convert(value, kind, strict=is_strict, str_keys=True, dec_hook=_decode)
    except msgspec.ValidationError as error:
        cause = error.__cause__  # what a class of the author's raised, wrapped with its text
        if cause is not None and not isinstance(cause, Mismatch):
            raise _refused(kind, cause) from None
        raise Mismatch(_ENUM_VALUE.sub(r"\1", str(error))) from None
    except (_Foreign, Mismatch):
        raise
    except TypeError:  # a type that msgspec does not take, such as a union of two dataclasses
        return _validated(value, kind, is_strict=is_strict)
    except Exception as error:  # the author's class: whatever it raises says that the value does not fit
        raise _refused(kind, error) from None


def _refused(kind: Any, error: BaseException) -> Mismatch:
    # Not the error's text: it may quote the value, which is nobody's business.
    return Mismatch(f"{_type_name(kind)} takes no such value ({type(error).__name__})")


def _decode(kind: Any, value: Any) -> Any:
    """Serve `msgspec.convert` for types that it does not know: pydantic models, subclasses of plain types."""
    validate = getattr(kind, "model_validate_json", None)
    if validate is not None:
        return _by_pydantic(validate, value, kind, is_strict=False)
    if isinstance(kind, type) and issubclass(kind, str | int | float) and isinstance(value, str | int | float):
        try:
            return kind(value)
        except Exception as error:  # the author's class, as above
            raise _refused(kind, error) from None
    raise _Foreign


def _validated(value: Any, kind: Any, *, is_strict: bool) -> Any:
    return _by_pydantic(_adapter(kind).validate_json, value, kind, is_strict=is_strict)


@functools.lru_cache(maxsize=256)
def _adapter(kind: Any) -> Any:
    from pydantic import PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(kind)
    except (PydanticUserError, TypeError, NameError) as error:
        raise _Foreign from error


def _by_pydantic(validate: Callable[..., Any], value: Any, kind: Any, *, is_strict: bool) -> Any:
    from pydantic import ValidationError

    try:
        # By both: `plain` gives a model's fields by their names, a person by their aliases.
        return validate(msgspec.json.encode(value), strict=True if is_strict else None, by_alias=True, by_name=True)
    except ValidationError as error:
        # Not the value itself, which may be long and is nobody's business.
        faults = error.errors(include_url=False, include_context=False, include_input=False)[:_MAX_ERRORS]
        raise Mismatch("; ".join(f"{_path(fault['loc'])}{_said(kind, fault)}" for fault in faults)) from None
    except Exception as error:  # the author's validator, as above
        raise _refused(kind, error) from None


def _said(kind: Any, fault: Mapping[str, Any]) -> str:
    is_authors = fault["type"] in ("value_error", "assertion_error")
    return f"{_type_name(kind)} takes no such value (ValueError)" if is_authors else str(fault["msg"])


def _path(loc: tuple[int | str, ...]) -> str:
    return f"{'.'.join(map(str, loc))}: " if loc else ""


def _closed_over(fn: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _type_name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))[:80]
