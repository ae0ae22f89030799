"""What ran, for people: as Markdown and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from runwire.conformance.markup import code, escape, fenced, folded, line, page, table
from runwire.testing.reports import parted

__all__ = ["as_html", "as_markdown"]

_NAMED: Final = 10  # tests of one reason not to run that are named; the report as JSON has all


def _verdict(found: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in found["counts"].items() if count)
    return f"{'Passed' if found['ok'] else 'FAILED'} in {found['seconds']} s ({counts or 'nothing ran'})"


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    return {
        "when": f"{found['started_at'].replace('T', ' ').replace('+00:00', ' UTC')}, {found['seconds']} s",
        "machine": found["machine"],
        **({"services": ", ".join(found["services"])} if found["services"] else {}),
    }


def _evidence(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what pytest says of each file that could not be collected, and of each failure."""
    return {
        **found["broken"],
        **{name: test["evidence"] for name, test in found["tests"].items() if "evidence" in test},
    }


def _reasons(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return each reason why tests did not run, and those tests."""
    reasons: dict[str, list[str]] = {}
    for name, why in found["not_run"].items():
        reasons.setdefault(str(why).removeprefix("Skipped: "), []).append(name)
    return reasons


def as_markdown(found: Mapping[str, Any]) -> str:
    """Return the report as it can be posted as a comment."""
    lines = ["## Runwire test", "", f"**{_verdict(found)}**", ""]
    lines += [f"- {name}: {value}" for name, value in _facts(found).items()]
    lines += ["", "| category | passed | failed | skipped | not run |", "| --- | --- | --- | --- | --- |"]
    for name, counts in found["categories"].items():
        sign = "❌" if counts["failed"] or counts["not_run"] else "✅" if counts["passed"] else "➖"
        lines.append(f"| {sign} `{name}` | {' | '.join(map(str, counts.values()))} |")
    if found["faults"]:
        lines += ["", "### Faults", ""]
        for name, rest in (parted(fault, found) for fault in found["faults"]):
            lines.append(f"- {code(name)} {line(rest)}" if name else f"- {line(rest)}")
    for name, text in _evidence(found).items():
        lines += ["", f"### {code(name)}", "", *fenced(text)]
    if reasons := _reasons(found):
        lines += ["", "### Not run", ""]
        for why, names in reasons.items():
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            lines.append(f"- {line(why)}: {', '.join(map(code, names[:_NAMED]))}{more}")
    return "\n".join(lines) + "\n"


def as_html(found: Mapping[str, Any]) -> str:
    """Return a page that needs nothing else: no script, no network."""
    body = [
        f'<h1>Runwire test</h1><p class="verdict {"good" if found["ok"] else "bad"}">{escape(_verdict(found))}</p>',
        f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(value)}</dd>' for name, value in _facts(found).items())}</dl>",
        table(
            ("category", "passed", "failed", "skipped", "not run"),
            [(name, *counts.values()) for name, counts in found["categories"].items()],
        ),
    ]
    if found["faults"]:
        faults = [parted(fault, found) for fault in found["faults"]]
        body += ["<h2>Faults</h2>", "<ul>"]
        body += [
            f"<li>{_named(name)} {escape(rest)}</li>" if name else f"<li>{escape(rest)}</li>" for name, rest in faults
        ]
        body.append("</ul>")
    for name, text in _evidence(found).items():
        body += [f"<h2>{_named(name)}</h2>", f"<pre>{escape(text)}</pre>"]
    if reasons := _reasons(found):
        body.append("<h2>Not run</h2>")
        for why, names in reasons.items():
            listed = "".join(f"<li>{_named(name)}</li>" for name in names)
            body.append(folded(f"{why} ({len(names)})", f"<ul>{listed}</ul>", is_open=len(names) <= _NAMED))
    body += ["<h2>Tests, the slowest first</h2>", *(_tests(found, outcome) for outcome in ("failed", "passed"))]
    return page("Runwire test", body)


def _tests(found: Mapping[str, Any], outcome: str) -> str:
    tests = [(test["seconds"], name) for name, test in found["tests"].items() if test["outcome"] == outcome]
    look = "good" if outcome == "passed" else "bad"
    rows = [
        f'<tr class="{look}"><td class="mark">{seconds:.2f} s</td><td>{_named(name)}</td></tr>'
        for seconds, name in sorted(tests, key=lambda each: (-each[0], each[1]))
    ]
    few = len(rows) <= _NAMED
    return folded(f"{len(rows)} {outcome}", f"<table>{''.join(rows)}</table>", is_open=few) if rows else ""


def _named(name: str) -> str:
    return f"<code>{escape(name)}</code>"
