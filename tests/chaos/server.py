"""The test build of the server: the ordinary command line with failpoints, a clock to move, or a promise left out.

`python -m tests.chaos.server dev agent.py …`, controlled by the environment (see `failpoints`, `clock`, `mutants`);
the names are outside RUNWIRE_, of which the settings refuse what they do not know.

    CHAOS_UNPRIVILEGED=1    as root, give up the right to pass over the modes of files
    CHAOS_FILE_BYTES=n      no file may grow beyond n bytes
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from tests.chaos import clock, failpoints, mutants

_PR_CAPBSET_DROP = 24  # linux/prctl.h
_PASSES_OVER_MODES = (1, 2, 3)  # linux/capability.h: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


def main() -> None:
    """Prepare this process and run the command line in it."""
    environ = os.environ  # noqa: TID251 - no setting of the server
    if environ.pop("CHAOS_UNPRIVILEGED", None) and os.geteuid() == 0:
        _give_up_privileges()
    if limit := environ.get("CHAOS_FILE_BYTES"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    armed = failpoints.parse(environ.get("CHAOS_FAILPOINT", ""))
    mutants.install(environ.get("CHAOS_MUTANT", ""))
    marks, read_only = environ.get("CHAOS_MARKS"), environ.get("CHAOS_READ_ONLY")
    failpoints.Failpoints(armed, marks, read_only=read_only).install()
    if path := environ.get("CHAOS_CLOCK"):
        clock.install(Path(path))
    from runwire.__main__ import main as run

    run()


def _give_up_privileges() -> None:
    """Lose the capabilities for good: what is not in the bounding set does not survive an exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in _PASSES_OVER_MODES:
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the capabilities of this process cannot be given up")
    os.execv(sys.executable, [sys.executable, "-m", "tests.chaos.server", *sys.argv[1:]])


if __name__ == "__main__":
    main()
