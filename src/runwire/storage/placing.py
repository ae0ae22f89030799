"""A file that stands under its name whole, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from runwire.errors import Conflict, Unavailable

__all__ = ["placed", "sync", "unwritable"]

_NO_LINKS: Final = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))


@contextmanager
def placed(path: Path, *, replaces: bool = False) -> Iterator[Path]:
    """Give an empty file of mode 0600 beside `path`; when the block ends it is on the disk, under `path`.

    Args:
        path: where it shall stand. A process killed meanwhile leaves `.runwire-….part` in that folder, and no `path`.
        replaces: whether a file of this name gives way to it.

    Raises:
        Conflict: there is something of this name.
        Unavailable: it could not be written; nothing is left of it.
    """
    if not path.name:  # `.` or `/`
        raise _taken(path)
    part = path.with_name(f".runwire-{secrets.token_hex(8)}.part")
    try:
        # Early, so that nobody waits for a copy that could never be kept; `_give_name` asks again, and decides.
        if os.path.lexists(path) and not replaces:
            raise _taken(path)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield part
        sync(part)  # before it has its name: a name on the disk means content on the disk
        if replaces:
            part.replace(path)
        else:
            _give_name(part, path)
        sync(path.parent)
    except OSError as error:
        raise unwritable(path, error.strerror or type(error).__name__) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def unwritable(path: Path, why: str) -> Unavailable:
    """Return the error that says why a file is not there."""
    return Unavailable(f"{path} cannot be written ({why}); nothing was left of it. Choose another place.")


def _give_name(part: Path, path: Path) -> None:
    """Rename without replacing: `link` refuses a name that is taken, `rename` would not."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without links: reserve the name, then fill it.
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            raise _taken(path) from None
        part.replace(path)


def _taken(path: Path) -> Conflict:
    return Conflict(f"{path} is there already; nothing was written. Choose another name, or move it away first.")


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
