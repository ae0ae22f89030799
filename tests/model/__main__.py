"""Search one scenario and print what is found, or write the table of docs/explanation/durability.md."""

from __future__ import annotations

import argparse
import sys

from tests.model import table
from tests.model.rules import RULES
from tests.model.scenarios import CAMPAIGN, SCENARIOS
from tests.model.search import search


def main() -> int:
    """Return the exit status: 0 no promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("scenario", nargs="?", choices=[*SCENARIOS, *CAMPAIGN])
    parser.add_argument("--without", default="", choices=[rule.name for rule in RULES], help="a rule to leave out")
    parser.add_argument("--write", action="store_true", help="the table")
    options = parser.parse_args()
    if options.write:
        page = table.PAGE.read_text(encoding="utf-8")
        table.PAGE.write_text(table.written(page, table.made()), encoding="utf-8")
    if options.scenario is None:
        return 0
    found = search({**SCENARIOS, **CAMPAIGN}[options.scenario], options.without)
    print(found)
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
