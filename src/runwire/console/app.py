"""The page's files and the documentation over HTTP, under a strict Content Security Policy."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["make_console_app"]

_STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".md": "text/markdown; charset=utf-8",
    ".json": "application/json",
    ".ts": "text/plain; charset=utf-8",
}
_HOST: Final = re.compile(rb"[A-Za-z0-9.\-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
# Sent with every answer of the page, also 404: a sign-in link in the address goes to nobody as referrer.
_SAFE_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file as it is served; all are read at start, so that a request touches no disk."""

    body: bytes
    content_type: str
    etag: bytes


def make_console_app(docs: Path | None = None) -> ASGIApp:
    """Make the ASGI app of the page at `/` and, if given, of the documentation below `/docs/`.

    Args:
        docs: folder of Markdown pages; None serves the page alone.

    Returns:
        An app for HTTP; mount it last, it answers 404 to whatever it does not know.
    """
    files = {f"/{path.name}": _file(path.read_bytes(), path.suffix) for path in sorted(_STATIC.iterdir())}
    shell = files.pop("/docs.html")
    files["/"] = files["/index.html"]
    if docs is not None:
        files |= dict(_documentation(docs))

    async def console(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await _refuse(scope, receive, send)
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")).rstrip("/")) or "/"
        if scope["method"] not in ("GET", "HEAD"):
            return await _answer(scope, send, 405, [(b"allow", b"GET, HEAD")])
        if docs is not None and path == "/docs":
            return await _answer(scope, send, 307, [(b"location", b"docs/")])
        file = files.get(path)
        if file is None and docs is not None and _is_for_people(path):
            # Relative, so that it is right below any path prefix.
            root = b"../" * (path.count("/") - 1)
            page = _file(shell.body.replace(b"{{root}}", root), ".html")
            # Of a page that is not there the shell says so, with a way on.
            return await _serve(scope, send, page, status=200 if _is_page(path, files) else 404)
        if file is None:
            return await _answer(scope, send, 404, [(b"content-type", b"text/plain; charset=utf-8")], b"Not found\n")
        return await _serve(scope, send, file)

    return console


def _file(body: bytes, suffix: str) -> _File:
    etag = b'"' + hashlib.sha256(body).hexdigest()[:24].encode() + b'"'
    return _File(body=body, content_type=_TYPES.get(suffix, "application/octet-stream"), etag=etag)


def _documentation(docs: Path) -> Iterator[tuple[str, _File]]:
    index: list[dict[str, str]] = []
    for path in sorted(docs.rglob("*")):
        if path.suffix not in (".md", ".json", ".ts") or not path.is_file():
            continue
        name = path.relative_to(docs).as_posix()
        body = path.read_bytes()
        yield f"/docs/{name}", _file(body, path.suffix)
        if path.suffix == ".md":
            heading = re.search(r"^# (.+)$", body.decode("utf-8"), re.MULTILINE)
            title = heading.group(1).replace("`", "") if heading else path.stem
            index.append({"path": name.removesuffix(".md"), "title": title})
    yield "/docs/index.json", _file(msgspec.json.encode(index), ".json")


def _is_for_people(path: str) -> bool:
    """Return whether an address below the documentation is a page's: a file's has a suffix."""
    return path.startswith("/docs/") and "." not in path.rpartition("/")[2]


def _is_page(path: str, files: dict[str, _File]) -> bool:
    """Return whether a page or a folder of pages is there."""
    name = path.rstrip("/")
    return f"{name}.md" in files or any(known.startswith(f"{name}/") for known in files)


async def _serve(scope: Scope, send: Send, file: _File, *, status: int = 200) -> None:
    headers = [
        (b"content-type", file.content_type.encode()),
        (b"content-security-policy", _policy(scope)),
        # Always asked for again, answered with 304: a stale page beside a new server is a support case.
        (b"cache-control", b"no-cache"),
        (b"etag", file.etag),
    ]
    if status == 200 and file.etag in dict(scope["headers"]).get(b"if-none-match", b""):
        return await _answer(scope, send, 304, headers)
    return await _answer(scope, send, status, headers, file.body)


def _policy(scope: Scope) -> bytes:
    # 'self' covers the socket in current browsers; older ones want it by name, with the host as asked for.
    host = dict(scope["headers"]).get(b"host", b"")
    sockets = b" ws://" + host + b" wss://" + host if _HOST.fullmatch(host) else b""
    return (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
        + sockets
        + b"; "
        b"font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        b"require-trusted-types-for 'script'; trusted-types 'none'"
    )


async def _answer(scope: Scope, send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    length = [(b"content-length", str(len(body)).encode())] if status != 304 else []
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *_SAFE_HEADERS, *length]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
