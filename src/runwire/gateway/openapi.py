"""OpenAPI of the HTTP routes: FastAPI describes paths and queries, the msgspec types bodies and answers."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import FastAPI

from runwire.gateway import shapes
from runwire.protocol import frames

__all__ = ["describe", "documented"]

_REF: Final = "#/components/schemas/{name}"
_TYPES: Final = (
    shapes.Accepted,
    shapes.AgentPage,
    shapes.Events,
    shapes.Me,
    shapes.MessagePage,
    shapes.NoBody,
    shapes.Problem,
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
)
_EVERYWHERE: Final = (400, 401, 408, 429, 431, 500, 503)  # the head, who asks, and whether there is room and a database


def documented(
    *,
    returns: type[Any] | None,
    body: type[Any] | None = None,
    status: int = 200,
    also: Sequence[int] = (),
    is_stream: bool = False,
) -> dict[str, Any]:
    """Return what `add_api_route(openapi_extra=…)` takes to describe a route's body and answers.

    Args:
        returns: the answer; None: it has no body.
        body: of the request.
        status: of the answer.
        also: statuses of refusals besides those that every route has.
        is_stream: the answer may also be `text/event-stream`.
    """
    done: dict[str, Any] = _refusal(status) if status >= HTTPStatus.BAD_REQUEST else {"description": "Done."}
    if returns:
        done["content"] = {"application/json": {"schema": _reference(returns)}}
    if is_stream:
        done["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    refused = sorted({*_EVERYWHERE, *also, *((413,) if body else ())})
    extra: dict[str, Any] = {"responses": {str(status): done} | {str(each): _refusal(each) for each in refused}}
    if is_stream:
        extra["responses"]["204"] = {"description": "The run of `until` has ended, and its end was seen."}
    if body:
        is_required = any(field.required for field in msgspec.structs.fields(body))
        extra["requestBody"] = {
            "required": is_required,
            "content": {"application/json": {"schema": _reference(body)}},
        }
    return extra


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an app."""
    if app.openapi_schema:
        return app.openapi_schema
    document = FastAPI.openapi(app)
    for operations in document["paths"].values():
        for operation in operations.values():
            # FastAPI's own shape of a refusal, which nothing here answers with; ours stand beside it.
            operation["responses"].pop("422", None)
    components = document.setdefault("components", {})
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    components["schemas"] = schemas
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"bearer": []}]
    return document


def _refusal(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {"application/problem+json": {"schema": _reference(shapes.Problem)}},
    }


def _reference(kind: type[Any]) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}
