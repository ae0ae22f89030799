"""The HTTP half of a client: what is read once and not streamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx2
import msgspec

from runwire.client.refusal import refusal
from runwire.client.token import Token, text_of
from runwire.errors import Unauthenticated, Unavailable
from runwire.protocol.frames import ErrorBody, OnActive

__all__ = ["Http", "read"]

_TIMEOUT_S: Final = 30.0
_MAX_DETAIL: Final = 200


class Http:
    """Ask a server over HTTP; every answer has a deadline of 30 s, and nothing is repeated.

    All methods raise the error that fits the server's code: `NotFound`, `Conflict`, `Unauthenticated`, `Forbidden`,
    `Unavailable` (also when there is no answer), else `ProtocolError`.

    Args:
        url: of the server, with its path prefix.
        token: what signs in.
        transport: for tests.
    """

    def __init__(self, url: str, token: Token, *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._token = token
        base = url.replace("ws", "http", 1) if url.startswith("ws") else url
        self._client = httpx2.AsyncClient(base_url=base, timeout=_TIMEOUT_S, transport=transport)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def me(self) -> dict[str, Any]:
        """Return who this is: `{user, name, roles, session}`."""
        return await self._get("/v1/me")

    async def agents(self) -> dict[str, Any]:
        """Return the agents that may be asked, as a page."""
        return await self._get("/v1/agents")

    async def threads(self, *, limit: int = 50, cursor: str | None = None) -> dict[str, Any]:
        """Return a page of threads, newest first: `{items, next_cursor}`."""
        return await self._get("/v1/threads", limit=limit, cursor=cursor)

    async def thread(self, thread: str) -> dict[str, Any]:
        """Return a thread's snapshot, exact at its `seq`: go on with `client.events(thread, after=seq, log=log)`."""
        return await self._get(f"/v1/threads/{quote(thread)}")

    async def messages(self, thread: str, *, before: int | None = None, limit: int = 50) -> dict[str, Any]:
        """Return a page of a thread's messages that are older than `before`."""
        return await self._get(f"/v1/threads/{quote(thread)}/messages", before=before, limit=limit)

    async def runs(self, *, thread: str | None = None, status: str | None = None, agent: str | None = None) -> Any:
        """Return a page of runs."""
        return await self._get("/v1/runs", thread=thread, status=status, agent=agent)

    async def run(self, run: str) -> dict[str, Any]:
        """Return a run: its status, attempt, error, steps and waits."""
        return await self._get(f"/v1/runs/{quote(run)}")

    async def answer(self, run: str, wait: str, value: Any) -> None:
        """Answer a wait of a run; the first answer wins, and the same one again is as good."""
        await self._ask("POST", f"/v1/runs/{quote(run)}/answers", json={"wait": wait, "value": value})

    async def retry(self, run: str, *, on_active: OnActive = "enqueue", key: str | None = None) -> dict[str, Any]:
        """Start a new run with the message of one that has ended: `{thread, log, run, message, seq}`.

        With the same `key` it may be asked for again: it starts one run.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self._ask("POST", f"/v1/runs/{quote(run)}/retry", json={"on_active": on_active}, headers=headers)

    async def rename_thread(self, thread: str, title: str | None) -> dict[str, Any]:
        """Give a thread a title, or none."""
        return await self._ask("PATCH", f"/v1/threads/{quote(thread)}", json={"title": title})

    async def delete_thread(self, thread: str) -> None:
        """Delete a thread; its runs are cancelled."""
        await self._ask("DELETE", f"/v1/threads/{quote(thread)}")

    async def blob(self, ref: str) -> bytes:
        """Return a large value that an event names as `{"$ref": …}`."""
        return (await self._send("GET", f"/v1/blobs/{quote(ref)}")).content

    async def _get(self, path: str, **query: Any) -> dict[str, Any]:
        return await self._ask("GET", path, params={name: value for name, value in query.items() if value is not None})

    async def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = await self._send(method, path, **options)
        return read(response) if response.content else {}

    async def _send(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> httpx2.Response:
        headers = {**(headers or {}), "Authorization": f"Bearer {await text_of(self._token)}"}
        try:
            response = await self._client.request(method, path, headers=headers, **options)
        except httpx2.HTTPError as error:
            raise Unavailable(
                f"{self._client.base_url} did not answer: {str(error) or type(error).__name__}."
            ) from error
        check(response)
        return response


def check(response: httpx2.Response) -> None:
    """Raise the error of a response that is none of success."""
    if response.is_success:
        return
    try:
        body = msgspec.json.decode(response.content, type=dict[str, Any])
        message = body.get("message") or body.get("detail") or body.get("title") or response.reason_phrase
        error = ErrorBody(
            code=str(body.get("code", "internal")),
            message=str(message),
            field=body.get("field"),
            retry_after_s=body.get("retry_after_s"),
        )
    except msgspec.DecodeError:
        if response.status_code == 401:
            raise Unauthenticated("The server does not know this token; sign in again.") from None
        raise Unavailable(f"Status {response.status_code}: {response.text[:_MAX_DETAIL]}") from None
    raise refusal(error)


def read(response: httpx2.Response) -> dict[str, Any]:
    """Return the JSON object of a response.

    Raises:
        RunwireError: of a refusal, or of a body that is no JSON object.
    """
    check(response)
    try:
        return msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Unavailable(f"The answer is no JSON object: {response.text[:_MAX_DETAIL]}") from error
