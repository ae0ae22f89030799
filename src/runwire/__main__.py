"""`python -m runwire` and the `runwire` command."""

from __future__ import annotations

import sys

from runwire.errors import ConfigurationError, RunwireError

__all__ = ["main"]


def main() -> None:
    """Run a verb; a person's mistake is one sentence on standard error, never a traceback."""
    from runwire.cli.main import app

    try:
        app(prog_name="runwire")
    except RunwireError as error:
        sys.exit(_explain(error))
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells expect


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
