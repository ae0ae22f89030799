"""The summary in Markdown and the picture (SVG) of a campaign."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

from tests.fleet.campaign import BOUND_S, Outcome
from tests.fleet.oracle import KINDS
from tests.fleet.recovery import Disturbance, quantile
from tests.fleet.tab import TERMINAL

__all__ = ["markdown", "picture", "write"]

_WIDTH: Final = 1400
_LEFT: Final = 130
_COLOURS: Final = {
    "kill": "#c0392b",
    "stop": "#e67e22",
    "redis": "#8e44ad",
    "postgres": "#2c3e50",
    "disk": "#2c3e50",
    "fail-over": "#2c3e50",
    "cut": "#2980b9",
    "half-open": "#16a085",
    "delay": "#16a085",
    "frozen": "#7f8c8d",
    "clock": "#d4ac0d",
    "deploy": "#27ae60",
}


def write(outcome: Outcome) -> str:
    """Write both into the campaign's folder, and return the summary."""
    text = markdown(outcome)
    (outcome.folder / "summary.md").write_text(text, encoding="utf-8")
    (outcome.folder / "picture.svg").write_text(picture(outcome), encoding="utf-8")
    (outcome.folder / "campaign.log").write_text("\n".join([*outcome.lines, ""]), encoding="utf-8")
    return text


def markdown(outcome: Outcome) -> str:
    """Return the summary."""
    load, judge, recovery = outcome.load, outcome.judge, outcome.load.recovery
    found = Counter(fault.kind for fault in outcome.faults)
    runs, late = outcome.went_on
    gone_on = [seconds for one in outcome.disturbances for seconds in one.gone_on_s]
    rates = [recovery.per_second[second] for second in range(int(outcome.seconds))]
    zeros = ", ".join(f"{found.pop(kind, 0)} {kind}" for kind in KINDS)
    others = ", ".join(f"{count} {kind}" for kind, count in found.items()) or "none"
    lines = [
        f"# Fault campaign, seed {outcome.seed}: {'all promises held' if outcome.is_good else 'BROKEN'}",
        "",
        f"Settings: {json.dumps(outcome.settings)}; {outcome.seconds / 60:.1f} minutes.",
        "",
        "| what | figure |",
        "|---|---|",
        f"| faults | {len(outcome.disturbances)} |",
        f"| connections at most | {outcome.most_online}, made {load.counts['connections made']:,} |",
        f"| runs acknowledged / judged | {load.counts['runs']:,} / {judge.runs:,} |",
        f"| events in the log / shown by tabs | {judge.events.total():,} / {load.counts['events shown']:,} |",
        f"| broken promises | {zeros} |",
        f"| others | {others}; logs: {len(outcome.complaints)} complaints |",
        f"| runs in flight in a fault that went on within {BOUND_S:.0f} s of its end | {runs - late:,} of {runs:,}"
        f" ({100 * (runs - late) / max(1, runs):.2f} %) |",
        f"| from a fault's end to going on | p50 {quantile(gone_on, 0.5):.2f} s, p99 {quantile(gone_on, 0.99):.2f} s,"
        f" max {max(gone_on, default=0):.2f} s |",
        f"| silence of a run around a fault | p50 {quantile(recovery.stalls_s, 0.5):.2f} s,"
        f" p99 {quantile(recovery.stalls_s, 0.99):.2f} s, max {max(recovery.stalls_s, default=0):.2f} s |",
        f"| made → shown, all the time | p50 {recovery.latency_ms(0.5, is_quiet=None)} ms,"
        f" p99 {recovery.latency_ms(0.99, is_quiet=None)} ms |",
        f"| made → shown, away from faults | p50 {recovery.latency_ms(0.5, is_quiet=True)}"
        f" ms, p99 {recovery.latency_ms(0.99, is_quiet=True)} ms ({recovery.latencies[True].total():,} deliveries) |",
        f"| events per second | mean {sum(rates) / max(1, len(rates)):.0f}, max {max(rates, default=0)} |",
        f"| ends | {', '.join(f'{load.counts[kind]} {kind}' for kind in sorted(TERMINAL))} |",
        f"| runs of more than one attempt | {judge.counts['attempts beyond the first']} |",
        f"| given up as worker_lost | {judge.counts['worker_lost']} |",
        f"| side effects | {judge.counts['side effects']:,}; runs with some after their end:"
        f" {judge.counts['runs with effects after their end']} |",
        f"| sends without an answer / refused for a time | {load.counts['replies lost']} /"
        f" {load.counts['sends refused for a time']} |",
        f"| the fail-over | {judge.counts['lived through the fail-over']} runs lived through it,"
        f" {judge.counts['acknowledged and lost by the fail-over']} were acknowledged and are not in the new history,"
        f" {judge.counts['tabs not told that a thread is gone']} tabs still show such a thread |",
        f"| cancellations, answers | {load.counts['cancellations']}, {load.counts['answers']} |",
        "",
        "| fault | times | runs in flight | went on late | worst, s |",
        "|---|---|---|---|---|",
        *_by_kind(outcome.disturbances),
        "",
        "Events: " + ", ".join(f"{kind} {count:,}" for kind, count in judge.events.most_common()),
        "",
    ]
    lines += [f"- {fault.kind}: {fault.run}: {fault.detail[:300]}" for fault in outcome.faults[:20]]
    return "\n".join([*lines, ""])


