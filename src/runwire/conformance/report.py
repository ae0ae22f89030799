"""What a check found: results with their evidence, and how they are shown as text, JSON and Markdown."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

__all__ = ["Evidence", "Report", "Result", "Status", "as_json", "as_markdown", "as_text"]

Status = Literal["kept", "broken", "not_checked"]

KEPT, BROKEN, COULD_NOT_CHECK = 0, 1, 2
_MARK: Final[dict[Status, str]] = {"kept": "ok  ", "broken": "FAIL", "not_checked": "–   "}


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Why a promise counts as broken."""

    expected: str  # one sentence
    seen: str  # one sentence
    position: int | None = None  # the seq at which it shows
    frames: tuple[str, ...] = ()  # what came, as it came, around the position; long ones are cut


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one case."""

    case: str  # stable name, unique within its category
    category: str
    priority: Literal["p1", "p2"]
    promise: str  # one sentence: what holds if the case passes
    status: Status
    evidence: tuple[Evidence, ...] = ()  # if broken
    why: str | None = None  # if not checked


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked, against what, and what came out."""

    url: str
    expect: str
    started_at: str  # ISO 8601, UTC
    duration_s: float
    server: str | None  # as it calls itself
    results: tuple[Result, ...]
    problem: str | None = None  # why (part of) the check could not be done
    figures: dict[str, float] = {}  # measured on the way, such as `first_event_ms`

    @property
    def exit_code(self) -> int:
        """Return 1 if a promise is broken, 2 if it could not be checked or nothing was, else 0."""
        if self.of("broken"):
            return BROKEN
        return COULD_NOT_CHECK if self.problem or not self.of("kept") else KEPT

    def of(self, status: Status) -> list[Result]:
        """Return the results of one status."""
        return [result for result in self.results if result.status == status]

    @property
    def verdict(self) -> str:
        """Return the outcome in a sentence."""
        counts = (
            f"{len(self.of('kept'))} kept, {len(self.of('broken'))} broken, {len(self.of('not_checked'))} not checked"
        )
        match self.exit_code:
            case 0:
                return f"Every promise that was checked is kept ({counts})."
            case 1:
                return f"Promises are broken ({counts})."
        return f"Could not check ({counts}): {self.problem or 'no check ran'}"


def as_json(report: Report) -> str:
    """Return the report for machines, with its exit code and verdict."""
    body = {**msgspec.to_builtins(report), "exit_code": report.exit_code, "verdict": report.verdict}
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()


def as_text(report: Report) -> str:
    """Return the report for a terminal; no colours."""
    lines = [f"{report.url} · {report.server or 'no server'} · expect {report.expect}"]
    for result in report.results:
        lines.append(f"{_MARK[result.status]} {result.category}/{result.case}: {result.promise}")
        if result.why and result.why != report.problem:  # that one is the verdict's
            lines.append(f"       {result.why}")
        for evidence in result.evidence:
            lines += [f"       {line}" for line in _evidence_lines(evidence)]
    lines.append(report.verdict)
    return "\n".join(lines)


def as_markdown(report: Report) -> str:
    """Return the report as it can be posted in an issue."""
    lines = [
        "## Runwire check",
        "",
        f"**{report.verdict}**",
        "",
        f"- deployment: `{report.url}` ({report.server or 'did not say what it is'})",
        f"- when: {report.started_at}, {report.duration_s:.1f} s; expected events: {report.expect}",
        *(f"- {name}: {value:g}" for name, value in report.figures.items()),
        "",
        "| | case | promise |",
        "| --- | --- | --- |",
        *(f"| {r.status.replace('_', ' ')} | `{r.category}/{r.case}` | {r.promise} |" for r in report.results),
    ]
    for result in report.of("broken"):
        lines += ["", f"### `{result.category}/{result.case}`", "", result.promise]
        for evidence in result.evidence:
            lines += ["", "```", *_evidence_lines(evidence), "```"]
    if unchecked := report.of("not_checked"):
        lines += ["", "### Not checked", "", *(f"- `{r.category}/{r.case}`: {r.why}" for r in unchecked)]
    return "\n".join(lines) + "\n"


def _evidence_lines(evidence: Evidence) -> list[str]:
    where = "" if evidence.position is None else f" (at seq {evidence.position})"
    return [
        f"expected: {evidence.expected}",
        f"seen:     {evidence.seen}{where}",
        *(f"  | {f}" for f in evidence.frames),
    ]
