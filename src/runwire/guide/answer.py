"""An answer made of the documentation's own words. Pure: from what the tools returned to Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from runwire.guide.question import alternatives, stem

__all__ = ["contents", "found_enough", "no_answer", "pieces", "written"]

_WHOLE_CHARS: Final = 1300  # a section up to here is quoted whole; a longer one by its best passages
_PASSAGE_CHARS: Final = 420  # of every further section
_TABLE_ROWS: Final = 6
_WORDS_PER_PIECE: Final = 3
_WORD: Final = re.compile(r"[^\W_]+(?:[_'-][^\W_]+)*")
_FENCE: Final = ("```", "~~~")


def found_enough(search: dict[str, Any], *, asked: Sequence[str] = ()) -> bool:
    """Return whether the best section has what the question is about.

    Half of the weight of its terms; of a long question less, because more of its words are its own story.

    Args:
        search: what `search_docs` returned.
        asked: terms of the message itself, if the query also has those of the question before it: a section
            that has none of them only answers that one again.
    """
    hits = [hit for hit in search["hits"] if not asked or set(hit["matched"]) & set(asked)]
    if not hits:
        return False
    terms = len(search["terms"])
    needed = 0.5 if terms <= 3 else 0.42
    return float(max(hit["coverage"] for hit in hits)) >= needed


def written(terms: Sequence[str], sections: Sequence[dict[str, Any]]) -> str:
    """Compose an answer from the sections that were read, the best one first.

    Args:
        terms: what the question asks about.
        sections: what `read_section` returned, 1..3 of them.
    """
    stems = _stems(terms)
    first, *others = sections
    parts = [_best_of(first["text"], stems), f"— {_link(first)}"]
    if others:
        parts.append("**Also about this**")
        parts += [f"{_passage(other['text'], stems)}\n\n— {_link(other)}" for other in others]
    return "\n\n".join(parts)


def no_answer(searches: Sequence[dict[str, Any]]) -> str:
    """Say plainly that the documentation has no answer, and what was searched for."""
    last = searches[-1]
    words = _listed([f"`{term}`" for term in last["terms"]])
    parts = [f"The documentation does not answer that. I searched all {last['searched']} sections of it for {words}."]
    if last["unknown"]:
        verb = "is" if len(last["unknown"]) == 1 else "are"
        parts[0] += f" {_listed([f'`{term}`' for term in last['unknown']])} {verb} mentioned nowhere."
    if last["hits"]:
        parts.append("The nearest I found, which may or may not help:")
        parts.append("\n".join(f"- {_link(hit)}" for hit in last["hits"][:3]))
    return "\n\n".join(parts)


def contents(pages: Sequence[dict[str, Any]]) -> str:
    """Offer what can be asked about: the pages that people read."""
    listed = "\n".join(f"- [{page['page']}]({page['url']})" for page in pages if not page["section"].startswith("adr/"))
    return f"Ask me about Runwire: I answer from its documentation and say so when it has no answer. It has\n\n{listed}"


def pieces(text: str) -> Iterator[str]:
    """Cut an answer into a few words at a time, nothing added and nothing lost."""
    words = re.findall(r"\s*\S+\s*", text) or ([text] if text else [])
    for at in range(0, len(words), _WORDS_PER_PIECE):
        yield "".join(words[at : at + _WORDS_PER_PIECE])


def _best_of(text: str, stems: frozenset[str]) -> str:
    if len(text) <= _WHOLE_CHARS:
        return text
    texts = ["\n\n".join(_shortened(block, stems) for block in group) for group in _groups(text)]
    order = sorted(range(len(texts)), key=lambda at: (-_score(texts[at], stems), at))
    chosen: list[int] = []
    size = 0
    for at in order:
        if chosen and (size + len(texts[at]) > _WHOLE_CHARS or _score(texts[at], stems) == 0):
            continue
        chosen.append(at)
        size += len(texts[at])
    return "\n\n".join(texts[at] for at in sorted(chosen))


def _passage(text: str, stems: frozenset[str]) -> str:
    # A line that introduces something says nothing without it.
    introduced = ["\n\n".join(group) for group in _groups(text) if group[0].endswith(":")]
    blocks = [block for block in _blocks(text) if not _is_code(block) and not block.endswith(":")]
    blocks = [_shortened(block, stems) for block in blocks + [b for b in introduced if len(b) <= _PASSAGE_CHARS]]
    blocks = blocks or _blocks(text)[:1]
    best = max(blocks, key=lambda block: (_score(block, stems), -blocks.index(block)))
    if len(best) <= _PASSAGE_CHARS or "```" in best or best.startswith("|"):
        return best
    if re.match(r"([-*]|\d+\.) ", best):
        items = re.split(r"\n(?=(?:[-*]|\d+\.) )", best)
        return "\n".join(sorted(sorted(items, key=lambda item: -_score(item, stems))[:2], key=items.index))
    sentences = re.split(r"(?<=[.!?]) ", best)
    at = max(range(len(sentences)), key=lambda k: (_score(sentences[k], stems), -k))
    taken = [sentences[at]]
    for sentence in sentences[at + 1 :]:
        if sum(map(len, taken)) + len(sentence) > _PASSAGE_CHARS:
            break
        taken.append(sentence)
    return " ".join(taken)


def _groups(text: str) -> list[list[str]]:
    """Keep a block and the code or list that it introduces together."""
    groups: list[list[str]] = []
    for block in _blocks(text):
        if groups and (groups[-1][-1].endswith(":") or (_is_code(block) and not _is_code(groups[-1][-1]))):
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def _shortened(block: str, stems: frozenset[str]) -> str:
    """Keep of a long table its head and the rows that the question is about."""
    lines = block.splitlines()
    if not block.startswith("|") or len(lines) <= _TABLE_ROWS + 2:
        return block
    rows = sorted(lines[2:], key=lambda row: -_score(row, stems))[:_TABLE_ROWS]
    kept = [row for row in rows if _score(row, stems)] or rows
    return "\n".join([*lines[:2], *sorted(kept, key=lines.index)])


def _blocks(text: str) -> list[str]:
    blocks: list[str] = []
    lines: list[str] = []
    in_code = False
    for line in [*text.splitlines(), ""]:
        fence = line.lstrip().startswith(_FENCE)
        if (not line.strip() and not in_code) or (fence and not in_code and lines):
            if lines:
                blocks.append("\n".join(lines))
            lines = []
        if line.strip() or in_code:
            lines.append(line)
        in_code ^= fence
    if lines:
        blocks.append("\n".join(lines))
    return blocks


def _is_code(block: str) -> bool:
    return block.lstrip().startswith(_FENCE)


def _stems(terms: Sequence[str]) -> frozenset[str]:
    return frozenset(stem(word) for term in terms for also in alternatives(term) for word in _WORD.findall(also))


def _score(text: str, stems: frozenset[str]) -> int:
    return len({stem(word) for word in _WORD.findall(text)} & stems)


def _link(section: dict[str, Any]) -> str:
    name = section["page"] if section["title"] == section["page"] else f"{section['page']} › {section['title']}"
    return f"[{name}]({section['url']})"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "nothing"
