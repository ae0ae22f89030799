"""OpenAPI of the HTTP routes: FastAPI describes paths and queries, the msgspec types bodies and answers."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from fastapi import FastAPI

from runwire.gateway import shapes
from runwire.protocol import frames

__all__ = ["describe", "documented"]

_REF: Final = "#/components/schemas/{name}"
_TYPES: Final = (
    shapes.NoBody,
    shapes.ThreadBody,
    shapes.ThreadPatch,
    shapes.ThreadShape,
    shapes.RunShape,
    shapes.Accepted,
    frames.MessageBody,
    frames.CancelData,
    frames.ErrorBody,
)


def documented(*, body: type[Any] | None = None, returns: type[Any] | None = None) -> dict[str, Any]:
    """Return what `add_api_route(openapi_extra=…)` takes to describe a route's body and answer."""
    extra: dict[str, Any] = {}
    if body:
        extra["requestBody"] = {"content": {"application/json": {"schema": _reference(body)}}}
    if returns:
        extra["responses"] = {
            "2XX": {"description": "Done.", "content": {"application/json": {"schema": _reference(returns)}}},
            "default": {
                "description": "Refused (RFC 9457).",
                "content": {"application/problem+json": {"schema": _reference(frames.ErrorBody)}},
            },
        }
    return extra


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an app."""
    if app.openapi_schema:
        return app.openapi_schema
    document = FastAPI.openapi(app)
    components = document.setdefault("components", {})
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    components.setdefault("schemas", {}).update(schemas)
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"bearer": []}]
    return document


def _reference(kind: type[Any]) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}
