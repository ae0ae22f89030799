"""What a check found: results with their evidence, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from runwire.conformance.markup import fenced

__all__ = ["Evidence", "Priority", "Report", "Result", "Status", "as_json", "evidence_lines", "issue_words", "without"]

Status = Literal["kept", "broken", "not_checked"]
Priority = Literal["p1", "p2"]

KEPT, BROKEN, COULD_NOT_CHECK = 0, 1, 2
_SECRET_LENGTH: Final = 8  # of characters; what is shorter is no secret, and may be part of any word


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
    priority: Priority
    promise: str  # one sentence: what holds if the case passes
    status: Status
    evidence: tuple[Evidence, ...] = ()  # if broken
    why: str | None = None  # if not checked
    duration_s: float = 0.0

    @property
    def id(self) -> str:
        """Return the name that is unique among all."""
        return f"{self.category}/{self.case}"


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
    budget: dict[str, float] = {}  # what they may be at most, by the same names
    agent: str | None = None  # whom the caller named; None: the deployment's default
    others: tuple[str, ...] = ()  # more gateways of the deployment

    @property
    def exit_code(self) -> int:
        """Return 1 if a promise is broken, 2 if it could not be checked or nothing was, else 0."""
        if self.of("broken"):
            return BROKEN
        return COULD_NOT_CHECK if self.problem or not self.of("kept") else KEPT

    @property
    def categories(self) -> tuple[str, ...]:
        """Return the categories, in order."""
        return tuple(dict.fromkeys(result.category for result in self.results))

    def of(self, status: Status) -> list[Result]:
        """Return the results of one status."""
        return [result for result in self.results if result.status == status]

    @property
    def counts(self) -> str:
        """Return how many of each."""
        return (
            f"{len(self.of('kept'))} kept, {len(self.of('broken'))} broken, {len(self.of('not_checked'))} not checked"
        )

    def again(self, category: str) -> str:
        """Return the command that looks at one category again."""
        agent = f" --agent {self.agent}" if self.agent else ""
        return f"runwire check {' '.join((self.url, *self.others))} --only {category} --expect {self.expect}{agent}"

    @property
    def verdict(self) -> str:
        """Return the outcome in a sentence."""
        match self.exit_code:
            case 0:
                return f"Every promise that was checked is kept ({self.counts})."
            case 1:
                return f"Promises are broken ({self.counts})."
        return f"Could not check ({self.counts}): {self.problem or 'no check ran'}"


def as_json(report: Report) -> str:
    """Return the report for machines, with its exit code and verdict."""
    body = {**msgspec.to_builtins(report), "exit_code": report.exit_code, "verdict": report.verdict}
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()


def evidence_lines(evidence: Evidence) -> list[str]:
    """Return evidence as lines of plain text."""
    where = "" if evidence.position is None else f" (at seq {evidence.position})"
    return [
        f"expected: {evidence.expected}",
        f"seen:     {evidence.seen}{where}",
        *(f"  | {f}" for f in evidence.frames),
    ]


def issue_words(report: Report, result: Result) -> str:
    """Return what to paste into an issue about one broken promise (Markdown)."""
    lines = [f"`{result.id}` is broken: {result.promise}", ""]
    lines += [f"Server `{report.server or 'unknown'}`, checked {report.started_at} from outside.", ""]
    for evidence in result.evidence:
        lines += fenced("\n".join(evidence_lines(evidence)))
    lines += ["", f"To see it again: `{report.again(result.category)}`"]
    return "\n".join(lines)


def without(evidence: Evidence, secrets: Iterable[str]) -> Evidence:
    """Return evidence in which no secret is shown, and no half of a character; a report is meant to be posted."""

    def clean(text: str) -> str:
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= _SECRET_LENGTH:
                text = text.replace(secret, "[secret]")
        return text.encode(errors="replace").decode()

    return Evidence(
        expected=clean(evidence.expected),
        seen=clean(evidence.seen),
        position=evidence.position,
        frames=tuple(clean(frame) for frame in evidence.frames),
    )