def _by_kind(disturbances: list[Disturbance]) -> Iterator[str]:
    for kind in sorted({one.kind for one in disturbances}):
        mine = [one for one in disturbances if one.kind == kind]
        taken = [seconds for one in mine for seconds in one.gone_on_s]
        late = sum(seconds > BOUND_S for seconds in taken)
        runs = sum(one.runs for one in mine)
        yield f"| {kind} | {len(mine)} | {runs} | {late} | {max(taken, default=0):.2f} |"


def picture(outcome: Outcome) -> str:
    """Return the timeline of faults, throughput, stalls and recovery."""
    recovery = outcome.load.recovery
    seconds = max(1, int(outcome.seconds))
    kinds = sorted({one.kind for one in outcome.disturbances})
    wide = (_WIDTH - _LEFT - 20) / seconds

    def x(at_s: float) -> float:
        return _LEFT + (at_s - recovery.began_s) * wide

    parts: list[str] = []
    top = 30
    for row, kind in enumerate(kinds):
        y = top + row * 15
        colour = next((colour for word, colour in _COLOURS.items() if kind.startswith(word)), "#000")
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 9}" text-anchor="end">{kind}</text>')
        for one in outcome.disturbances:
            if one.kind == kind:
                length = max(2.0, ((one.ended_s or one.began_s) - one.began_s) * wide)
                parts.append(
                    f'<rect x="{x(one.began_s):.1f}" y="{y}" width="{length:.1f}" height="11" fill="{colour}">'
                    f"<title>#{one.number + 1} {one.kind} {one.target} {one.note}</title></rect>"
                )
    y = top + len(kinds) * 15 + 20
    parts += _series("events/s", recovery.per_second, seconds, wide, y, 150, "#2980b9", is_log=False)
    parts += _series(
        "slowest delivery, ms (log)", recovery.slowest_ms, seconds, wide, y + 180, 150, "#c0392b", is_log=True
    )
    y += 360
    parts.append(f'<text x="{_LEFT - 6}" y="{y + 10}" text-anchor="end">goes on after, s</text>')
    parts.append(_line(y + 100 - BOUND_S * 10, "#999", f"{BOUND_S:.0f} s"))
    for one in outcome.disturbances:
        for gone_on_s in one.gone_on_s:
            parts.append(
                f'<circle cx="{x(one.ended_s or one.began_s):.1f}" cy="{y + 100 - min(gone_on_s, 10) * 10:.1f}" r="1.6"'
                f' fill="{"#c0392b" if gone_on_s > BOUND_S else "#27ae60"}"/>'
            )
    ticks = [
        f'<text x="{_LEFT + minute * 60 * wide:.0f}" y="{y + 118}">{minute} min</text>'
        for minute in range(0, seconds // 60 + 1, max(1, seconds // 900))
    ]
    title = f"seed {outcome.seed}: {len(outcome.disturbances)} faults, {outcome.judge.events.total():,} events"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 130}" font-family="sans-serif"'
        f' font-size="10"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="10" y="18" font-size="14">{title}</text>' + "".join(parts + ticks) + "</svg>\n"
    )


def _series(
    name: str,
    values: Counter[int] | dict[int, int],
    seconds: int,
    wide: float,
    y: float,
    high: float,
    colour: str,
    *,
    is_log: bool,
) -> list[str]:
    def height(value: float) -> float:
        return math.log10(max(1, value)) if is_log else value

    most = max((height(value) for value in values.values()), default=1) or 1
    points = " ".join(
        f"{_LEFT + n * wide:.1f},{y + high - high * height(values.get(n, 0)) / most:.1f}" for n in range(seconds)
    )
    return [
        f'<text x="{_LEFT - 6}" y="{y + 10}" text-anchor="end">{name}</text>',
        f'<text x="{_LEFT - 6}" y="{y + 24}" text-anchor="end">max {max(values.values(), default=0)}</text>',
        f'<polyline points="{points}" fill="none" stroke="{colour}"/>',
        _line(y + high, "#ccc", ""),
    ]


def _line(y: float, colour: str, name: str) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y}" y2="{y}" stroke="{colour}" stroke-dasharray="3"/>'
        f'<text x="{_WIDTH - 18}" y="{y}" fill="{colour}">{name}</text>'
    )
