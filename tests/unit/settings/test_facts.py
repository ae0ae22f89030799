"""Where a folder lies, by what the kernel says of its mounts (proc(5))."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire.settings.facts import file_system_of

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /srv rw shared:2 - xfs /dev/sdb1 rw
31 30 0:40 / /srv/data rw shared:3 - nfs4 nas:/data rw
32 22 0:41 / /mnt/a\\040b rw shared:4 - cifs //nas/b rw
33 22 0:42 / /twice rw - nfs nas:/x rw
34 33 0:43 / /twice rw - ext4 /dev/sdc1 rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/runwire", "ext4"),
        ("/srv/runwire", "xfs"),
        ("/srv/data", "nfs4"),
        ("/srv/data/not/made/yet", "nfs4"),
        ("/srv/database", "xfs"),
        ("/mnt/a b/c", "cifs"),
        ("/twice/x", "ext4"),
    ],
)
def test_the_longest_mount_has_the_folder_and_of_two_the_later(tmp_path: Path, folder: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS, encoding="utf-8")
    assert file_system_of(Path(folder), mounts=mounts) == kind


def test_a_machine_that_does_not_say_is_not_known(tmp_path: Path) -> None:
    assert file_system_of(tmp_path, mounts=tmp_path / "no") == ""


def test_the_machine_that_runs_the_tests_says(tmp_path: Path) -> None:
    assert file_system_of(tmp_path)
