"""Run the tests of a category: what `runwire test` is for every project, as a script of this one.

    python3 tests/unified_test_runner.py --category mission_critical --no-docker --fast-fail --max-workers 1

It needs nothing but Python to start, and continues in the `.venv` of the project.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str]) -> None:
    """Run, and end with status 0 all passed, 1 something failed, 2 nothing could be run."""
    try:
        import typer

        from runwire.cli.test import run_tests
    except ImportError:
        print("unified_test_runner: Runwire is not installed for this Python. Run `make setup` first.", file=sys.stderr)
        sys.exit(2)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run_tests)
    app([*argv, "--project", str(ROOT)], prog_name="unified_test_runner")


def continue_in_venv() -> None:
    """Become the same program in the project's environment, if there is one and this is not it."""
    python = ROOT / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        os.execv(python, [str(python), *sys.argv])


if __name__ == "__main__":
    continue_in_venv()
    main(sys.argv[1:])
