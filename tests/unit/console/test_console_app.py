"""The page is served under a strict policy, from memory, and knows only its own files."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runwire.console import make_console_app
from runwire.guide import docs_root

STATIC = Path(__file__).parents[3] / "src" / "runwire" / "console" / "static"


def get(path: str, *, method: str = "GET", docs: Path | None = None, **options: Any) -> httpx2.Response:
    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(make_console_app(docs), root_path=options.pop("root_path", ""))
        async with httpx2.AsyncClient(transport=transport, base_url="http://agents.example:8000") as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


def test_the_page_comes_with_its_policy() -> None:
    answer = get("/")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    for part in (
        "default-src 'none'",
        "script-src 'self';",
        "style-src 'self';",
        "connect-src 'self' ws://agents.example:8000 wss://agents.example:8000;",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ):
        assert part in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("host", ["evil.example; script-src *", "a b", "x'unsafe-inline'", ""])
def test_a_host_header_never_becomes_part_of_the_policy(host: str) -> None:
    policy = get("/", headers={"host": host}).headers["content-security-policy"]

    assert "connect-src 'self';" in policy


@pytest.mark.parametrize("name", sorted(path.name for path in STATIC.iterdir() if path.name != "docs.html"))
def test_every_file_is_served_with_its_type(name: str) -> None:
    answer = get(f"/{name}")

    assert answer.content == (STATIC / name).read_bytes()
    kinds = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[Path(name).suffix])


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/../app.py",
        "/%2e%2e/app.py",
        "/static/app.js",
        "/docs.html",
        "/docs/",
        "/docs/index.json",
        "/v1/me",
    ],
)
def test_anything_else_is_not_found(path: str) -> None:
    assert get(path).status_code == 404


def test_only_reading_is_allowed() -> None:
    assert get("/", method="POST").status_code == 405
    head = get("/", method="HEAD")
    assert head.status_code == 200
    assert head.content == b""
    assert int(head.headers["content-length"]) > 1000


def test_an_unchanged_file_is_not_sent_again() -> None:
    etag = get("/app.js").headers["etag"]
    again = get("/app.js", headers={"if-none-match": etag})

    assert again.status_code == 304
    assert again.content == b""


def test_the_documentation_is_served_as_pages_and_as_text() -> None:
    page = get("/docs/explanation/delivery", docs=docs_root())
    assert page.status_code == 200
    assert 'src="../../docs.js"' in page.text
    text = get("/docs/explanation/delivery.md", docs=docs_root())
    assert text.headers["content-type"].startswith("text/markdown")
    assert text.text.startswith("# Delivery")
    index = get("/docs/index.json", docs=docs_root()).json()
    assert {"path": "explanation/delivery", "title": "Delivery: what is guaranteed"} in index
    assert get("/docs", docs=docs_root()).headers["location"] == "docs/"


@pytest.mark.parametrize("path", ["/docs/nope", "/docs/explanation/nothing", "/docs/adr/0001", "/docs/a/b/c/"])
def test_a_page_that_is_not_there_is_answered_with_a_page_that_says_so(path: str) -> None:
    answer = get(path, docs=docs_root())

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert f'src="{"../" * (path.count("/") - 1)}docs.js"' in answer.text
    again = get(path, docs=docs_root(), headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 404


@pytest.mark.parametrize("path", ["/docs/nope.md", "/docs/nope.json", "/docs/../app.py", "/docsx", "/nope"])
def test_a_file_that_is_not_there_is_answered_in_a_word(path: str) -> None:
    answer = get(path, docs=docs_root())

    assert (answer.status_code, answer.text) == (404, "Not found\n")


@pytest.mark.parametrize("path", ["/docs/adr/", "/docs/adr", "/docs/how-to/", "/docs/tutorial/first-agent/"])
def test_a_folder_of_pages_is_a_page(path: str) -> None:
    assert get(path, docs=docs_root()).status_code == 200


def test_the_page_works_below_a_path_prefix() -> None:
    assert get("/agents/app.js", root_path="/agents").status_code == 200
    assert get("/agents/", root_path="/agents").status_code == 200


def test_nothing_in_the_page_needs_what_the_policy_forbids() -> None:
    for path in STATIC.iterdir():
        source = path.read_text(encoding="utf-8")
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert forbidden not in source, f"{path.name}: {forbidden}"
        if path.suffix == ".html":
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", source), path.name
            assert not re.search(r"(src|href)=\"https?:", source), path.name


def test_every_module_is_preloaded() -> None:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    imported = {
        name for path in STATIC.glob("*.js") for name in re.findall(r'from "\./(\w+\.js)"', path.read_text("utf-8"))
    }

    assert imported == set(re.findall(r'modulepreload" href="(\w+\.js)"', html))
