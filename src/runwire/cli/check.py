"""`runwire check URL`: prove the promises of a deployment from outside."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
import tomllib
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import httpx2
import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from runwire.cli.accounts import DataDir
from runwire.cli.place import TokenOption, found
from runwire.client import Token, sign_in
from runwire.client.http import read
from runwire.conformance import BUDGET, CATEGORIES, FORMATS, Options, Report, Result, as_text, wanted_cases
from runwire.conformance import check as prove
from runwire.errors import ConfigurationError, ProtocolError, Unauthenticated, Unavailable

__all__ = ["check", "killing", "secret_of", "signed_in", "told_apart", "write_report"]

_CALL_S: Final = 30.0  # for a token
_KILL_S: Final = 60.0  # for the operator's command
_SUFFIXES: Final = {".md": "md", ".json": "json", ".xml": "junit", ".html": "html", ".htm": "html"}
_ONLY: Final = f"Only this category; repeatable: {', '.join(CATEGORIES)}."
_BUDGET: Final = f"TOML or JSON with time limits in milliseconds: {', '.join(BUDGET)}."


def check(
    urls: Annotated[
        list[str] | None,
        typer.Argument(metavar="[URL]...", help="The deployment (RUNWIRE_URL), and more gateways of it to resume at."),
    ] = None,
    token: TokenOption = None,
    user: Annotated[str | None, typer.Option(help="Sign in as this person; with --password-stdin.")] = None,
    client_id: Annotated[
        str | None, typer.Option(help="Sign in as this service account; with --password-stdin for its key.")
    ] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the secret from a line.")] = False,
    other_token: Annotated[str | None, typer.Option(help="Key of a second user, for `isolation`.")] = None,
    expired_token: Annotated[str | None, typer.Option(help="A token that has ended, for `auth`.")] = None,
    data_dir: DataDir = None,
    agent: Annotated[str | None, typer.Option(help="The agent to talk to; default: the deployment's.")] = None,
    expect: Annotated[Literal["five", "any"], typer.Option(help="five: all five events must come.")] = "five",
    only: Annotated[list[str] | None, typer.Option("--only", help=_ONLY)] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", help="Not this category; repeatable.")] = None,
    priority: Annotated[Literal["p1", "p2"], typer.Option(help="p1: only what a release must never break.")] = "p2",
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first broken promise.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Categories at once.")] = 1,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="For each run and each answer, seconds.")] = 60.0,
    budget: Annotated[Path | None, typer.Option(help=_BUDGET)] = None,
    kill: Annotated[str | None, typer.Option(help="A command that kills a process of it, for `crash`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line: each result, then the end.")] = False,
    report: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FORMAT] PATH",
            help=f"Also write a report: {', '.join(FORMATS)}, or by the name of the file (.xml: junit). Repeatable.",
        ),
    ] = None,
) -> None:
    """Prove from outside that a deployment keeps its promises.

    Exit status 0: every promise that was checked is kept; 1: one is broken; 2: it could not be checked.
    """
    places, reports = told_apart(urls or [], report or [])
    secret = secret_of(password_stdin, user, client_id)
    options: dict[str, Any] = {
        "categories": tuple(only or CATEGORIES),
        "skip": tuple(skip or ()),
        "priority": priority,
        "fail_fast": fail_fast,
        "workers": workers,
        "expect": expect,
        "agent": agent,
        "timeout_s": timeout_s,
        "budget": _limits(budget),
        "others": tuple(places[1:]),
        "other_token": other_token,
        "expired_token": expired_token,
        "person": (user, secret) if user and secret else None,
        "kill": killing(kill) if kill else None,
    }

    async def prove_it() -> Report:
        # With a secret the credential is made below, so `found` need not have one.
        async with found(places[0] if places else None, token or secret, data_dir) as (place, credential):
            credential = await signed_in(place, credential, user=user, client_id=client_id, secret=secret)
            with _shown(Options(**options), as_json=as_json) as tell:
                return await prove(place, credential, on_result=tell, **options)

    try:
        done = asyncio.run(prove_it())
    except (Unavailable, Unauthenticated, ProtocolError) as error:
        # No server, no credential: nothing was checked, which is neither kept nor broken.
        typer.echo(f"Could not check: {error.message}", err=True)
        raise typer.Exit(2) from error
    typer.echo(_line(done) if as_json else as_text(done))
    for kind, path in reports:
        write_report(path, FORMATS[kind](done))
    raise typer.Exit(done.exit_code)


# ── who we are ───────────────────────────────────────────────────────────────────────────────────────────


def secret_of(is_given: bool, user: str | None, client_id: str | None) -> str | None:
    """Return what `--password-stdin` says; None: nothing was to be read."""
    if not is_given:
        if user or client_id:
            raise typer.BadParameter("say the secret by --password-stdin, one line of standard input")
        return None
    if (user is None) == (client_id is None):
        raise typer.BadParameter("--password-stdin goes with either --user or --client-id")
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise typer.BadParameter("standard input has no line for --password-stdin")
    return line


async def signed_in(
    url: str, credential: Token, *, user: str | None, client_id: str | None, secret: str | None
) -> Token:
    """Return the credential of who was named by `--user` or `--client-id`; else the one that is given."""
    if secret is None:
        return credential
    if user is not None:
        return await sign_in(url, user=user, password=secret)
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}

    async def service() -> str:
        try:
            async with httpx2.AsyncClient(base_url=url, timeout=_CALL_S) as http:
                return str(read(await http.post("/auth/token", data=form))["access_token"])
        except httpx2.HTTPError as error:
            raise Unavailable(f"{url} did not answer: {str(error) or type(error).__name__}.") from error

    return service


# ── what is read ─────────────────────────────────────────────────────────────────────────────────────────


def _limits(path: Path | None) -> Mapping[str, float]:
    if path is None:
        return BUDGET
    try:
        text = path.read_text(encoding="utf-8")
        limits = msgspec.json.decode(text) if path.suffix == ".json" else tomllib.loads(text)
        return msgspec.convert(limits, dict[str, float])
    except OSError as error:
        raise ConfigurationError([f"--budget {path} cannot be read ({error.strerror})."]) from error
    except (tomllib.TOMLDecodeError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"--budget {path}: {error}. Write lines such as `first_event_ms = 2000`."]) from error


def told_apart(
    words: list[str], reports: list[str], formats: Collection[str] = tuple(FORMATS)
) -> tuple[list[str], list[tuple[str, Path]]]:
    """Return URLs and reports: the path of `--report FORMAT PATH` stands among the words that no option takes."""
    urls = [word for word in words if word.startswith(("http://", "https://"))]
    paths = [word for word in words if word not in urls]
    found_ = []
    for each in reports:
        if each in formats:
            if not paths:
                raise typer.BadParameter(f"{each}: say where, `--report {each} PATH`")
            found_.append((each, Path(paths.pop(0))))
        elif _SUFFIXES.get(Path(each).suffix) in formats:
            found_.append((_SUFFIXES[Path(each).suffix], Path(each)))
        else:
            raise typer.BadParameter(f"{each}: write `--report FORMAT PATH`, with a format of {', '.join(formats)}")
    if paths:
        raise typer.BadParameter(f"{paths[0]}: write it with its scheme, e.g. http://127.0.0.1:8000", param_hint="URL")
    return urls, found_


def killing(command: str) -> Callable[[], Awaitable[None]]:
    """Return what runs the operator's command; it raises `Unavailable` if that fails or takes over a minute."""
    words = shlex.split(command)

    async def kill() -> None:
        try:
            process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL)
            async with asyncio.timeout(_KILL_S):
                status = await process.wait()
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"--kill {command}: {str(error) or 'it takes too long'}", field="--kill") from error
        if status != 0:
            raise Unavailable(f"--kill {command} ended with status {status}.", field="--kill")

    return kill


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _shown(options: Options, *, as_json: bool) -> Iterator[Callable[[Result], None]]:
    """Give what is told of each result: a line of JSON, a bar for each category where somebody watches, or nothing."""
    if as_json:
        yield lambda result: typer.echo(msgspec.json.encode({"type": "result", **msgspec.to_builtins(result)}).decode())
        return
    if not sys.stderr.isatty():
        yield lambda result: None
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars = {
            name: progress.add_task(name, total=len(cases), said="") for name, cases in wanted_cases(options).items()
        }
        broken = dict.fromkeys(bars, 0)

        def tell(result: Result) -> None:
            broken[result.category] += result.status == "broken"
            said = f"[red]{broken[result.category]} broken" if broken[result.category] else ""
            progress.update(bars[result.category], advance=1, said=said)

        yield tell


def _line(report: Report) -> str:
    body = {**msgspec.to_builtins(report), "exit_code": report.exit_code, "verdict": report.verdict}
    return msgspec.json.encode({"type": "report", **body}).decode()


def write_report(path: Path, text: str) -> None:
    """Write a report; raises `Unavailable` if that cannot be done."""
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise Unavailable(f"The report {path} cannot be written ({error.strerror}).", field="--report") from error
