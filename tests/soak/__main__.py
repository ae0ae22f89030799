"""`python -m tests.soak --hours 8`: one soak, its summary, figures and picture in a folder."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak import report
from tests.soak.soak import Soak


def main(argv: list[str]) -> int:
    """Run; 0: nothing grows, and no promise was seen broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--collect", action="store_true", help="garbage before each sample: what stays is leaked")
    parser.add_argument("--folder", type=Path, help="what is kept goes there; default: a temporary one")
    options = parser.parse_args(argv)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix=f"runwire-soak-{options.seed}-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{options.hours * 60:.0f} minutes, seed {options.seed}; figures in {folder}", flush=True)
    soak = Soak(
        folder,
        options.seed,
        options.hours * 3600,
        collects=options.collect,
        say=lambda line: print(line, flush=True),
    )
    # As Ctrl-C does: what was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcome = asyncio.run(soak.run())
    print(report.write(outcome, folder))
    print(f"figures and picture: {folder}")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
