"""What a load came to: for a terminal, for machines, as Markdown, and as a page that needs no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from runwire.conformance.load.drive import AGENT, Load
from runwire.conformance.load.histogram import Histogram
from runwire.conformance.markup import code, escape, fenced, line, page, table

__all__ = ["FORMATS", "as_html", "as_json", "as_markdown", "as_text", "exit_code", "figures", "verdict"]

KEPT, BROKEN, COULD_NOT = 0, 1, 2
_SHARES: Final = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
_WIDTH: Final = 48
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"


def exit_code(load: Load) -> int:
    """Return 1 if a promise was broken or a run failed that may not, 2 if no run was completed, else 0."""
    if load.tally.faults or (load.tally.completed and _failed(load) and not load.plan.may_fail):
        return BROKEN
    return KEPT if load.tally.completed else COULD_NOT


def verdict(load: Load) -> str:
    """Return the outcome in a sentence."""
    tally = load.tally
    broken = [f"{count:,} {name}" for name, count in _faults(load).items() if count]
    if broken:
        return f"Promises are broken: {', '.join(broken)}."
    if not tally.completed:
        why = [f"{count} × {name}" for name, count in _failed(load).items()]
        return f"Nothing was measured: no run was completed ({', '.join(why) or 'none was sent'})."
    text = f"{tally.events:,} events of {tally.completed:,} runs: each came once, in order, to the right "
    text += "user." if load.accounts > 1 else "thread. One account was given: nothing is said of what others see."
    if load.is_cut_short:
        text += " It was ended early; runs that were open then are not judged."
    if tally.held_back:
        text += f" The rate was not reached: {tally.held_back:,} messages were not sent, as their user waited for 16;"
        text += " their times are as if they had ended then."
    if other := _failed(load):
        text += f" Not completed: {', '.join(f'{count} × {name}' for name, count in other.items())}"
        text += ", as --may-fail allows." if load.plan.may_fail else "; --may-fail allows that."
    return text


def figures(load: Load) -> dict[str, Any]:
    """Return all that was counted; times in milliseconds."""
    tally, took_s = load.tally, load.elapsed_s or 1.0
    return {
        "users": load.plan.users,
        "accounts": load.accounts,
        "sent": tally.sent,
        "completed": tally.completed,
        "events": tally.events,
        "runs_per_s": round(tally.completed / took_s, 1),
        "events_per_s": round(tally.events / took_s, 1),
        **_faults(load),
        "cuts": tally.cuts,
        "resumes": tally.resumes,
        "resets": tally.resets,
        "kills": tally.kills,
        "held_back": tally.held_back,
        "first_event_ms": _times(tally.begun),
        "run_ms": _times(tally.run),
    }


def as_text(load: Load) -> str:
    """Return the summary for a terminal; no colours."""
    facts = figures(load)
    lines = ["", f"{load.url} · {load.server} · agent {load.agent or '(default)'} · {load.elapsed_s:.1f} s", ""]
    for name, value in facts.items():
        shown = "  ".join(f"{k} {v:g} ms" for k, v in value.items()) if isinstance(value, dict) else f"{value:,}"
        lines.append(f"  {name.replace('_', ' '):<16} {shown}")
    lines += ["", "  from the time it was due to the end of the run"]
    bars = load.tally.run.bars()
    most = max((count for *_, count in bars), default=1)
    for low, high, count in bars:
        lines.append(f"  {_ms(low):>9} – {_ms(high):<9} {_bar(count / most)} {count:,}")
    lines += ["", *(f"  ! {note}" for note in load.tally.notes), verdict(load)]
    return "\n".join(lines)


def as_json(load: Load) -> str:
    """Return the report for machines."""
    body = {
        "url": load.url,
        "server": load.server,
        "agent": load.agent,
        "plan": msgspec.to_builtins(load.plan),
        "duration_s": round(load.elapsed_s, 3),
        "exit_code": exit_code(load),
        "verdict": verdict(load),
        "figures": figures(load),
        "ended_otherwise": dict(load.tally.ended),
        "refused": dict(load.tally.refused),
        "crossed_to_account": {str(account): count for account, count in load.tally.crossed_to.items()},
        "histogram": [{"from_s": low, "to_s": high, "runs": count} for low, high, count in load.tally.run.bars()],
        "points": msgspec.to_builtins(load.points),
        "notes": load.tally.notes,
    }
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()


def as_markdown(load: Load) -> str:
    """Return the report as it can be posted as a comment."""
    lines = ["## Runwire bench", "", f"**{line(verdict(load))}**", ""]
    lines += [f"- deployment: {code(load.url)} ({line(load.server)})"]
    lines += [f"- load: {_plan(load)}; {load.elapsed_s:.1f} s in all", ""]
    lines += ["| what | count |", "| --- | ---: |", *(f"| {name} | {value} |" for name, value in _counts(load))]
    lines += ["", "Milliseconds from the time that a message was due:", ""]
    names = [name for name, _ in _SHARES]
    lines += [f"| what | {' | '.join((*names, 'max'))} |", f"| --- |{' ---: |' * (len(names) + 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in _latencies(load)]
    if load.tally.notes:
        lines += ["", "### The first faults", "", *fenced("\n".join(load.tally.notes))]
    return "\n".join(lines) + "\n"


def as_html(load: Load) -> str:
    """Return the report as one page: no script, and nothing from elsewhere."""
    facts = figures(load)
    look = ("good", "bad", "other")[exit_code(load)]
    counters = "".join(_card(count, name, "bad" if count else "good") for name, count in _faults(load).items())
    pace = (("runs_per_s", "runs/s"), ("events_per_s", "events/s"), ("completed", "runs"), ("cuts", "cuts"),
        ("resumes", "resumes"), ("kills", "kills"))  # fmt: skip
    body = [
        "<h1>Runwire bench</h1>",
        f'<p class="dim">{escape(load.url)} · {escape(load.server)} · {escape(_plan(load))}</p>',
        f'<p class="verdict {look}">{escape(verdict(load))}</p>',
        f'<h2>Broken promises</h2><div class="cards">{counters}</div>',
        f'<h2>Pace</h2><div class="cards">{"".join(_card(facts[name], label) for name, label in pace)}</div>',
        "<h2>From the time that a message was due to the end of its run</h2>",
    ]
    if bars := load.tally.run.bars():
        late = "".join(_card(f"{value:,g} ms", name) for name, value in facts["run_ms"].items())
        body += [f'<div class="cards">{late}</div>', '<p class="dim">Runs that took up to…</p>']
        body.append(_columns([(_ms(high), count) for _, high, count in bars], "runs by latency (up to)"))
    else:
        body.append('<p class="dim">No run was completed.</p>')
    events = [(f"{point.at_s:.0f} s", round(point.events / load.point_s)) for point in load.points]
    body += ["<h2>Events per second</h2>", _columns(events, "events per second")]
    if load.tally.notes:
        body += ["<h2>The first faults</h2>", f"<pre>{escape(chr(10).join(load.tally.notes))}</pre>"]
    body += ["<h2>All figures</h2>", table(("what", "count"), _counts(load))]
    body += ["<h2>Milliseconds</h2>", table(("what", *(name for name, _ in _SHARES), "max"), _latencies(load))]
    return page(f"Runwire bench: {load.url}", body)


FORMATS: Final[Mapping[str, Callable[[Load], str]]] = MappingProxyType(
    {"md": as_markdown, "json": as_json, "html": as_html}
)


def _failed(load: Load) -> Counter[str]:
    """Return how runs ended that did not complete, and why messages were refused."""
    return load.tally.ended + load.tally.refused


def _faults(load: Load) -> dict[str, int]:
    tally = load.tally
    return {
        "lost": tally.lost,
        "doubled": tally.doubled,
        "out of order": tally.disordered,
        "crossed": tally.crossed,
        "wrong": tally.wrong,
        "without an end": tally.unended,
    }


def _times(histogram: Histogram) -> dict[str, float]:
    found = {name: round(histogram.quantile_s(share) * 1000, 1) for name, share in _SHARES}
    return {**found, "max": round(histogram.max_s * 1000, 1)}


def _counts(load: Load) -> list[tuple[str, str]]:
    """Return what was counted, and how else runs ended."""
    facts = {name: value for name, value in figures(load).items() if not isinstance(value, dict)}
    rows = [(name.replace("_", " "), f"{value:,}") for name, value in facts.items()]
    return rows + [(f"not completed: {name}", f"{count:,}") for name, count in _failed(load).items()]


def _latencies(load: Load) -> list[tuple[str, ...]]:
    """Return rows of milliseconds: what, the shares, and the longest."""
    return [
        (name, *(f"{value:,g}" for value in _times(histogram).values()))
        for name, histogram in (("to the first event", load.tally.begun), ("to the end of the run", load.tally.run))
        if histogram.count
    ]


def _plan(load: Load) -> str:
    plan, shape = load.plan, load.plan.shape
    parts = [f"{plan.users} users, {plan.rate:g} messages/s for {plan.duration_s:g} s"]
    parts.append(f"agent {load.agent or 'by default'}")
    if load.agent == AGENT:
        parts.append(
            f"a run has {shape.events} pieces of text {shape.gap_ms:g} ms apart and calls tools {shape.tools} ×"
        )
    return ", ".join([*parts, f"{plan.cuts:g} cuts/min", f"seed {plan.seed}"])


def _ms(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:.3g} ms" if ms < 1000 else f"{seconds:.3g} s"


def _bar(share: float) -> str:
    whole, part = divmod(round(share * _WIDTH * 8), 8)
    return "█" * whole + (_BLOCKS[part] if part else "")


def _card(value: object, name: str, kind: str = "") -> str:
    shown = f"{value:,}" if isinstance(value, int | float) else str(value)
    return f'<div class="card {kind}"><b>{escape(shown)}</b><span>{escape(name)}</span></div>'


def _columns(bars: list[tuple[str, int]], title: str) -> str:
    """Return a chart of columns as SVG."""
    if not bars:
        return '<p class="dim">Nothing was counted.</p>'
    width, height, left = 900.0, 220.0, 60.0
    most, step = max(max(count for _, count in bars), 1), (width - left) / len(bars)
    every = -(-len(bars) // 12)
    parts = [
        f'<div class="chart"><svg viewBox="0 0 {width:g} {height + 24:g}" role="img" aria-label="{escape(title)}">'
    ]
    for share in (0.0, 0.5, 1.0):
        y = height - share * (height - 20)
        parts.append(f'<line x1="{left:g}" x2="{width:g}" y1="{y:g}" y2="{y:g}" stroke="var(--line)"/>')
        parts.append(f'<text x="{left - 8:g}" y="{y + 4:g}" text-anchor="end">{share * most:,.0f}</text>')
    for place, (name, count) in enumerate(bars):
        tall, x = count / most * (height - 20), left + place * step
        parts.append(
            f'<rect x="{x + step * 0.08:.1f}" y="{height - tall:.1f}" width="{step * 0.84:.1f}" height="{tall:.1f}" '
            f'rx="2" fill="var(--ink)"><title>{escape(name)}: {count:,}</title></rect>'
        )
        if place % every == 0:
            parts.append(f'<text x="{x + step / 2:.1f}" y="{height + 18:g}" text-anchor="middle">{escape(name)}</text>')
    return "".join([*parts, "</svg></div>"])
