"""The test build of the server: the ordinary command line with faults to order, one by one, while it runs.

`python -m tests.identity.server serve …`, with IDENTITY_FAULTS=/folder; what a file there says is done once, or for as
long as it stands there:

    expired_s   how long after the last read of the log of changes sockets go on: 30 s are long for a test
    publish     `lost`: no wake-up after a change of identity; `kill`: SIGKILL between the commit and the wake-up
    register    `kill`: SIGKILL when an account is committed, and no session of it is
    meet        `kill`: SIGKILL when the backend's row of a person is committed, and nothing that follows it is
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
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
    from runwire.auth.follower import FollowSettings
    from runwire.storage.base import UserRow
    from runwire.storage.postgres.auth_users import PostgresUsers
    from runwire.storage.postgres.people import PostgresPeople

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
    if expired := _ordered(folder / "expired_s"):
        room.Follower = partial(room.Follower, settings=FollowSettings(expired_s=float(expired)))
    meet = PostgresPeople.meet

    async def meet_and_maybe_die(self: PostgresPeople, user: str, issuer: str, subject: str) -> bool:
        is_first = await meet(self, user, issuer, subject)
        if _ordered(folder / "meet") == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return is_first

    PostgresPeople.meet = meet_and_maybe_die  # type: ignore[method-assign]  # the same, and a place to die in
    create_user = PostgresUsers.create_user

    async def create_and_maybe_die(self: PostgresUsers, name: str, **options: Any) -> UserRow:
        row = await create_user(self, name, **options)
        if _ordered(folder / "register") == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    PostgresUsers.create_user = create_and_maybe_die  # type: ignore[method-assign]  # likewise


def _ordered(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    main()
