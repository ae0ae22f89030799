"""The test build of the server: the ordinary command line with faults to order, one by one, while it runs.

`python -m tests.identity.server serve …`, with IDENTITY_FAULTS=/folder; what a file there says is done once, or for as
long as it stands there:

    publish     `lost`: no wake-up after a change of identity; `kill`: SIGKILL between the commit and the wake-up
    meet        `kill`: SIGKILL when the backend's row of a person is committed, and nothing that follows it is
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "IDENTITY_FAULTS"


def main() -> None:
    """Prepare this process and run the command line in it."""
    install(Path(os.environ[FOLDER]))  # noqa: TID251 - no setting of the server
    from runwire.__main__ import main as run

    run()


def install(folder: Path) -> None:
    """Put the faults in their places."""
    from runwire.app import parts

    room: Any = parts
    make_auth_app: Callable[..., Any] = room.make_auth_app

    def make(*arguments: Any, changed: Callable[[], None], **options: Any) -> Any:
        def change() -> None:
            match _ordered(folder / "publish"):
                case "lost":
                    return
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
            changed()

        return make_auth_app(*arguments, changed=change, **options)

    room.make_auth_app = make


def _ordered(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    main()
