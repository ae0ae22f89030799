"""`python -m tests.fleet --seed N --faults 300`: one campaign, its summary and its picture in a folder."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from tests.fleet import report
from tests.fleet.campaign import Campaign
from tests.fleet.load import Sizes


def main(argv: list[str]) -> int:
    """Run; 0: no promise was seen broken."""
    options = _parse(argv)
    folder = options.folder or Path(tempfile.mkdtemp(prefix=f"runwire-fleet-{options.seed}-"))
    folder.mkdir(parents=True, exist_ok=True)
    every_s = options.minutes * 60 / options.faults if options.minutes else options.every
    tabs = options.tabs or round(options.users * 2.6)
    campaign = Campaign(
        folder.resolve(),
        options.seed,
        faults=options.faults,
        every_s=every_s,
        has_redis=not options.without_redis,
        sizes=Sizes(users=options.users, tabs=tabs, runs_per_s=options.rate, at_once=options.at_once),
        fails_over=options.failover,
        gateways=options.gateways,
        workers=options.workers,
        say=lambda line: print(line, flush=True),
    )
    outcome = asyncio.run(campaign.run())
    print(report.write(outcome))
    return 0 if outcome.is_good else 1


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--every", type=float, default=4.5, metavar="SECONDS", help="from one fault to the next")
    parser.add_argument("--minutes", type=float, help="for all faults, instead of --every")
    parser.add_argument("--without-redis", action="store_true")
    parser.add_argument("--failover", action="store_true", help="the last fault: a standby takes over")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--tabs", type=int, help="connections; default 2.6 per user")
    parser.add_argument("--rate", type=float, default=7.0, help="messages per second, by all")
    parser.add_argument("--at-once", type=int, default=90, help="runs under way at most")
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="what is kept goes there; default: a temporary one")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
