"""A report as text for a terminal, as Markdown for a comment, as JUnit XML, and as a page that needs no network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit
from xml.etree import ElementTree

from runwire.conformance.markup import code, escape, fenced, folded, line, page, table
from runwire.conformance.report import Report, Result, Status, as_json, evidence_lines, issue_words

__all__ = ["FORMATS", "as_html", "as_junit", "as_markdown", "as_text"]

_MARK: Final[dict[Status, str]] = {"kept": "ok  ", "broken": "FAIL", "not_checked": "–   "}
_SIGN: Final[dict[Status, str]] = {"kept": "✅", "broken": "❌", "not_checked": "➖"}
_SHOWN: Final = ("p50", "p95", "longest", "budget")
_READING: Final = re.compile("(_(p50|p95|max))?_ms$")
_AS_CODE: Final = ("deployment", "other gateways")
_NONE: Final = "–"
_FIRST: Final = 3  # pieces of evidence that are shown at once; the rest is folded
_NO_XML: Final = re.compile(
    "[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # XML 1.0 §2.2 has no such characters


def as_text(report: Report) -> str:
    """Return the report for a terminal; no colours."""
    lines = [f"{report.url} · {report.server or 'no server'} · expect {report.expect}"]
    looked_at = [result for result in report.results if result.why is None or result.why != report.problem]
    for result in report.results if looked_at else ():  # else the verdict says all that there is
        lines.append(f"{_MARK[result.status]} {result.id}: {result.promise}")
        if result.why and result.why != report.problem:  # that one is the verdict's
            lines.append(f"       {result.why}")
        for evidence in result.evidence:
            lines += [f"       {line}" for line in evidence_lines(evidence)]
    for name, *values in _figures(report):
        said = ", ".join(f"{word} {value}" for word, value in zip(_SHOWN, values, strict=True) if value != _NONE)
        lines.append(f"{name}, ms: {said}")
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
        f"**{line(report.verdict)}**",
        "",
        *(f"- {name}: {code(value) if name in _AS_CODE else line(value)}" for name, value in _facts(report).items()),
        "",
        "| category | kept | broken | not checked |",
        "| --- | --- | --- | --- |",
    ]
    for category in report.categories:
        kept, broken, unchecked = _counted(report, category)
        lines.append(f"| {_SIGN[_worst(kept, broken)]} `{category}` | {kept} | {broken} | {unchecked} |")
    for result in report.of("broken"):
        shown = ["\n".join(evidence_lines(evidence)) for evidence in result.evidence]
        lines += ["", f"### ❌ `{result.id}`", "", result.promise]
        for text in shown[:_FIRST]:
            lines += ["", *fenced(text)]
        if more := shown[_FIRST:]:
            lines += ["", f"<details><summary>{len(more)} more like it</summary>", "", *fenced("\n\n".join(more))]
            lines += ["", "</details>"]
    if figures := _figures(report):
        lines += ["", "### Milliseconds", "", f"| what | {' | '.join(_SHOWN)} |", f"| --- |{' ---: |' * len(_SHOWN)}"]
        lines += [f"| {' | '.join(row)} |" for row in figures]
    if reasons := _reasons(report):
        lines += ["", "### Not checked", "", *(f"- {names}: {line(why)}" for why, names in reasons.items())]
    lines += ["", "<details><summary>All promises</summary>", "", "| | case | promise |", "| --- | --- | --- |"]
    lines += [f"| {_SIGN[r.status]} | `{r.id}` | {r.promise} |" for r in report.results]
    return (
        "\n".join([*lines, "", "</details>", "", "### Next", "", *(f"- {line(step)}" for step in _next(report))]) + "\n"
    )


def _worst(kept: int, broken: int) -> Status:
    return "broken" if broken else "kept" if kept else "not_checked"


def _counted(report: Report, category: str) -> tuple[int, int, int]:
    found = [result.status for result in report.results if result.category == category]
    return found.count("kept"), found.count("broken"), found.count("not_checked")


def _facts(report: Report) -> dict[str, str]:
    """Return what was checked, and when."""
    return {
        "deployment": report.url,
        **({"other gateways": " ".join(report.others)} if report.others else {}),
        "server": report.server or "did not say what it is",
        "agent": report.agent or "the deployment's default",
        "when": f"{report.started_at.replace('T', ' ').replace('+00:00', ' UTC')}, {report.duration_s:.1f} s",
        "expected": "all five events" if report.expect == "five" else "any legal run",
    }


def _figures(report: Report) -> list[tuple[str, ...]]:
    """Return what was measured, as rows: what, and `_SHOWN`. One reading alone stands as the longest."""
    rows = {}
    for name in report.figures:
        kind = _READING.sub("", name)
        found = [report.figures.get(f"{kind}_{share}_ms") for share in ("p50", "p95", "max")]
        if found == [None] * len(found):
            found[-1] = report.figures[name]
        values = [*found, report.budget.get(f"{kind}_ms")]
        rows[kind] = (kind.replace("_", " "), *(_NONE if value is None else f"{value:,.10g}" for value in values))
    return [rows[kind] for kind in sorted(rows)]


def _reasons(report: Report) -> dict[str, str]:
    """Return each reason why something was not checked, and what: categories whole where they are."""
    if report.problem and {result.why for result in report.results} == {report.problem}:
        return {report.problem: "everything"}
    found: dict[str, dict[str, list[str]]] = {}
    for result in report.of("not_checked"):
        found.setdefault(result.why or "", {}).setdefault(result.category, []).append(f"`{result.id}`")
    return {
        why: ", ".join(
            f"all of `{category}`" if len(names) == sum(_counted(report, category)) > 1 else ", ".join(names)
            for category, names in each.items()
        )
        for why, each in found.items()
    }


def _next(report: Report) -> list[str]:
    """Return what to do now, by what came out."""
    if report.problem:
        return [f"Mend what kept the check away, and run it again: {report.problem}"]
    broken = report.of("broken")
    if not broken:
        skipped = report.of("not_checked")
        return ["Nothing is to be done."] + (
            [f"{len(skipped)} promises were not looked at; “Not checked” says what each needs."] if skipped else []
        )
    first = next((result for result in broken if result.priority == "p1"), broken[0])
    return [
        *([f"Begin with `{first.id}`: others may follow from it."] if len(broken) > 1 else []),
        f"See it again alone: `{report.again(first.category)}`.",
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

_WORD: Final[dict[Status, str]] = {"kept": "kept", "broken": "broken", "not_checked": "not checked"}
_LOOK: Final[dict[Status, str]] = {"kept": "good", "broken": "bad", "not_checked": "other"}


def as_html(report: Report) -> str:
    """Return the report as one page: no script, and nothing from elsewhere."""
    outcome: Status = ("kept", "broken", "not_checked")[report.exit_code]
    counts = [(category, *_counted(report, category)) for category in report.categories]
    body = [
        "<h1>Runwire check</h1>",
        f'<p class="verdict {_LOOK[outcome]}">{escape(report.verdict)}</p>',
        "<dl>",
        *(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(report).items()),
        "</dl>",
    ]
    for result in report.of("broken"):
        shown = [f"<pre>{escape(chr(10).join(evidence_lines(evidence)))}</pre>" for evidence in result.evidence]
        body += [f"<h2>Broken: {escape(result.id)}</h2>", f"<p>{escape(result.promise)}</p>", *shown[:_FIRST]]
        body.append(folded(f"{len(shown) - _FIRST} more like it", "".join(shown[_FIRST:])))
    body += ["<h2>Next</h2>", "<ul>", *(f"<li>{_words(step)}</li>" for step in _next(report)), "</ul>"]
    body += ["<h2>Categories</h2>", table(("category", "kept", "broken", "not checked"), counts)]
    if figures := _figures(report):
        body += ["<h2>Milliseconds</h2>", table(("what", *_SHOWN), figures)]
    if reasons := _reasons(report):
        body += ["<h2>Not checked</h2>", "<ul>"]
        body += [f"<li>{_words(names)}: {escape(why)}</li>" for why, names in reasons.items()]
        body.append("</ul>")
    body.append("<h2>All promises</h2>")
    for category, *_ in counts:
        body += [f"<h3>{escape(category)}</h3>", '<table class="wide results">']
        body += [_row(result) for result in report.results if result.category == category]
        body.append("</table>")
    return page(f"Runwire check: {report.url}", body)


def _row(result: Result) -> str:
    name = f'<td class="mark">{_WORD[result.status]}</td><td><code>{escape(result.case)}</code></td>'
    return f'<tr class="{_LOOK[result.status]}">{name}<td>{escape(result.promise)}</td></tr>'


def _words(text: str) -> str:
    """Return a sentence of ours, with what stands between backticks as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


FORMATS: Final[Mapping[str, Callable[[Report], str]]] = MappingProxyType(
    {"md": as_markdown, "json": lambda report: as_json(report) + "\n", "junit": as_junit, "html": as_html}
)
"""What `--report` takes."""
