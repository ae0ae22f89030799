"""A report as text for a terminal, as Markdown for a comment, as JUnit XML, and as a page that needs no network."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit
from xml.etree import ElementTree

from runwire.conformance.report import Report, Result, Status, as_json, evidence_lines, issue_words

__all__ = ["FORMATS", "as_html", "as_junit", "as_markdown", "as_text"]

_MARK: Final[dict[Status, str]] = {"kept": "ok  ", "broken": "FAIL", "not_checked": "–   "}
_SIGN: Final[dict[Status, str]] = {"kept": "✅", "broken": "❌", "not_checked": "➖"}
_NO_XML: Final = re.compile(
    "[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # XML 1.0 §2.2 has no such characters


def as_text(report: Report) -> str:
    """Return the report for a terminal; no colours."""
    lines = [f"{report.url} · {report.server or 'no server'} · expect {report.expect}"]
    for result in report.results:
        lines.append(f"{_MARK[result.status]} {result.id}: {result.promise}")
        if result.why and result.why != report.problem:  # that one is the verdict's
            lines.append(f"       {result.why}")
        for evidence in result.evidence:
            lines += [f"       {line}" for line in evidence_lines(evidence)]
    lines += [f"{name}: {value:g}" for name, value in sorted(report.figures.items())]
    for result in report.of("broken"):
        lines += ["", "── to paste into an issue ──", issue_words(report, result)]
    if report.of("broken"):
        lines.append("")
    return "\n".join([*lines, report.verdict])


def as_markdown(report: Report) -> str:
    """Return the report as it can be posted as a comment."""
    lines = [
        "## Runwire check",
        "",
        f"**{report.verdict}**",
        "",
        f"- deployment: `{report.url}` ({report.server or 'did not say what it is'})",
        f"- when: {report.started_at}, {report.duration_s:.1f} s; expected events: {report.expect}",
        "",
        "| category | kept | broken | not checked |",
        "| --- | --- | --- | --- |",
    ]
    for category in report.categories:
        kept, broken, unchecked = _counted(report, category)
        lines.append(f"| {_SIGN[_worst(kept, broken)]} `{category}` | {kept} | {broken} | {unchecked} |")
    for result in report.of("broken"):
        lines += ["", f"### ❌ `{result.id}`", "", result.promise]
        for evidence in result.evidence:
            lines += ["", "```", *evidence_lines(evidence), "```"]
    if report.figures:
        lines += ["", "### Figures", "", "| what | value |", "| --- | --- |"]
        lines += [f"| {name} | {value:g} |" for name, value in sorted(report.figures.items())]
    if unchecked_ := report.of("not_checked"):
        lines += ["", "### Not checked", "", *(f"- `{r.id}`: {r.why}" for r in unchecked_)]
    lines += ["", "<details><summary>All promises</summary>", "", "| | case | promise |", "| --- | --- | --- |"]
    lines += [f"| {_SIGN[r.status]} | `{r.id}` | {r.promise} |" for r in report.results]
    return "\n".join([*lines, "", "</details>", "", "### Next", "", *(f"- {step}" for step in _next(report))]) + "\n"


def _worst(kept: int, broken: int) -> Status:
    return "broken" if broken else "kept" if kept else "not_checked"


def _counted(report: Report, category: str) -> tuple[int, int, int]:
    found = [result.status for result in report.results if result.category == category]
    return found.count("kept"), found.count("broken"), found.count("not_checked")


def _next(report: Report) -> list[str]:
    """Return what to do now, by what came out."""
    if report.problem:
        return [f"Mend what kept the check away, and run it again: {report.problem}"]
    broken = report.of("broken")
    if not broken:
        skipped = report.of("not_checked")
        return ["Nothing is to be done."] + (
            [f"{len(skipped)} promises were not looked at; the reasons above say what each needs."] if skipped else []
        )
    first = next((result for result in broken if result.priority == "p1"), broken[0])
    return [
        f"Begin with `{first.id}`: others may follow from it.",
        f"See it again alone: `runwire check {report.url} --only {first.category} --expect {report.expect}`.",
        *(["The log of the server at that time says more; the ids above are in it."] if first.evidence else []),
    ]


# ── JUnit ────────────────────────────────────────────────────────────────────────────────────────────────


def as_junit(report: Report) -> str:
    """Return the report as JUnit XML: a suite for each category (the schema of the Ant task, as CI servers read it)."""
    root = ElementTree.Element("testsuites")
    for number, category in enumerate(report.categories):
        results = [result for result in report.results if result.category == category]
        kept, broken, unchecked = _counted(report, category)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=category,
            package="runwire.check",
            id=str(number),
            timestamp=report.started_at[:19],  # the schema has no time zone; ours is UTC
            hostname=urlsplit(report.url).hostname or "localhost",
            tests=str(kept + broken + unchecked),
            failures=str(broken),
            errors="0",
            skipped=str(unchecked),
            time=f"{sum(result.duration_s for result in results):.3f}",
        )
        properties = ElementTree.SubElement(suite, "properties")
        about = {"url": report.url, "server": report.server or "", "expect": report.expect, "verdict": report.verdict}
        for name, value in about.items():
            ElementTree.SubElement(properties, "property", name=name, value=_xml(value))
        for result in results:
            _add_case(suite, report, result)
        ElementTree.SubElement(suite, "system-out")
        ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _add_case(suite: ElementTree.Element, report: Report, result: Result) -> None:
    element = ElementTree.SubElement(
        suite,
        "testcase",
        name=result.case,
        classname=f"runwire.check.{result.category}",
        time=f"{result.duration_s:.3f}",
    )
    if result.status == "broken":
        failure = ElementTree.SubElement(element, "failure", type="broken", message=_xml(result.promise))
        failure.text = _xml(issue_words(report, result))
    elif result.status == "not_checked":
        ElementTree.SubElement(element, "skipped", message=_xml(result.why or ""))


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


# ── HTML ─────────────────────────────────────────────────────────────────────────────────────────────────

_STYLE: Final = """
:root { color-scheme: light dark; --good: #1a7f37; --bad: #cf222e; --dim: #6e7781; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.verdict { border-left: .4rem solid var(--dim); padding: .5rem 1rem; font-weight: 600; }
.verdict.kept { border-color: var(--good); } .verdict.broken { border-color: var(--bad); }
table { border-collapse: collapse; width: 100%; } td { padding: .3rem .6rem; vertical-align: top; }
tr + tr { border-top: 1px solid var(--line); }
.kept > td:first-child { color: var(--good); } .broken > td:first-child { color: var(--bad); font-weight: 600; }
.not_checked { color: var(--dim); }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; padding: .7rem; font-size: .85rem; }
code { font-size: .9em; } td:nth-child(1) { width: 7rem; } td:nth-child(2) { width: 15rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; }
dt { font-weight: 600; } dd { margin: 0; }
"""
_WORD: Final[dict[Status, str]] = {"kept": "kept", "broken": "broken", "not_checked": "not checked"}


def as_html(report: Report) -> str:
    """Return the report as one page: no script, and nothing from elsewhere."""
    outcome: Status = ("kept", "broken", "not_checked")[report.exit_code]
    facts = {
        "deployment": report.url,
        "server": report.server or "did not say what it is",
        "when": f"{report.started_at}, {report.duration_s:.1f} s",
        "expected events": report.expect,
        **{name: f"{value:g}" for name, value in sorted(report.figures.items())},
    }
    body = [
        "<h1>Runwire check</h1>",
        f'<p class="verdict {outcome}">{_e(report.verdict)}</p>',
        "<dl>",
        *(f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>" for name, value in facts.items()),
        "</dl>",
    ]
    for result in report.of("broken"):
        body += [f"<h2>Broken: {_e(result.id)}</h2>", f"<p>{_e(result.promise)}</p>"]
        body += [f"<pre>{_e(chr(10).join(evidence_lines(evidence)))}</pre>" for evidence in result.evidence]
    for category in report.categories:
        kept, broken, unchecked = _counted(report, category)
        body += [f"<h2>{_e(category)}: {kept} kept, {broken} broken, {unchecked} not checked</h2>", "<table>"]
        body += [_row(result) for result in report.results if result.category == category]
        body.append("</table>")
    body += ["<h2>Next</h2>", "<ul>", *(f"<li>{_words(step)}</li>" for step in _next(report)), "</ul>"]
    head = f'<meta charset="utf-8"><title>Runwire check: {_e(report.url)}</title><style>{_STYLE}</style>'
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    start = f'<!doctype html>\n<html lang="en"><head>{viewport}{head}</head>\n<body>\n'
    return start + chr(10).join(body) + "\n</body></html>\n"


def _row(result: Result) -> str:
    why = f"<br><small>{_e(result.why)}</small>" if result.why else ""
    name = f"<td>{_WORD[result.status]}</td><td><code>{_e(result.case)}</code></td>"
    return f'<tr class="{result.status}">{name}<td>{_e(result.promise)}{why}</td></tr>'


def _words(text: str) -> str:
    """Return a sentence of ours, with what stands between backticks as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", _e(text))


def _e(text: str) -> str:
    return html.escape(text)


FORMATS: Final[Mapping[str, Callable[[Report], str]]] = MappingProxyType(
    {"md": as_markdown, "json": lambda report: as_json(report) + "\n", "junit": as_junit, "html": as_html}
)
"""What `--report` takes."""
