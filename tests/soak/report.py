"""The figures of a soak: CSV of all samples, a summary in Markdown and a picture (SVG)."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.soak.samples import Sample
from tests.soak.soak import Outcome

__all__ = ["markdown", "write"]

_COLOURS: Final = ("#2980b9", "#8e44ad", "#27ae60", "#e67e22", "#c0392b", "#16a085", "#2c3e50", "#d4ac0d")
_WIDTH, _HEIGHT, _LEFT = 1200, 150, 90
_FIGURES: Final[dict[str, Callable[[Sample], float]]] = {
    "resident memory, MiB": lambda one: one.rss_kib / 1024,
    "blocks of memory, thousands": lambda one: one.blocks / 1000,
    "descriptors without people's sockets": lambda one: one.descriptors,
    "tasks without people's sockets": lambda one: one.own_tasks,
}


def write(outcome: Outcome, folder: Path) -> str:
    """Write everything into a folder, and return the summary."""
    rows = [one.row() for one in outcome.samples]
    if rows:
        with (folder / "processes.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, fieldnames=list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    _write_services(outcome, folder / "services.csv")
    text = markdown(outcome)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    (folder / "picture.svg").write_text(_picture(outcome), encoding="utf-8")
    return text


def _write_services(outcome: Outcome, path: Path) -> None:
    names = sorted({name for one in outcome.services for name in one.tables})
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        head = ["at_s", "events", "p50_ms", "p99_ms", "online", "postgres_connections", "redis_connections"]
        each = ("bytes", "index_bytes", "rows", "dead")
        table.writerow([*head, "redis_bytes", *(f"{name}_{what}" for name in names for what in each)])
        for one, window in zip(outcome.services, outcome.windows, strict=False):
            felt = [window.events, window.p50_ms, window.p99_ms, window.online]
            sizes = [figure for name in names for figure in one.tables.get(name, (0, 0, 0, 0))]
            table.writerow([one.at_s, *felt, one.postgres_connections, one.redis_connections, one.redis_bytes, *sizes])


def markdown(outcome: Outcome) -> str:
    """Return the summary."""
    first, last = outcome.p99_ms
    lines = [
        f"# Soak, seed {outcome.seed}: {'nothing grows' if not outcome.findings else 'FINDINGS'}",
        "",
        f"{outcome.seconds / 60:.1f} minutes; {outcome.runs:,} runs judged, {outcome.events:,} events;"
        f" p99 {first} ms after the warm-up, {last} ms at the end.",
        "",
        *(f"- {finding[:600]}" for finding in outcome.findings[:40]),
        "",
        "Slopes per hour after the first third (Theil-Sen, 99 % interval); a leak was seen from the last column on.",
        "",
        "| process | figure | level | per hour | interval | allowed | seen from |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in outcome.figures:
        part, found = (1024 if figure.name == "rss_kib" else 1), figure.line
        name = "resident MiB" if figure.name == "rss_kib" else figure.name
        lines.append(
            f"| {figure.process} | {name}{' **grows**' if figure.is_found else ''} | {found.level / part:,.1f}"
            f" | {found.slope / part:+,.2f} | {found.lowest / part:+,.2f} … {found.highest / part:+,.2f}"
            f" | {figure.bound / part:,.0f} | {figure.seen_from / part:,.2f} |"
        )
    lines += [
        "",
        "With nobody connected and garbage collected, before and after (blocks: what is left is no garbage):",
        "",
        "| process | descriptors | tasks | threads | blocks | resident MiB |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, was in outcome.before.items():
        now = outcome.after.get(name, was)
        lines.append(
            f"| {name} | {was.descriptors} → {now.descriptors} | {was.tasks} → {now.tasks}"
            f" | {was.threads} → {now.threads} | {was.blocks:,} → {now.blocks:,}"
            f" | {was.rss_kib / 1024:.1f} → {now.rss_kib / 1024:.1f} |"
        )
    lines += [
        "",
        "| what | times |",
        "|---|---|",
        *(f"| {what} | {n:,} |" for what, n in sorted(outcome.counts.items())),
    ]
    lines += ["", *_services(outcome)]
    return "\n".join([*lines, ""])


def _services(outcome: Outcome) -> list[str]:
    warm = [one for one in outcome.services if one.at_s >= outcome.warm_s]
    if not warm:
        return []
    first, last = warm[0], warm[-1]
    lines = [
        f"PostgreSQL: {first.postgres_connections} → {last.postgres_connections} connections;"
        f" Redis: {first.redis_connections} → {last.redis_connections} connections,"
        f" {first.redis_bytes // 1024} → {last.redis_bytes // 1024} KiB.",
        "",
        "| table | KiB after the warm-up → at the end | indexes, KiB | rows | dead |",
        "|---|---|---|---|---|",
    ]
    for name, (size, index, rows, dead) in last.tables.items():
        was = first.tables.get(name, (0, 0, 0, 0))
        lines.append(
            f"| {name} | {was[0] // 1024:,} → {size // 1024:,} | {was[1] // 1024:,} → {index // 1024:,}"
            f" | {was[2]:,} → {rows:,} | {was[3]:,} → {dead:,} |"
        )
    return lines


def _picture(outcome: Outcome) -> str:
    names = sorted({one.process for one in outcome.samples})
    until_s = max((one.at_s for one in outcome.samples), default=1.0)
    parts: list[str] = []
    for row, (title, figure) in enumerate(_FIGURES.items()):
        lines = {n: [(one.at_s, figure(one)) for one in outcome.samples if one.process == n] for n in names}
        parts += _panel(title, lines, top=row * (_HEIGHT + 40) + 30, until_s=until_s)
    felt = {"p99": [(w.at_s, float(w.p99_ms)) for w in outcome.windows]}
    felt["p50"] = [(w.at_s, float(w.p50_ms)) for w in outcome.windows]
    parts += _panel("made → shown, ms", felt, top=len(_FIGURES) * (_HEIGHT + 40) + 30, until_s=until_s)
    warm = _LEFT + outcome.warm_s / until_s * (_WIDTH - _LEFT - 130)
    height = (len(_FIGURES) + 1) * (_HEIGHT + 40) + 20
    parts.append(f'<line x1="{warm:.0f}" x2="{warm:.0f}" y1="20" y2="{height}" stroke="#bbb" stroke-dasharray="4"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif"'
        f' font-size="11"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _panel(title: str, lines: dict[str, list[tuple[float, float]]], *, top: int, until_s: float) -> list[str]:
    """Draw one figure of all processes over time; its scale begins at the least value, to show growth."""
    values = [value for points in lines.values() for _, value in points] or [0.0]
    least, most = min(values), max(values)
    wide, high = (_WIDTH - _LEFT - 130) / until_s, _HEIGHT / ((most - least) or 1.0)
    parts = [
        f'<text x="{_LEFT}" y="{top - 6}" font-weight="bold">{title}</text>',
        f'<text x="{_LEFT - 6}" y="{top + 8}" text-anchor="end">{most:,.1f}</text>',
        f'<text x="{_LEFT - 6}" y="{top + _HEIGHT}" text-anchor="end">{least:,.1f}</text>',
        f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH - _LEFT - 130}" height="{_HEIGHT}" fill="none" stroke="#ddd"/>',
    ]
    for n, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[n % len(_COLOURS)]
        path = " ".join(f"{_LEFT + t * wide:.1f},{top + _HEIGHT - (v - least) * high:.1f}" for t, v in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        parts.append(f'<text x="{_WIDTH - 120}" y="{top + 12 + 14 * n}" fill="{colour}">{name}</text>')
    return parts
