"""Terms of breakers as an operator writes them: for all, for a kind, for one by its name. Pure."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runwire.resilience.breaker import Terms

__all__ = ["KINDS", "TermsTable", "read_terms"]

KINDS: Final = ("agent", "model", "tool", "auth", "bus", "webhook")
_MOST: Final = 1_000
_DEFAULTS: Final = {each.name: each.default for each in dataclasses.fields(Terms)}
_WHOLE: Final = frozenset({"minimum_calls", "failures_in_row", "probes", "successes"})
_SWITCHED: Final = frozenset({"failure_rate", "failures_in_row", "slow_s", "slow_first_s"})  # `false`: not by this


@dataclass(frozen=True, slots=True)
class TermsTable:
    """What was set: "" for all, "tool" for a kind, "model/openai/gpt" for one."""

    each: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, kind: str, name: str, *, own: Terms | None = None) -> Terms:
        """Return the terms of one breaker.

        Args:
            kind: its kind.
            name: its name.
            own: those that it comes with; what is set for all does not touch these, what is set for it does.
        """
        levels = ("", kind, f"{kind}/{name}") if own is None else (kind, f"{kind}/{name}")
        given = {key: value for level in levels for key, value in self.each.get(level, {}).items()}
        return dataclasses.replace(own or Terms(), **_whole(given, own or Terms()))

    def names(self, kind: str, name: str) -> bool:
        """Return whether this one, or its kind, has terms of its own."""
        return kind in self.each or f"{kind}/{name}" in self.each


def read_terms(value: object) -> TermsTable:
    """Read the setting `breakers`: a table, or JSON that says the same.

    Raises:
        ValueError: names the table and the term, never a value.
    """
    if isinstance(value, TermsTable):
        return value
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError('write JSON: {"open_s": …, "model/openai/gpt": {…}}') from None
    if not isinstance(value, Mapping):
        raise ValueError("write tables: [breakers], [breakers.tool], [breakers.'model/openai/gpt']")  # noqa: TRY004 - what pydantic shows
    if len(value) > _MOST:
        raise ValueError(f"at most {_MOST:,} tables")
    each = {"": _read("", {name: one for name, one in value.items() if not isinstance(one, Mapping)})}
    for name, table in value.items():
        if isinstance(table, Mapping):
            _check_name(name)
            each[name] = _read(name, table)
    found = TermsTable({name: terms for name, terms in each.items() if terms})
    for name in found.each:
        kind, _, rest = name.partition("/")
        _checked(name, found, kind, rest)
    return found


def _checked(name: str, table: TermsTable, kind: str, rest: str) -> None:
    try:
        table.of(kind, rest)
    except ValueError as error:
        raise ValueError(f"{name}: {error}" if name else str(error)) from None


def _check_name(name: str) -> None:
    kind, slash, rest = name.partition("/")
    if kind not in KINDS or (slash and not rest):
        raise ValueError(
            f"`{name[:80]}` is neither a term nor a kind, nor a kind and a name{_meant(kind, [*KINDS, *_DEFAULTS])}"
        )


def _read(where: str, table: Mapping[str, object]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for name, value in table.items():
        told = f"{where}.{name}" if where else name
        if name not in _DEFAULTS:
            raise ValueError(f"`{told[:80]}` is no term of a breaker{_meant(name, _DEFAULTS)}")
        if value is False and name in _SWITCHED:
            read[name] = None
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"`{told}` is a number{', or false' if name in _SWITCHED else ''}")
        elif name in _WHOLE and not isinstance(value, int):
            raise ValueError(f"`{told}` is a whole number")
        else:
            read[name] = value if name in _WHOLE else float(value)
    return read


def _whole(given: Mapping[str, Any], own: Terms) -> dict[str, Any]:
    """Return the terms with the longest pause no shorter than the first, unless somebody has said so."""
    whole = dict(given)
    if "open_s" in whole and "longest_open_s" not in whole:
        whole["longest_open_s"] = max(own.longest_open_s, whole["open_s"])
    return whole


def _meant(name: str, candidates: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(candidates), n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""
