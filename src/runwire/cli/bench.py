"""`runwire bench URL|local`: put load on a deployment and see whether it keeps its promises meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from runwire.cli.accounts import DataDir
from runwire.cli.check import killing, secret_of, signed_in, told_apart, write_report
from runwire.cli.place import TokenOption, found
from runwire.client import Token
from runwire.conformance import CouldNotCheck
from runwire.conformance.load import shown
from runwire.conformance.load.drive import Load, Plan, beside
from runwire.conformance.load.tally import Shape
from runwire.errors import ProtocolError, Unauthenticated, Unavailable
from runwire.testing.server import ServerProcess

__all__ = ["bench"]

_LOCAL: Final = "local"
_PER_ACCOUNT: Final = 400  # sockets: below the setting `user_sockets`
_AGENTS: Final = "runwire.conformance.agents:agents"


def bench(
    place: Annotated[
        list[str] | None, typer.Argument(metavar="[URL|local]", help="The deployment (RUNWIRE_URL), or one of its own.")
    ] = None,
    token: TokenOption = None,
    user: Annotated[str | None, typer.Option(help="Sign in as this person; with --password-stdin.")] = None,
    client_id: Annotated[
        str | None, typer.Option(help="Sign in as this service account; with --password-stdin for its key.")
    ] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the secret from a line.")] = False,
    data_dir: DataDir = None,
    users: Annotated[int, typer.Option(min=1, max=10_000, help="Sockets, each with a thread of its own.")] = 10,
    rate: Annotated[float, typer.Option(min=0.01, max=10_000, help="Messages per second, all users together.")] = 10.0,
    duration: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds.")] = 30.0,
    agent: Annotated[str | None, typer.Option(help="Default: check_load if offered, else the deployment's.")] = None,
    events: Annotated[int, typer.Option(min=0, max=10_000, help="Pieces of text of each run (check_load).")] = 20,
    tools: Annotated[int, typer.Option(min=0, max=100, help="Tool calls of each run (check_load).")] = 1,
    gap_ms: Annotated[float, typer.Option(min=0, max=60_000, help="Before each piece (check_load).")] = 0.0,
    cuts: Annotated[float, typer.Option(min=0, max=60_000, help="Connections cut per minute, at random.")] = 0.0,
    kill: Annotated[
        str | None,
        typer.Option(
            help="A command that kills a process of it, first within half of the duration; `local` has its own."
        ),
    ] = None,
    kills: Annotated[
        float | None, typer.Option(min=0, max=60, help="Kills per minute; default: 1 with --kill, else none.")
    ] = None,
    may_fail: Annotated[
        bool, typer.Option("--may-fail", help="Runs that fail and messages that are refused are no failure.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed cuts alike.")] = 1,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=3_600, help="For the runs open at the end.")] = 60.0,
    report: Annotated[
        list[str] | None,
        typer.Option(metavar="[FORMAT] PATH", help=f"Also write a report: {', '.join(shown.FORMATS)}. Repeatable."),
    ] = None,
) -> None:
    """Put load on a deployment, cut and kill, and judge each event meanwhile.

    Exit status 0: every event came once, in order; 1: not so, or a run failed; 2: nothing could be measured.
    """
    words = list(place or [])
    is_local = _LOCAL in words
    if is_local:
        words.remove(_LOCAL)
    urls, reports = told_apart(words, report or [], tuple(shown.FORMATS))
    if len(urls) + is_local > 1:
        raise typer.BadParameter("one deployment at a time", param_hint="URL")
    if is_local and (token or user or client_id or password_stdin):
        raise typer.BadParameter("`local` makes its own users; --token, --user and --client-id go with a URL")
    if kills and kill is None and not is_local:
        raise typer.BadParameter("say how, by --kill COMMAND; only `local` can be killed without", param_hint="--kills")
    secret = secret_of(password_stdin, user, client_id)
    slay = killing(kill) if kill else None
    plan = Plan(
        users=users,
        rate=rate,
        duration_s=duration,
        shape=Shape(events=events, tools=tools, gap_ms=gap_ms),
        agent=agent,
        cuts=cuts,
        kills=1.0 if kills is None else kills,
        may_fail=may_fail,
        seed=seed,
        timeout_s=timeout_s,
    )

    @contextlib.asynccontextmanager
    async def target() -> AsyncIterator[Load]:
        if is_local:
            async with _own(users) as (server, keys):
                yield Load(server.url, keys, plan, kill=slay or (partial(server.restart, kill=True) if kills else None))
            return
        async with found(urls[0] if urls else None, token or secret, data_dir) as (url, credential):
            who = await signed_in(url, credential, user=user, client_id=client_id, secret=secret)
            yield Load(url, [who], plan, kill=slay)

    async def put() -> Load:
        async with target() as load:
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, load.stop.set)
            async with beside(_watch(load)):
                await load.run()
            return load

    try:
        load = asyncio.run(put())
    except (CouldNotCheck, Unavailable, Unauthenticated, ProtocolError) as error:
        typer.echo(f"Could not measure: {error.message}", err=True)
        raise typer.Exit(2) from error
    typer.echo(shown.as_text(load))
    for kind, path in reports:
        write_report(path, shown.FORMATS[kind](load))
    raise typer.Exit(shown.exit_code(load))


@contextlib.asynccontextmanager
async def _own(users: int) -> AsyncIterator[tuple[ServerProcess, list[Token]]]:
    """Give a server of our own, with at least two accounts; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="runwire-bench-") as folder:
        async with ServerProcess(_AGENTS, data_dir=Path(folder) / "data") as server:
            accounts = max(2, -(-users // _PER_ACCOUNT))
            keys: list[Token] = [await server.create_user(f"bench{number}") for number in range(accounts)]
            yield server, keys


async def _watch(load: Load) -> None:
    """Show how it goes: a table where somebody watches, else a line each ten seconds, on standard error."""
    if not sys.stderr.isatty():
        while True:
            await asyncio.sleep(10)
            typer.echo(_line(load), err=True)
    with Live(_table(load, 0.0), console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        started_s = time.monotonic()
        while True:
            await asyncio.sleep(0.5)
            live.update(_table(load, time.monotonic() - started_s), refresh=True)


def _pace(load: Load) -> tuple[float, float]:
    last = load.points[-1] if load.points else None
    return (last.runs / load.point_s, last.events / load.point_s) if last else (0.0, 0.0)


def _line(load: Load) -> str:
    tally, (runs, events) = load.tally, _pace(load)
    return (
        f"{tally.sockets} sockets, {runs:.0f} runs/s, {events:.0f} events/s, "
        f"p99 {tally.run.quantile_s(0.99) * 1000:.0f} ms, {tally.lost} lost, {tally.doubled} doubled, "
        f"{tally.disordered} out of order, {tally.crossed} crossed, {tally.cuts} cuts, {tally.resumes} resumes"
    )


def _table(load: Load, at_s: float) -> Table:
    tally, (runs, events) = load.tally, _pace(load)
    shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    late = "  ".join(f"{name} {tally.run.quantile_s(share) * 1000:.0f} ms" for name, share in shares)
    table = Table(title=f"runwire bench · {load.url} · {at_s:.0f} of {load.plan.duration_s:g} s", show_header=False)
    table.add_row("users · sockets", f"{load.plan.users:,} · {tally.sockets:,}")
    table.add_row("runs/s · events/s", f"{runs:,.0f} · {events:,.0f}")
    table.add_row("latency of runs", late)
    for name, count in (
        ("lost", tally.lost),
        ("doubled", tally.doubled),
        ("out of order", tally.disordered),
        ("crossed", tally.crossed),
    ):
        table.add_row(name, f"[red bold]{count:,}[/]" if count else "[green]0[/]")
    table.add_row("cuts · resumes", f"{tally.cuts:,} · {tally.resumes:,}")
    return table
