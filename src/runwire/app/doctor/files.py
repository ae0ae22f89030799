"""The data folder: there, ours, writable, with room."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runwire.app.administration import database_path
from runwire.app.doctor.finding import Finding, fault, fine, skipped, warning
from runwire.app.doctor.subject import Subject, apart

__all__ = ["examine_data_dir"]

_LEAST_BYTES: Final = 128 << 20  # its log may have 64 MiB before it is cut back
_FEW_BYTES: Final = 1 << 30
_ROOT: Final = 0


async def examine_data_dir(subject: Subject) -> list[Finding]:
    """Look at the folder of the embedded database."""
    settings = subject.settings
    if settings.is_shared:
        return [skipped("data_dir", "not needed: the database is PostgreSQL")]
    if settings.storage_url.startswith("memory:"):
        return [skipped("data_dir", "not needed: the database is memory")]
    what = "data_dir" if settings.database_url is None else "database_url"
    path = database_path(settings)
    return await apart(lambda: list(_look(what, path)))


def _look(what: str, path: Path) -> Iterator[Finding]:
    folder = path.parent
    other = f"set {what} to a folder of the server's own on a local disk"
    try:
        there = _nearest(folder)
        if not there.is_dir():
            yield fault(what, f"{there} is not a folder", other)
            return
        about = there.stat()
        _write_into(there)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            yield fault("free space", f"{there} has no room left", f"make room, or {other}")
        else:
            yield fault(
                what, f"{folder} cannot be written: {error.strerror}", f"give it to the server's user, or {other}"
            )
        return
    yield from _whose(what, there, about)
    if there != folder:
        yield fine(what, f"{folder} is made by the first start")
    else:
        yield fine(what, f"{folder} of {_user(about.st_uid)}, writable")
    yield from _modes(path)
    yield _room(there, path, other)


def _nearest(folder: Path) -> Path:
    """Return the folder, or what is there of the way to it."""
    return next((part for part in (folder, *folder.parents) if part.exists()), folder)


def _write_into(folder: Path) -> None:
    # What the mode says is not the whole truth: a file system may be read-only, full, or belong to another machine.
    with tempfile.TemporaryFile(dir=folder, prefix=".runwire-doctor-") as file:
        file.write(b"\0")
        file.flush()


def _whose(what: str, folder: Path, about: os.stat_result) -> Iterator[Finding]:
    owner, own = about.st_uid, os.geteuid()
    if owner == own:
        return
    found = f"{folder} belongs to {_user(owner)}, and this is {_user(own)}"
    if own == _ROOT:
        yield warning(what, found, f"look as the server's user: sudo -u {_user(owner)} runwire doctor")
    else:
        yield warning(what, found, f"chown {_user(own)} {folder}, or run the server as {_user(owner)}")


def _modes(path: Path) -> Iterator[Finding]:
    for one, others in ((path.parent, 0o022), (path, 0o077)):
        if one.exists() and stat.S_IMODE(one.stat().st_mode) & others:
            mode = stat.S_IMODE(one.stat().st_mode)
            fix = f"chmod {'700' if one.is_dir() else '600'} {one}"
            yield warning("file modes", f"other users of this machine may get into {one} (mode {mode:o})", fix)


def _room(folder: Path, path: Path, other: str) -> Finding:
    free = shutil.disk_usage(folder).free
    size = path.stat().st_size if path.exists() else 0
    found = f"{_shown(free)} free, the data file has {_shown(size)}"
    if free < _LEAST_BYTES:
        return fault("free space", found, f"make at least {_shown(_FEW_BYTES)} of room, or {other}")
    if os.statvfs(folder).f_files and not os.statvfs(folder).f_favail:
        return fault("free space", f"{found}, and no file more may be made", "delete files there: it has no inode left")
    if free < max(_FEW_BYTES, size):
        # An upgrade and a backup copy it.
        fix = f"make at least {_shown(max(_FEW_BYTES, size))} of room: upgrades and backups copy the data file"
        return warning("free space", found, fix)
    return fine("free space", found)


def _shown(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1_024:
            return f"{size:.0f} {unit}" if unit in ("B", "KiB") or size >= 10 else f"{size:.1f} {unit}"
        size /= 1_024
    return f"{size:.1f} TiB"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # in a container there may be no name for the number
        return str(uid)
