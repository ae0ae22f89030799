"""The test build of a fleet's process: the ordinary command line with a clock to move, or a promise left out.

`python -m tests.fleet.server serve …`, controlled by the environment:

    FLEET_CLOCK=/folder/clock     a file with the offset of the wall clock in seconds (`tests.chaos.clock`)
    FLEET_MUTANT=name             what this process does wrong (`tests.fleet.mutants`, `tests.soak.leaks`)

SIGUSR1 has it collect its garbage, so that what is left can be counted.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

from tests.chaos import clock
from tests.fleet import mutants
from tests.soak import leaks


def main() -> None:
    """Prepare this process and run the command line in it."""
    environ = os.environ  # noqa: TID251 - no setting of the server
    mutant = environ.get("FLEET_MUTANT", "")
    if mutant in leaks.LEAKS:
        leaks.LEAKS[mutant]()
    else:
        mutants.install(mutant)
    signal.signal(signal.SIGUSR1, lambda *_: gc.collect())
    if path := environ.get("FLEET_CLOCK"):
        clock.install(Path(path))
    from runwire.__main__ import main as run

    run()


if __name__ == "__main__":
    main()
