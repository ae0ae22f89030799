"""`python -m runwire` and the `runwire` command."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Any, cast

from runwire.errors import ConfigurationError, RunwireError

__all__ = ["main"]

_SERVERS = (["dev"], ["serve"])  # what a container or a unit stops with a signal, maybe while it still imports


def main() -> None:
    """Run a verb; a person's mistake is one sentence on standard error, never a traceback."""
    try:
        if sys.argv[1:2] in _SERVERS:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _leave)
        _begin_lightly()
        from runwire.cli.main import make_app

        app = make_app(sys.argv[1:])
        if sys.argv[1:2] not in _SERVERS:  # they turn the collector on when they have imported the rest
            gc.freeze()
            gc.enable()
        app(prog_name="runwire")
    except RunwireError as error:
        sys.exit(_explain(error))
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells expect


def _begin_lightly() -> None:
    """Spare the start a quarter of its time (measured): nothing that is imported is garbage, and no log line is rich.

    structlog imports rich, with all its lexers, for tracebacks in colours wherever it is installed, and it is with
    typer. Ours are plain text: `app/logs.py`. Who draws with rich imports it afterwards.
    """
    gc.disable()
    if "rich" not in sys.modules:
        cast("dict[str, Any]", sys.modules)["rich"] = None  # not to be found
        try:
            import structlog  # noqa: F401
        finally:
            del sys.modules["rich"]


def _leave(*_: object) -> None:
    # Nothing is open yet, nor told to anybody. An exception would be raised within whatever is being imported.
    os._exit(0)


def _explain(error: RunwireError) -> int:
    """Write the error for a person and return the exit status (PROTOCOL §6)."""
    if isinstance(error, ConfigurationError):
        for fault in error.faults:
            sys.stderr.write(f"configuration: {fault}\n")
        return 78
    where = f" ({error.field})" if error.field else ""
    again = f" Try again in {error.retry_after_s:.0f} s." if error.retry_after_s else ""
    sys.stderr.write(f"error{where}: {error.message}{again}\n")
    return 1


if __name__ == "__main__":
    main()
