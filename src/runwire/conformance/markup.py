"""Markdown and pages as all reports write them: one look, and what others said breaks out of nothing."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["code", "escape", "fenced", "folded", "line", "page", "table"]

_STYLE: Final = """
:root { color-scheme: light dark; --good: #1a7f37; --bad: #cf222e; --dim: #59636e; --line: #8884; --ink: #2f6feb; }
@media (prefers-color-scheme: dark) { :root { --good: #3fb950; --bad: #ff7b72; --dim: #9198a1; --ink: #58a6ff; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; } .dim { color: var(--dim); margin-top: 0; }
.verdict { border-left: .4rem solid var(--dim); padding: .5rem 1rem; font-weight: 600; }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
table { border-collapse: collapse; } td, th { padding: .3rem 1.2rem .3rem 0; text-align: left; vertical-align: top; }
tr + tr { border-top: 1px solid var(--line); } th { font-weight: 600; overflow-wrap: normal; } .wide { width: 100%; }
td.number, th.number { text-align: right; } td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.good > .mark { color: var(--good); } .bad > .mark { color: var(--bad); font-weight: 600; }
.mark { white-space: nowrap; width: 6rem; } .other { color: var(--dim); }
pre { white-space: pre-wrap; word-break: break-all; border: 1px solid var(--line); border-radius: .4rem; padding: .7rem;
  font-size: .85rem; }
code { font-size: .9em; } details { margin: .5rem 0; } summary { cursor: pointer; color: var(--dim); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; }
dt { font-weight: 600; } dd { margin: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .7rem; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .8rem; } .card span { color: var(--dim); }
.card b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; }
.card.bad b { color: var(--bad); } .card.good b { color: var(--good); }
.cards + .dim { margin-top: .8rem; }
.chart, .scroll { overflow-x: auto; } .scroll td { overflow-wrap: normal; }
.chart svg { width: 100%; min-width: 40rem; height: auto; display: block; }
.chart text { font: 11px system-ui, sans-serif; fill: var(--dim); }
@media (max-width: 40rem) { td, th { padding-right: .7rem; }
  .results tr { display: grid; grid-template-columns: 6rem 1fr; }
  .results td:nth-child(3) { grid-column: 1 / -1; } dl { gap: .2rem .8rem; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return one page with a style of its own: no script, and nothing from elsewhere."""
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{viewport}<title>{escape(title)}</title><style>{_STYLE}</style>'
    text = "\n".join(part for part in body if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{text}\n</body></html>\n'


def escape(text: object) -> str:
    """Return text as a page shows it."""
    return html.escape(str(text), quote=True)


def folded(summary: str, content: str, *, is_open: bool = False) -> str:
    """Return what a click shows; empty: there is nothing. `content` is HTML."""
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>{content}</details>" * bool(
        content
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table whose first column is a name and whose others are numbers; empty: it has no rows."""
    cells = [f"<th>{escape(head[0])}</th>", *(f'<th class="number">{escape(name)}</th>' for name in head[1:])]
    lines = [
        [f"<td>{escape(first)}</td>", *(f'<td class="number">{escape(each)}</td>' for each in rest)]
        for first, *rest in rows
    ]
    text = "".join(f"<tr>{''.join(row)}</tr>" for row in [cells, *lines])
    return f'<div class="scroll"><table>{text}</table></div>' if lines else ""


def fenced(text: str) -> list[str]:
    """Return lines of Markdown that show text as it is, whatever is in it (CommonMark §4.5)."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return [fence, text, fence]


def code(text: str) -> str:
    """Return text as code within a line of Markdown (CommonMark §6.1)."""
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"


def line(text: str) -> str:
    """Return what others said as one line of Markdown without tags, whose table cell does not end early."""
    return re.sub(r"\s+", " ", text).replace("<", "&lt;").replace("|", "\\|")
