"""What it costs to let somebody in."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from bench.figures import Goal, Section, Series, Table, ratios
from bench.process import Process
from bench.stand import PASSWORD, Stand

__all__ = ["measure"]

_TEXT = """\
CPU of the server per connection that was opened ({count} of them, 50 at a time), until nothing is left to do for it.
*Without identity* is the upgrade alone, which is all that U does: Runwire then waits for `hello`. With an access
token its signature is checked and its user looked up; an API key is asked for at the auth service the first time it
is seen, later it is known."""


def measure(stand: Stand) -> Section:
    """Measure R in four ways, and U, interleaved."""
    count = 50 if stand.is_quick else 400
    ways = ("R, without identity", "R, access token", "R, API key, first time", "R, API key, known", "U")
    found: dict[str, list[float]] = {way: [] for way in ways}
    stand.load(stand.server("U"), connections=count)
    for number in range(stand.rounds):
        with stand.fresh("R") as server:
            keys = stand.keys[:count]
            stand.load(server, connections=count, credentials=[], is_greeted=False)  # warm up
            token = _sign_in(server)
            loads: dict[str, dict[str, Any]] = {
                "R, without identity": {"credentials": [], "is_greeted": False},
                "R, access token": {"credentials": [token]},
                "R, API key, first time": {"credentials": keys},
                "R, API key, known": {"credentials": keys},
            }
            for way, load in loads.items():
                found[way].append(stand.load(server, connections=count, **load).connect_ns / count / 1000)
        found["U"].append(stand.load(stand.server("U"), connections=count).connect_ns / count / 1000)
        stand.say(f"    round {number + 1}: " + ", ".join(f"{way} {us[-1]:.0f} µs" for way, us in found.items()))
    series = {way: Series(tuple(us)) for way, us in found.items()}
    table = Table(("handshake", "CPU µs per connection", "against U"))
    raw = Table(("round", *ways))
    for way, us in series.items():
        table.add(way, us.shown(0), "" if way == "U" else f"{ratios(us, series['U']).shown(2)} ×")
    for number, values in enumerate(zip(*(us.values for us in series.values()), strict=True), 1):
        raw.add(number, *(f"{value:.0f}" for value in values))
    against = ratios(series["R, without identity"], series["U"])
    return Section(
        name="handshake",
        title="Handshake",
        text=_TEXT.format(count=count),
        tables=[table],
        goals=[Goal(name="CPU of a handshake, without identity", must=2, is_floor=False, unit="× U", found=against)],
        raw=[raw],
    )


def _sign_in(server: Process) -> str:
    """Return an access token."""
    body = json.dumps({"user": "user0", "password": PASSWORD}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/auth/sessions", data=body, headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        token = json.load(response)["access_token"]
    assert isinstance(token, str)
    return token
