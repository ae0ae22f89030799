"""`runwire audit`: who did what to whom from where, one JSON object in a line."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
from typing import Annotated, Final

import typer

from runwire import app
from runwire.cli.accounts import DataDir
from runwire.settings import Settings, load

__all__ = ["audit"]

_FOLLOW_S: Final = 0.5  # between two looks for more
_AGO: Final = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def audit(
    data_dir: DataDir = None,
    since: Annotated[
        str | None, typer.Option("--since", help="2026-11-23, 2026-11-23T10:00:00Z, or how long ago: 90m, 24h, 7d.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
) -> None:
    """Print the audit as JSON lines: seq, at, actor, actor_kind, action, subject, address, detail."""
    settings = load({"data_dir": data_dir}, serves=False).settings
    from_ms = _moment_ms(since) if since else 0
    asyncio.run(_print(settings, from_ms=from_ms, follows=follow))


async def _print(settings: Settings, *, from_ms: int, follows: bool) -> None:
    cursor = 0
    while True:
        async for row in app.audit_rows(settings, cursor=cursor):
            cursor = row["seq"]
            if row["at"] >= from_ms:
                typer.echo(json.dumps({**row, "at": _shown(row["at"])}, ensure_ascii=False))
        if not follows:
            return
        await asyncio.sleep(_FOLLOW_S)


def _shown(at_ms: int) -> str:
    moment = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment_ms(text: str) -> int:
    """Read a moment; without a zone it is UTC, as all that is printed is."""
    now = datetime.datetime.now(tz=datetime.UTC)
    ago = _AGO.fullmatch(text)
    if ago:
        moment = now - datetime.timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        return int(moment.timestamp() * 1000)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        sentence = "write a day (2026-11-23), a time (2026-11-23T10:00:00Z) or how long ago (90m, 24h, 7d)"
        raise typer.BadParameter(sentence, param_hint="--since") from None
    in_zone = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return int(in_zone.timestamp() * 1000)
