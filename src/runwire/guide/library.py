"""The documentation as sections in a full-text index."""

from __future__ import annotations

import functools
import math
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from runwire.guide import question as asked

__all__ = ["Hit", "Library", "Search", "Section", "docs_root", "packaged_library"]

_HEADING: Final = re.compile(r"^(#{1,3})\s+(.+?)\s*#*\s*$")
_FENCE: Final = re.compile(r"^\s*(```|~~~)")
_LINK: Final = re.compile(r"(\[[^\]\n]+\]\()([^)\s]+)(\))")
_PAGE_WEIGHT: Final = {"reference/events": 0.8}  # generated, a line or two per field: for looking up, not for reading
_OPENING_CHARS: Final = 300
_SKIPPED: Final = frozenset({"README"})  # a list of links answers nothing
# Of a decision record the decision answers; the sections around it repeat its words.
_TITLE_WEIGHT: Final = {"How we would notice that it was wrong": 0.7, "Context": 0.9, "Consequences": 0.9}

# The porter tokenizer makes `cancelled` and `cancel` one word; columns are weighted in `bm25` below.
_SCHEMA: Final = "CREATE VIRTUAL TABLE section USING fts5 (page, title, text, tokenize = 'porter unicode61')"
_INSERT: Final = "INSERT INTO section (rowid, page, title, text) VALUES (?, ?, ?, ?)"
_MATCHING: Final = "SELECT rowid, -bm25(section, 3.0, 6.0, 1.0) FROM section WHERE section MATCH ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading of a page and the text below it, up to the next heading."""

    id: str  # "how-to/cancel-and-deadlines#cancel-a-run"; without # for a page's beginning
    page: str  # title of the page
    title: str  # the heading; of a page's beginning the page's title
    text: str  # Markdown without the heading; links are made absolute

    @property
    def url(self) -> str:
        """Where the console serves it."""
        return f"/docs/{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A section that a query found."""

    section: Section
    matched: tuple[str, ...]  # the terms it has
    coverage: float  # share of the query's weight that it has, 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a query found, best first."""

    terms: tuple[str, ...]
    unknown: tuple[str, ...]  # terms that no section has
    hits: tuple[Hit, ...]
    searched: int  # how many sections there are


def docs_root() -> Path:
    """Return the folder of the documentation: the wheel's copy, else the source tree's."""
    packaged = Path(__file__).parent / "docs"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "docs"


@functools.cache
def packaged_library() -> Library:
    """Index the documentation of this installation, once per process (some 20 ms)."""
    return Library(list(read_sections(docs_root())))


def read_sections(root: Path) -> Iterator[Section]:
    """Yield every section of every Markdown page below `root`, in the order of their paths."""
    for path in sorted(root.rglob("*.md")):
        if path.stem not in _SKIPPED:
            name = path.relative_to(root).with_suffix("").as_posix()
            yield from split_page(name, path.read_text(encoding="utf-8"))


def split_page(name: str, markdown: str) -> list[Section]:
    """Split a page at its headings; a `#` line inside a code block is none.

    Args:
        name: the page's path without suffix, e.g. `how-to/connect-from-python`.
        markdown: the page's source.
    """
    parts: list[tuple[str, list[str]]] = [(PurePosixPath(name).name.replace("-", " ").capitalize(), [])]
    in_code = False
    for line in markdown.splitlines():
        in_code ^= _FENCE.match(line) is not None
        heading = None if in_code else _HEADING.match(line)
        if heading is None:
            parts[-1][1].append(line)
        elif len(heading.group(1)) == 1:
            parts[-1] = (_plain(heading.group(2)), parts[-1][1])
        else:
            parts.append((_plain(heading.group(2)), []))
    page = parts[0][0]
    sections: list[Section] = []
    for at, (title, lines) in enumerate(parts):
        text = _absolute_links("\n".join(lines).strip(), name)
        if text:
            anchor = f"#{slug(title)}" if at else ""
            sections.append(Section(id=name + anchor, page=page, title=title, text=text))
    return sections


