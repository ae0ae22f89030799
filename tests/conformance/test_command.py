"""`runwire check` as a command: exit statuses, what it prints, and the reports that it writes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.conformance.faulty_servers import LosesOne
from tests.conformance.minimal_server import MinimalServer

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "NO_COLOR": "1"}


async def runwire(*words: str, cwd: Path, stdin: bytes = b"") -> tuple[int, str, str]:
    """Return exit status, standard output and standard error of `runwire check …`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runwire", "check", *words),
        cwd=cwd,
        env=ENVIRONMENT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    assert "Traceback" not in err.decode()
    return process.returncode, out.decode(), err.decode()


def _all_of(folder: Path) -> str:
    return "".join(path.read_text("utf-8") for path in folder.iterdir())


@pytest.mark.timeout(60)
async def test_it_writes_every_report_and_prints_a_line_for_each_result(tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text("reply_ms = 9000\n", encoding="utf-8")
    async with MinimalServer().running() as url:
        status, out, err = await runwire(
            *(url, "--token", "good-token", "--only", "golden_path", "--only", "input", "--json", "--workers", "2"),
            *("--budget", "limits.toml", "--report", "md", "a.md", "--report", "junit", "b", "--report", "c.html"),
            *("--report", "json", "d.json"),
            cwd=tmp_path,
        )
    assert status == 0, err
    *results, end = map(json.loads, out.splitlines())
    assert {line["type"] for line in results} == {"result"}
    assert (end["type"], end["exit_code"], len(end["results"])) == ("report", 0, len(results))
    assert (tmp_path / "a.md").read_text("utf-8").startswith("## Runwire check")
    assert ElementTree.fromstring((tmp_path / "b").read_bytes()).tag == "testsuites"
    assert (tmp_path / "c.html").read_text("utf-8").startswith("<!doctype html>")
    assert json.loads((tmp_path / "d.json").read_bytes())["verdict"] == end["verdict"]
    assert "good-token" not in out + _all_of(tmp_path)


@pytest.mark.timeout(60)
async def test_a_broken_promise_is_status_1_with_evidence_and_words_for_an_issue(tmp_path: Path) -> None:
    async with LosesOne().running() as url:
        status, out, _ = await runwire(url, "--token", "good-token", "--fail-fast", cwd=tmp_path)
    assert status == 1
    assert "FAIL golden_path/no_hole" in out
    assert "the event with seq 4 is missing (at seq 5)" in out
    assert "to paste into an issue" in out
    assert "stopped at the first broken promise" in out


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("http://127.0.0.1:9", "--token", "t"), 2, "cannot be reached"),
        (("http://127.0.0.1:9", "--token", "t", "--report", "pdf", "x"), 2, "write `--report FORMAT PATH`"),
        (("http://127.0.0.1:9", "--token", "t", "--report", "md"), 2, "say where"),
        (("127.0.0.1:9", "--token", "t"), 2, "with its scheme"),
        (("http://127.0.0.1:9", "--user", "ann"), 2, "--password-stdin"),
        (("http://127.0.0.1:9", "--user", "ann", "--client-id", "b", "--password-stdin"), 2, "either"),
        (("http://127.0.0.1:9", "--token", "t", "--only", "golden"), 78, "golden_path"),
        (("http://127.0.0.1:9", "--token", "t", "--budget", "nowhere.toml"), 78, "nowhere.toml"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, tuple) else "",
)
async def test_what_cannot_be_is_no_success_and_says_what_to_write(
    tmp_path: Path, words: tuple[str, ...], status: int, said: str
) -> None:
    got, out, err = await runwire(*words, cwd=tmp_path)
    assert got == status, out + err
    assert said in " ".join((out + err).split()).replace("│ ", "")
