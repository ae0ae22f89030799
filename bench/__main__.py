"""`make bench`: measure everything and write the page; `python -m bench --only burst --rounds 1 --quick`: one row.

python -m bench                              all rows, docs/reference/benchmarks.md is written
python -m bench --only burst,paced           these rows, printed
python -m bench profile burst                where Runwire's time goes, into a temporary folder
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

from bench import page, profile
from bench.figures import Faulty, Section
from bench.stand import BASELINES, Missing, Stand

ROWS: Final = (
    *("burst", "paced", "append", "latency", "first_event", "replay", "handshake", "idle", "growth"),
    *("step", "throughput", "start", "journal", "running", "parked"),  # durable runs
    "bus",  # many servers
    "breaker",
)
NAMED: Final = ("scale",)  # with a page of its own, and only if it is named
_ROUNDS: Final = 3


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    folder = Path(tempfile.mkdtemp(prefix="runwire-bench-", dir=options.folder))
    try:
        with Stand(
            folder, rounds=options.rounds, is_quick=options.quick, against=options.against or BASELINES, say=_say
        ) as stand:
            if options.verb == "profile":
                profile.profile(stand, options.row, seconds=options.seconds)
                return 0
            return _measure(stand, options)
    except (Faulty, Missing) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(stand: Stand, options: argparse.Namespace) -> int:
    names = options.only or ROWS
    began_s = time.monotonic()
    sections: list[Section] = []
    failed: list[str] = []
    for name in names:
        _say(f"{name}…")
        measure = cast(Callable[[Stand], Section], importlib.import_module(f"bench.rows.{name}").measure)
        try:
            sections.append(measure(stand))
        except (
            Faulty,
            OSError,
            RuntimeError,
            subprocess.SubprocessError,
        ) as error:  # the others are still worth having
            _say(f"bench: {error}")
            failed.append(f"**{name} could not be measured**: {(str(error) or type(error).__name__).splitlines()[0]}")
    if options.only or options.against or options.quick:
        print("\n".join(map(page.section_text, sections)))
        print(page.goals_table(sections).markdown())
        for note in [*failed, *(note for section in sections for note in section.notes)]:
            print(f"- {note}")
    else:
        tried = page.TRIED.read_text(encoding="utf-8")
        text = page.render(sections, conditions=page.describe(stand), failed=failed, tried=tried)
        page.PAGE.write_text(text, encoding="utf-8")
        print(page.goals_table(sections).markdown())
        _say(f"written: {page.PAGE.name}")
    _say(f"{time.monotonic() - began_s:.0f} s")
    return 1 if failed else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", nargs="?", choices=("run", "profile"), default="run")
    parser.add_argument("row", nargs="?", choices=profile.LOADS, default="burst", help="of profile")
    parser.add_argument("--only", type=_names, default=(), metavar="ROW[,ROW]", help=", ".join((*ROWS, *NAMED)))
    parser.add_argument("--against", type=_letters, default=(), metavar="N[,J]", help="only these baselines")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, choices=range(1, 100), metavar="N", help="default 3")
    parser.add_argument("--quick", action="store_true", help="small loads: to see that it works, not how fast")
    parser.add_argument("--seconds", type=int, default=15, help="of profile: how long to sample")
    parser.add_argument("--folder", type=Path, help="where databases are made; default: the system's temporary folder")
    return parser.parse_args(argv)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in (*ROWS, *NAMED)]:
        raise argparse.ArgumentTypeError(f"no row {', '.join(unknown)}; there are {', '.join((*ROWS, *NAMED))}")
    return names


def _letters(text: str) -> tuple[str, ...]:
    letters = tuple(text.split(","))
    if unknown := [letter for letter in letters if letter not in BASELINES]:
        raise argparse.ArgumentTypeError(f"no server {', '.join(unknown)}; there are {', '.join(BASELINES)}")
    return letters


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
