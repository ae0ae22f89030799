"""What a connection costs that does nothing: memory."""

from __future__ import annotations

from bench.figures import Goal, Section, Series, Table, ratios
from bench.stand import BASELINES, Stand

__all__ = ["measure"]

_TEXT = """\
Memory of the server's process (PSS) with {count:,} open connections less without, per connection; what the kernel
keeps for a socket is in neither. Each round has a fresh process, warmed up by {warm} connections that came and went.
Runwire's are signed in, each another user: what U does not know. The second row of Runwire also sent a message each,
and so holds a conversation with its recent events and a run's traces: what a person who waits looks like."""
_HOLD_S = 1.0
_WARM = 20


def measure(stand: Stand) -> Section:
    """Measure R and U, a fresh process each round."""
    count = 50 if stand.is_quick else 1_000
    found: dict[str, list[float]] = {"R": [], "R, after a run": [], "U": []}
    for number in range(stand.rounds):
        for letter in ("R", "U"):
            with stand.fresh(letter) as server:
                stand.load(server, connections=_WARM)
                idle = stand.load(server, connections=count, hold_s=_HOLD_S)
                found[letter].append(idle.grown_bytes / count / 1024)
        with stand.fresh("R") as server:
            stand.ask(server, connections=_WARM, events=10)
            after = stand.ask(server, connections=count, events=10, hold_s=_HOLD_S)
            found["R, after a run"].append(after.grown_bytes / count / 1024)
        stand.say(f"    round {number + 1}: " + ", ".join(f"{name} {kib[-1]:.1f} KiB" for name, kib in found.items()))
    series = {name: Series(tuple(kib)) for name, kib in found.items()}
    table = Table(("idle connection", "KiB per connection"))
    raw = Table(("round", *series))
    for name, kib in series.items():
        table.add(f"{name}: {BASELINES[name[0]]}" if name in BASELINES else name, kib.shown())
    for number, values in enumerate(zip(*(kib.values for kib in series.values()), strict=True), 1):
        raw.add(number, *(f"{value:.2f}" for value in values))
    against = ratios(series["R"], series["U"])
    return Section(
        name="idle",
        title="Idle connections",
        text=_TEXT.format(count=count, warm=_WARM),
        tables=[table],
        goals=[Goal(name="Memory of an idle connection", must=1.5, is_floor=False, unit="× U", found=against)],
        raw=[raw],
    )
