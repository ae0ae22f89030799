"""OpenAPI of the HTTP routes: FastAPI describes paths and queries, the msgspec types bodies and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from fastapi import FastAPI

from runwire.gateway import shapes
from runwire.protocol import frames
from runwire.protocol.openapi import Problem, documented, joined, schemas

__all__ = ["describe", "documented"]

_TYPES: Final = (
    shapes.Accepted,
    shapes.AgentPage,
    shapes.BreakerPage,
    shapes.BreakerShape,
    shapes.Events,
    shapes.Me,
    shapes.MessagePage,
    shapes.NoBody,
    shapes.RunDetail,
    shapes.RunPage,
    shapes.RunShape,
    shapes.Snapshot,
    shapes.ThreadBody,
    shapes.ThreadPage,
    shapes.ThreadPatch,
    shapes.ThreadShape,
    shapes.Ticket,
    frames.AnswerBody,
    frames.AnswerData,
    frames.CancelData,
    frames.MessageBody,
    frames.RetryBody,
    Problem,
)


def describe(app: FastAPI, other: Callable[[], Mapping[str, Any]] | None) -> dict[str, Any]:
    """Return the OpenAPI document of an app, joined with that of what is served beside it."""
    if app.openapi_schema:
        return app.openapi_schema
    document = FastAPI.openapi(app)
    for operations in document["paths"].values():
        for operation in operations.values():
            # FastAPI's own shape of a refusal, which nothing here answers with; ours stand beside it.
            operation["responses"].pop("422", None)
    components = document.setdefault("components", {})
    components["schemas"] = schemas(_TYPES)
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"bearer": []}]
    app.openapi_schema = joined(document, [other()] if other else [])
    return app.openapi_schema
