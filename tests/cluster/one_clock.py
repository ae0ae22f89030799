"""The command line without the slack of a self-check for clocks of other machines: here all processes have one."""

from __future__ import annotations

from typing import Final

from runwire.__main__ import main
from runwire.app import self_check

SLACK_S: Final = 1.0

if __name__ == "__main__":
    self_check._SLACK_S = SLACK_S  # type: ignore[misc]  # waiting for it takes ten seconds of each test run
    main()