def slug(title: str) -> str:
    """Return a heading's anchor as GitHub and the documentation page make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


class Library:
    """Sections and their index. Safe to use from any thread; one look-up at a time.

    Args:
        sections: what is indexed; their order decides between equals.
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        self._sections = list(sections)
        self._by_id = {section.id: section for section in self._sections}
        self._lock = threading.Lock()
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute(_SCHEMA)
        rows = [(at, s.page, s.title, s.text) for at, s in enumerate(self._sections)]
        self._index.executemany(_INSERT, rows)

    def __len__(self) -> int:
        return len(self._sections)

    @property
    def pages(self) -> list[Section]:
        """The first section of each page, in order."""
        first: dict[str, Section] = {}
        for section in self._sections:
            first.setdefault(section.id.partition("#")[0], section)
        return list(first.values())

    def section(self, section_id: str) -> Section | None:
        """Return a section by its id, None if there is none."""
        return self._by_id.get(section_id)

    def search(self, question: str, *, limit: int = 8) -> Search:
        """Find the sections that have most of what a question asks about.

        A term weighs more the fewer sections have it, and most if none has it: a section that has only
        the common words of a question covers little of it.
        """
        terms = asked.terms_of(question)
        having = {term: self._matching(asked.alternatives(term)) for term in terms}
        weights = {term: self._weight(len(found)) for term, found in having.items()}
        total = sum(weights.values()) or 1.0
        # The literal words rank; the alternatives only make a section a candidate.
        literal = self._matching(terms) if terms else {}
        scores: dict[int, float] = {}
        for found in having.values():
            for row, relevance in found.items():
                scores[row] = max(scores.get(row, 0.0), literal.get(row, 0.0), relevance * 0.5)
        best_relevance = max(scores.values(), default=1.0) or 1.0
        ranked: list[tuple[float, int, Hit]] = []
        for row, relevance in scores.items():
            matched = tuple(term for term in terms if row in having[term])
            coverage = sum(weights[term] for term in matched) / total
            section = self._sections[row]
            rank = (coverage + 0.6 * relevance / best_relevance) * _suits(question, section)
            ranked.append((-rank, row, Hit(section=section, matched=matched, coverage=round(coverage, 3))))
        hits = tuple(hit for _, _, hit in sorted(ranked, key=lambda entry: entry[:2])[:limit])
        unknown = tuple(term for term in terms if not having[term])
        return Search(terms=tuple(terms), unknown=unknown, hits=hits, searched=len(self))

    def _matching(self, words: Sequence[str]) -> dict[int, float]:
        with self._lock:
            rows = self._index.execute(_MATCHING, (asked.match_expression(words),)).fetchall()
        return dict(rows)

    def _weight(self, having: int) -> float:
        # Inverse document frequency, between 0.25 (everywhere) and 1 (one section or none).
        rarity = math.log((len(self) + 1) / (having + 1)) / math.log(len(self) + 1) if len(self) else 1.0
        return max(0.25, rarity)


def _suits(question: str, section: Section) -> float:
    folder = asked.folder_weight(question, section.id.partition("/")[0])
    # A page's opening line announces what its sections say.
    opening = 0.7 if "#" not in section.id and len(section.text) < _OPENING_CHARS else 1.0
    page = _PAGE_WEIGHT.get(section.id.partition("#")[0], 1.0)
    return folder * page * opening * _TITLE_WEIGHT.get(section.title, 1.0)


def _plain(heading: str) -> str:
    return re.sub(r"[`*]", "", heading)


def _absolute_links(text: str, page: str) -> str:
    """Make `](../how-to/x.md#y)` of a page `](/docs/how-to/x#y)`; leave other links alone."""

    def absolute(match: re.Match[str]) -> str:
        target, _, anchor = match.group(2).partition("#")
        if "://" in target or target.startswith(("/", "mailto:")) or (target and not target.endswith(".md")):
            return match.group()
        path = _join(PurePosixPath(page).parent, target).removesuffix(".md") if target else page
        return f"{match.group(1)}/docs/{path}{'#' + anchor if anchor else ''}{match.group(3)}"

    return _LINK.sub(absolute, text)


def _join(folder: PurePosixPath, target: str) -> str:
    parts: list[str] = list(folder.parts)
    for part in PurePosixPath(target).parts:
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
