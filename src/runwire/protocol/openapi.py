"""How routes are described in OpenAPI 3.1: their bodies and answers by the msgspec types that read and write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from runwire.protocol.codes import ErrorCode

__all__ = ["Problem", "documented", "joined", "schemas"]

_REF: Final = "#/components/schemas/{name}"
# The head, who asks and what for, and whether there is room and a database.
_EVERYWHERE: Final = (400, 401, 403, 408, 429, 431, 500, 503)
_PUBLIC: Final[list[dict[str, list[str]]]] = []  # OpenAPI 3.1 §4.8.10.1: no security at all


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was refused (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: ErrorCode
    field: str | None
    retry_after_s: float | None


def documented(
    *,
    returns: type[Any] | None,
    body: type[Any] | None = None,
    form: type[Any] | None = None,
    status: int = 200,
    also: Sequence[int] = (),
    is_stream: bool = False,
    is_public: bool = False,
) -> dict[str, Any]:
    """Return what `add_api_route(openapi_extra=…)` takes to describe a route's body and answers.

    Args:
        returns: the answer; None: it has no body.
        body: of the request, as JSON.
        form: of the request, as a form or as JSON.
        status: of the answer.
        also: statuses of refusals besides those that every route has.
        is_stream: the answer may also be `text/event-stream`.
        is_public: no credential is asked for; a wrong one in the body is in `also`.
    """
    done: dict[str, Any] = _refusal(status) if status >= HTTPStatus.BAD_REQUEST else {"description": "Done."}
    if returns:
        done["content"] = {"application/json": {"schema": _reference(returns)}}
    if is_stream:
        done["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    sent = body or form
    refused = {*_EVERYWHERE, *((413,) if sent else ())} - ({401, 403} if is_public else set()) | set(also)
    extra: dict[str, Any] = {"responses": {str(status): done} | {str(each): _refusal(each) for each in sorted(refused)}}
    if is_stream:
        extra["responses"]["204"] = {"description": "The run of `until` has ended, and its end was seen."}
    if is_public:
        extra["security"] = _PUBLIC
    if sent:
        kinds = ("application/json",) if body else ("application/x-www-form-urlencoded", "application/json")
        extra["requestBody"] = {
            "required": any(field.required for field in msgspec.structs.fields(sent)),
            "content": {kind: {"schema": _reference(sent)} for kind in kinds},
        }
    return extra


def schemas(kinds: Sequence[type[Any]]) -> dict[str, Any]:
    """Return what `components.schemas` says of these types and of all that are in them."""
    return msgspec.json.schema_components(kinds, ref_template=_REF)[1]


def joined(document: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one document of several that share a server; what they name alike must be alike.

    Raises:
        ValueError: two of them say different things of one path or one name.
    """
    whole: dict[str, Any] = {**document, "components": {**document["components"]}, "paths": {**document["paths"]}}
    for other in others:
        _join(whole["paths"], other["paths"])
        for kind, named in other["components"].items():
            whole["components"][kind] = {**whole["components"].get(kind, {})}
            _join(whole["components"][kind], named)
    return whole


def _join(known: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, said in more.items():
        if known.setdefault(name, said) != said:
            raise ValueError(f"{name} is described twice, and not alike")


def _refusal(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {"application/problem+json": {"schema": _reference(Problem)}},
    }


def _reference(kind: type[Any]) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}
