"""The documentation's own promises: its code is valid, its links lead somewhere, nothing is left out."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire.guide import docs_root
from runwire.guide.library import packaged_library, slug, split_page
from runwire.protocol.codes import CloseCode, ErrorCode, RunFailure
from runwire.protocol.events import EventType
from runwire.settings import Settings

DOCS = docs_root()
PAGES = sorted(DOCS.rglob("*.md"))
EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.py"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found, code in FENCE.findall(page.read_text(encoding="utf-8")):
            if found == language:
                yield name(page), code


@pytest.mark.parametrize(("page", "code"), list(blocks("python")))
def test_every_python_block_compiles(page: str, code: str) -> None:
    compile(code, page, "exec")


@pytest.mark.parametrize(("page", "code"), list(blocks("json")))
def test_every_json_block_is_json(page: str, code: str) -> None:
    assert json.loads(code) is not None


@pytest.mark.parametrize(("page", "code"), list(blocks("toml")))
def test_every_toml_block_is_toml(page: str, code: str) -> None:
    assert tomllib.loads(code)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_compiles(example: Path) -> None:
    compile(example.read_text(encoding="utf-8"), example.name, "exec")


def test_there_are_blocks_to_check() -> None:
    assert len(list(blocks("python"))) >= 6
    assert len(list(blocks("json"))) >= 4
    assert EXAMPLES


def test_every_link_leads_to_a_page_and_a_heading() -> None:
    anchors = {
        name(page): {slug(section.title) for section in split_page(name(page), page.read_text(encoding="utf-8"))}
        for page in PAGES
    }
    broken: list[str] = []
    for page in PAGES:
        prose = FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in LINK.findall(prose):
            path, _, anchor = target.partition("#")
            if "://" in target:
                continue
            found = (page.parent / path).resolve() if path else page
            if found.is_relative_to(DOCS.parent / "tests"):  # what shows a promise: file and function
                if not found.is_file() or (anchor and f"def {anchor}(" not in found.read_text(encoding="utf-8")):
                    broken.append(f"{name(page)}: {target}")
                continue
            if not found.exists() or (anchor and anchor not in anchors.get(name(found), set())):
                broken.append(f"{name(page)}: {target}")
    assert broken == []


@pytest.mark.parametrize("event_type", list(EventType))
def test_the_reference_explains_every_event_type(event_type: str) -> None:
    assert f"`{event_type}`" in (DOCS / "reference" / "event-types.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", list(RunFailure))
def test_the_reference_explains_every_code_of_a_failed_run(code: str) -> None:
    assert f"`{code}`" in (DOCS / "reference" / "event-types.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", [f"`{code}`" for code in ErrorCode] + [str(int(code)) for code in CloseCode])
def test_the_reference_names_every_error_and_close_code(code: str) -> None:
    assert f"| {code} |" in (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("setting", list(Settings.model_fields))
def test_the_reference_names_every_setting(setting: str) -> None:
    assert f"`{setting}`" in (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")


def test_section_ids_are_unique() -> None:
    library = packaged_library()
    sections = [section.id for page in PAGES for section in split_page(name(page)[:-3], page.read_text("utf-8"))]
    assert len(sections) == len(set(sections))
    assert len(library) > 100
