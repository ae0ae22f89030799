"""What ran, as a file: JSON, JUnit, Markdown or HTML, by the name's ending."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from xml.etree import ElementTree

__all__ = ["refused", "write"]

# What XML 1.0 §2.2 has no place for.
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;"
    "background:#fff}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem;"
    "border-bottom:1px solid #ddd;vertical-align:top;overflow-wrap:anywhere}td:nth-child(2){white-space:nowrap}"
    "pre{background:#f4f4f4;padding:.8rem;overflow:auto}.failed{color:#a40000;font-weight:600}.passed{color:#196c2e}"
    "@media(prefers-color-scheme:dark){body{background:#161616;color:#e8e8e8}td,th{border-color:#444}"
    "pre{background:#242424}.failed{color:#ff8a80}.passed{color:#7fd18e}}"
)


def refused(path: Path) -> str | None:
    """Return a sentence that says why no report can be written there; None: it can."""
    if path.suffix not in _WRITERS:
        return f"What kind of report is {path}? Name it {', '.join(f'….{end[1:]}' for end in _WRITERS)}."
    if not path.absolute().parent.is_dir():
        return f"The report {path} cannot be written: there is no folder {path.absolute().parent}."
    return None


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write a report of what `verdict.summary` returned."""
    path.write_text(_WRITERS[path.suffix](found), encoding="utf-8")


def _as_json(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=2) + "\n"


def _as_junit(found: Mapping[str, Any]) -> str:
    """Return what CI systems read: one suite, tests with their files as class names, other faults as errors.

    It is of the form that the report of Ant's task has.
    """
    counts = found["counts"]
    tests: dict[str, dict[str, Any]] = {**found["tests"]}
    tests |= {name: {"outcome": "not_run", "seconds": 0.0} for name in found["not_run"] if name not in tests}
    # A skip that should not be is a failure, too.
    blamed = {name: fault for fault in found["faults"] for name in tests if fault.startswith(f"{name} ")}
    loose = [fault for fault in found["faults"] if fault not in blamed.values()]
    suite = ElementTree.Element(
        "testsuite",
        id="0",
        package="runwire.test",
        name="runwire test",
        timestamp=f"{datetime.now(tz=UTC) - timedelta(seconds=found['seconds']):%Y-%m-%dT%H:%M:%S}",  # no zone: UTC
        hostname="localhost",
        tests=str(len(tests) + len(loose)),
        failures=str(len(blamed)),
        errors=str(len(loose)),
        skipped=str(counts["skipped"] + counts["not_run"] - len(blamed) + counts["failed"]),
        time=f"{found['seconds']:.3f}",
    )
    ElementTree.SubElement(suite, "properties")
    for name, test in sorted(tests.items()):
        file, _, function = name.partition("::")
        case = ElementTree.SubElement(
            suite, "testcase", classname=file, name=function or file, time=f"{test['seconds']:.3f}"
        )
        if name in blamed:
            text = _NOT_XML.sub("�", test.get("evidence", blamed[name]))
            message = text.strip().splitlines()[-1][:500]
            ElementTree.SubElement(case, "failure", type="failed", message=message).text = text
        elif test["outcome"] != "passed":
            ElementTree.SubElement(case, "skipped", message=_NOT_XML.sub("�", found["not_run"].get(name, "")))
    for fault in loose:
        case = ElementTree.SubElement(suite, "testcase", classname="runwire test", name=fault, time="0.000")
        ElementTree.SubElement(case, "error", type="fault", message=fault)
    ElementTree.SubElement(suite, "system-out")
    ElementTree.SubElement(suite, "system-err")
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _verdict(found: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in found["counts"].items() if count)
    return f"{'Passed' if found['ok'] else 'FAILED'} in {found['seconds']} s ({counts or 'nothing ran'})"


def _as_markdown(found: Mapping[str, Any]) -> str:
    lines = ["## Runwire test", "", f"**{_verdict(found)}**", "", "| category | passed | failed | skipped | not run |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    lines += [f"| {name} | {' | '.join(map(str, counts.values()))} |" for name, counts in found["categories"].items()]
    if found["faults"]:
        lines += ["", "### Faults", "", *(f"- {fault}" for fault in found["faults"])]
    for name, test in found["tests"].items():
        if text := test.get("evidence"):
            fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
            lines += ["", f"### `{name}`", "", fence, text, fence]
    if found["not_run"]:
        lines += ["", "### Not run", "", *(f"- `{name}`: {why}" for name, why in found["not_run"].items())]
    return "\n".join(lines) + "\n"


def _as_html(found: Mapping[str, Any]) -> str:
    """Return a page that needs nothing else: no script, no network."""
    rows = [
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{count}</td>' for count in counts.values())}</tr>"
        for name, counts in found["categories"].items()
    ]
    tests = [
        f'<tr><td class="{test["outcome"]}">{test["outcome"]}</td><td>{test["seconds"]:.2f} s</td>'
        f"<td>{html.escape(name)}{_folded(test.get('evidence', ''))}</td></tr>"
        for name, test in sorted(found["tests"].items(), key=lambda item: (item[1]["outcome"], -item[1]["seconds"]))
    ]
    faults = "".join(f'<li class="failed">{html.escape(fault)}</li>' for fault in found["faults"])
    missing = "".join(
        f"<li>{html.escape(name)}: {html.escape(str(why))}</li>" for name, why in found["not_run"].items()
    )
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Runwire test</title><style>{_STYLE}</style>',
        f'<h1>Runwire test</h1><p class="{"passed" if found["ok"] else "failed"}">{html.escape(_verdict(found))}</p>',
        f"<ul>{faults}</ul>" if faults else "",
        f"<table><tr><th>category<th>passed<th>failed<th>skipped<th>not run</tr>{''.join(rows)}</table>",
        f"<h2>Not run</h2><ul>{missing}</ul>" if missing else "",
        f"<h2>Tests</h2><table>{''.join(tests)}</table></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _folded(text: str) -> str:
    return f"<details><summary>evidence</summary><pre>{html.escape(text)}</pre></details>" if text else ""


_WRITERS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = MappingProxyType(
    {".json": _as_json, ".xml": _as_junit, ".md": _as_markdown, ".html": _as_html}
)
