"""How settings are shown: on a terminal, as JSON, as variables. What is secret is never in it. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import BaseModel

from runwire.resilience.terms import TermsTable
from runwire.settings.model import PREFIX, Settings

__all__ = ["MASK", "bounds", "default_text", "is_secret", "plain", "schema", "text", "variable"]

MASK: Final = "••••••"
_SIGNS: Final = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "minLength": "length ≥",
    "maxLength": "length ≤",
}


def is_secret(name: str) -> bool:
    """Return whether a setting's value, or a part of it, is for nobody's eyes."""
    return not Settings.model_fields[name].repr


def variable(name: str) -> str:
    """Return the variable that sets it."""
    return f"{PREFIX}{name.upper()}"


def plain(settings: Settings, name: str) -> Any:
    """Return a value as JSON can have it, what is secret masked."""
    value = getattr(settings, name)
    if value is None:
        return None
    if name == "database_url":
        return list(settings.shown_urls)
    if name == "redis_url":
        return settings.shown_redis_url
    if name == "issuers":
        return [{"name": issuer.name, "issuer": issuer.issuer} for issuer in value]
    return MASK if is_secret(name) else _jsonable(value)


def text(settings: Settings, name: str) -> str:
    """Return a value as it is written in the environment, what is secret masked; empty: there is none."""
    value = plain(settings, name)
    if name == "issuers":
        value = [issuer["name"] for issuer in value]
    if name == "breakers":
        return json.dumps(value) if value else ""
    return _text(value, between=" " if name == "database_url" else ",")


def default_text(name: str) -> str:
    """Return a default as it is written in the environment; empty: there is none."""
    return _text(_jsonable(Settings.model_fields[name].get_default(call_default_factory=True)))


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, TermsTable):
        return {**value.each.get("", {}), **{name: dict(terms) for name, terms in value.each.items() if name}}
    if isinstance(value, tuple | list):
        return [_jsonable(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _jsonable(one) for key, one in value.items()}
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _text(value: Any, *, between: str = ",") -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return between.join(map(str, value))
    return str(value)


def bounds(name: str) -> str:
    """Return what a value must keep to, in words of JSON Schema's; empty: its type alone."""
    found = schema()["properties"][name]
    one = next((part for part in found.get("anyOf", []) if part.get("type") != "null"), found)
    words = [f"{sign} {one[key]}" for key, sign in _SIGNS.items() if key in one]
    return ", ".join([*words, *([f"one of {', '.join(map(str, one['enum']))}"] if "enum" in one else [])])


def schema() -> dict[str, Any]:
    """Return the JSON schema of the settings file."""
    made = Settings.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "runwire.toml"}
