"""The guide: an agent like any other, whose tools read Runwire's own documentation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from runwire.guide import answer, question
from runwire.guide.library import Hit, Section, packaged_library

if TYPE_CHECKING:
    from runwire.agents.context import Context

__all__ = ["agent", "list_pages", "read_section", "search_docs"]

_PACE_S: Final = 0.015  # between two pieces of an answer: slow enough to be seen, 200 words a second
_READ_SECTIONS: Final = 3
_ASKED_CHARS: Final = 1000  # of a pasted page the beginning is searched for


async def search_docs(query: str) -> dict[str, Any]:
    """Search the documentation; each hit says how much of the query it covers."""
    found = await asyncio.to_thread(lambda: packaged_library().search(query))
    return {
        "query": query,
        "terms": list(found.terms),
        "unknown": list(found.unknown),
        "searched": found.searched,
        "hits": [_shown_hit(hit) for hit in found.hits],
    }


async def read_section(section: str) -> dict[str, Any]:
    """Return one section of the documentation, whole."""
    found = await asyncio.to_thread(lambda: packaged_library().section(section))
    if found is None:
        raise LookupError(f"no section {section!r} in the documentation")
    return {**_shown(found), "text": found.text}


async def list_pages() -> list[dict[str, str]]:
    """List the pages of the documentation."""
    return [_shown(section) for section in await asyncio.to_thread(lambda: packaged_library().pages)]


async def agent(ctx: Context, message: str) -> AsyncIterator[str]:
    """Answer a question about Runwire from its documentation, or say honestly that it has no answer.

    Everything said follows from the message, the history and the tools' recorded results, so that a
    replay after a crash goes on in mid-sentence.
    """
    async for text in _answer(ctx, message):
        for piece in answer.pieces(text):
            yield piece
            await asyncio.sleep(_PACE_S)


async def _answer(ctx: Context, message: str) -> AsyncIterator[str]:
    message = message[:_ASKED_CHARS]
    terms = question.terms_of(message)
    before = _question_before(ctx.history, message)
    if not terms and not question.terms_of(before):
        await ctx.thinking("There is no subject to search for in this; I offer what the documentation covers.")
        yield answer.contents(await ctx.tool(list_pages))
        return
    searches: list[dict[str, Any]] = []
    for query, thought in _queries(message, terms, before):
        await ctx.thinking(thought)
        searches.append(await ctx.tool(search_docs, query=query))
        if answer.found_enough(searches[-1], asked=terms):
            break
    else:
        await ctx.thinking("No section covers enough of the question to answer it.")
        yield answer.no_answer(searches)
        return
    hits = _worth_reading(searches[-1]["hits"])
    await ctx.thinking(f"{_counted(len(hits))} to read: {', '.join(hit['title'] for hit in hits)}.")
    sections = [await ctx.tool(read_section, section=hit["section"]) for hit in hits]
    yield answer.written(searches[-1]["terms"], sections)


def _queries(message: str, terms: list[str], before: str) -> list[tuple[str, str]]:
    """Return the queries to try, in order, each with the thought that goes before it."""
    alone = (message, f"I search the documentation for {', '.join(terms)}.")
    if not question.terms_of(before):
        return [alone]
    together = (
        f"{before} {message}",
        f"This goes on from “{before}”, so I search for both: {', '.join(question.terms_of(f'{before} {message}'))}.",
    )
    return [together, alone][: 2 if terms else 1] if question.follows_up(message, terms) else [alone]


def _worth_reading(hits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the best section and, of other pages first, those that cover nearly as much."""
    best = max(hit["coverage"] for hit in hits)
    near = [hit for at, hit in enumerate(hits) if at == 0 or hit["coverage"] >= 0.75 * best]
    pages = [hit["page"] for hit in near]
    return sorted(near, key=lambda hit: pages[: near.index(hit)].count(hit["page"]))[:_READ_SECTIONS]


def _question_before(history: Any, message: str) -> str:
    """Return what the person asked before this message, empty if nothing."""
    asked = [str(entry["content"]) for entry in history if entry["role"] == "user"]
    if asked and asked[-1] == message:
        asked.pop()
    return asked[-1][:500] if asked else ""


def _shown(section: Section) -> dict[str, str]:
    return {"section": section.id, "page": section.page, "title": section.title, "url": section.url}


def _shown_hit(hit: Hit) -> dict[str, Any]:
    return {**_shown(hit.section), "coverage": hit.coverage, "matched": list(hit.matched)}


def _counted(sections: int) -> str:
    return "One section" if sections == 1 else f"{sections} sections"
