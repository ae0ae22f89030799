"""The units: words that systemd knows, and processes that can do no more than they must."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.deploy.processes import UNITS, unit

FILES = sorted(UNITS.glob("*.service"))
SERVERS = [path for path in FILES if path.name != "runwire-migrate.service"]

# Every directive that the units use, by section (systemd.unit, .service, .exec and .kill of systemd 252).
KNOWN = {
    "Unit": {"Description", "Documentation", "Wants", "After", "StartLimitIntervalSec"},
    "Service": {
        "Type", "User", "Group", "EnvironmentFile", "Environment", "WorkingDirectory", "ExecStart", "Restart",
        "RestartSec", "RestartPreventExitStatus", "TimeoutStopSec", "TimeoutStartSec", "KillMode", "LimitNOFILE",
        "UMask", "WatchdogSec", "CapabilityBoundingSet", "AmbientCapabilities", "NoNewPrivileges", "PrivateDevices",
        "PrivateTmp", "PrivateUsers", "ProcSubset", "ProtectClock", "ProtectControlGroups", "ProtectHome",
        "ProtectHostname",
        "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem",
        "RemoveIPC", "LockPersonality", "MemoryDenyWriteExecute", "RestrictAddressFamilies", "RestrictNamespaces",
        "RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber",
    },
    "Install": {"WantedBy"},
}  # fmt: skip
REPEATABLE = {"EnvironmentFile", "Environment", "SystemCallFilter"}
MAX_EXPOSURE = 20  # of 100, as systemd-analyze counts


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_directive_is_known_in_its_section_and_there_once(path: Path) -> None:
    names = [(section, name) for section, name, _ in unit(path)]
    for section, name in names:
        assert name in KNOWN.get(section, ()), f"[{section}] {name}"
        assert name in REPEATABLE or names.count((section, name)) == 1, name


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.name)
def test_a_server_is_started_again_unless_its_configuration_is_wrong(path: Path) -> None:
    values = {name: value for _, name, value in unit(path)}
    assert values["Restart"] == "always"
    assert values["RestartPreventExitStatus"] == "78"
    assert values["KillMode"] == "mixed"
    assert (values["Type"], values["WatchdogSec"]) == ("notify", "30s")
    # No migration at a start: it is a step of its own, or the first machine of a fleet would begin an upgrade.
    assert "runwire-migrate" not in values["Wants"]
    assert "runwire-migrate.service" in values["After"].split()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_runs_as_root(path: Path) -> None:
    values = {name: value for _, name, value in unit(path)}
    assert values["User"] == values["Group"] == "runwire"
    assert values["ExecStart"].startswith("/srv/runwire/.venv/bin/runwire ")
    # getrlimit and setrlimit are needed at the start.
    assert not any(name == "SystemCallFilter" and "@resources" in value for _, name, value in unit(path))


def _analyze(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Ask systemd-analyze about copies of the units whose program is there."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("not run: no systemd-analyze; directives were looked up in a list of our own")
    for path in FILES:
        text = path.read_text(encoding="utf-8").replace("/srv/runwire/.venv/bin/runwire", shutil.which("true") or "")
        (folder / path.name.replace("@.", "@01.")).write_text(text, encoding="utf-8")
    units = [str(path) for path in sorted(folder.glob("*.service"))]
    return subprocess.run([tool, *words, *units], capture_output=True, text=True, timeout=20, check=False)


def test_systemd_itself_finds_no_fault(tmp_path: Path) -> None:
    done = _analyze(tmp_path, "verify", "--man=no")
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_itself_counts_little_exposure(tmp_path: Path) -> None:
    # Of all units the worst decides.
    done = _analyze(tmp_path, "security", "--offline=true", "--no-pager", f"--threshold={MAX_EXPOSURE}")
    assert done.stdout.count("Overall exposure level") == len(FILES), done.stderr
    assert done.returncode == 0, done.stdout
