"""Who owns a data file: an `flock` on `<file>.lock`, whose text names the owner.

The kernel drops the lock when the process dies, however it dies; only the text may be stale.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from runwire.errors import ConfigurationError

__all__ = ["OwnedElsewhere", "Owner", "OwnerLock", "read_owner"]


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """What the lock file says, e.g. `{"pid": 4711, "socket": "/data/control.sock"}`."""

    pid: int
    socket: str | None = None  # where the owner takes verbs; None: it takes none (yet)


class OwnedElsewhere(ConfigurationError):
    """Refuse to open a file that a living process owns; a CLI verb asks that process instead."""

    def __init__(self, path: Path, owner: Owner | None) -> None:
        name = f"process {owner.pid}" if owner else "another process"
        super().__init__([f"{path} is in use by {name}: stop it, or choose another data folder."])
        self.owner = owner


class OwnerLock:
    """The lock of one data file, held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            OwnedElsewhere: a living process has it; also this one, through another `OwnerLock`.
            OSError: the lock file cannot be made.
        """
        # A file object, so that a lock that nobody kept a reference to is dropped; Python opens it close-on-exec.
        self._file = os.fdopen(os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise OwnedElsewhere(path, read_owner(path)) from None
        self.record(socket=None)

    def record(self, *, socket: Path | None) -> None:
        """Write down who owns the file and where it takes verbs."""
        text = msgspec.json.encode(Owner(pid=os.getpid(), socket=None if socket is None else str(socket)))
        os.pwrite(self._file.fileno(), text, 0)
        os.ftruncate(self._file.fileno(), len(text))

    def release(self) -> None:
        """Let another process own the file. Idempotent."""
        self._file.close()


def read_owner(path: Path) -> Owner | None:
    """Return what the lock file of a data file says; it may be out of date, and is None when unreadable."""
    try:
        return msgspec.json.decode(_lock_path(path).read_bytes(), type=Owner)
    except (OSError, msgspec.DecodeError):
        return None


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
