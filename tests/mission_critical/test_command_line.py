"""The command line that outside programs rely on (PROTOCOL §6), as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.mission_critical.deployment import AGENTS, Deployment

from runwire.testing.server import ServerProcess

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "NO_COLOR": "1"}


def _runwire(
    *words: str, cwd: Path, stdin: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runwire", *words],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**_ENVIRONMENT, **(environment or {})},
    )


def test_user_and_token_work_on_an_empty_folder_and_say_what_to_do(tmp_path: Path) -> None:
    unknown = _runwire("token", "create", "--user", "ann", "--data-dir", "data", cwd=tmp_path)
    assert unknown.returncode == 1
    assert "runwire user add ann" in unknown.stderr
    assert unknown.stdout == ""
    assert _runwire("user", "add", "ann", "--data-dir", "data", cwd=tmp_path).returncode == 0
    again = _runwire("user", "add", "ann", "--data-dir", "data", cwd=tmp_path)
    assert again.returncode == 1
    assert "ann" in again.stderr
    made = _runwire("token", "create", "--user", "ann", "--data-dir", "data", cwd=tmp_path)
    assert made.returncode == 0
    assert len(made.stdout.split()) == 1
    assert made.stdout.startswith("rw_")
    assert "Traceback" not in unknown.stderr + again.stderr


def test_verbs_that_serve_nothing_do_not_judge_what_is_served(tmp_path: Path) -> None:
    origins = {"RUNWIRE_ALLOWED_ORIGINS": "http://192.168.1.7:3000"}
    for words in ("migrate", "user add ann", "token create --user ann", "storage stats", "storage backup b.db"):
        done = _runwire(*words.split(), "--data-dir", "data", cwd=tmp_path, environment=origins)
        assert done.returncode == 0, (words, done.stderr)
    served = _runwire("serve", str(AGENTS), "--data-dir", "data", cwd=tmp_path, environment=origins)
    assert served.returncode == 78
    assert "(rule http-origins)" in served.stderr


def test_faults_of_configuration_are_all_named_and_exit_78(tmp_path: Path) -> None:
    (tmp_path / "runwire.toml").write_text('prot = 1\nmax_runs = "many"\n', encoding="utf-8")
    done = _runwire(
        "dev", str(AGENTS), "--data-dir", "data", cwd=tmp_path, environment={"RUNWIRE_HOSTT": "x", "RUNWIRE_PORT": "p"}
    )
    assert done.returncode == 78, done.stderr
    for word in ("prot", "did you mean `port`", "max_runs", "RUNWIRE_HOSTT", "RUNWIRE_HOST", "RUNWIRE_PORT"):
        assert word in done.stderr, word
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("missing.py", "missing.py"),
        ("broken.py", "broken.py"),
        ("empty.py", "async def agent"),
        ("no_such_module:x", "no_such_module"),
    ],
)
def test_an_agent_that_cannot_be_loaded_is_explained(tmp_path: Path, target: str, word: str) -> None:
    (tmp_path / "broken.py").write_text("async def agent(ctx, message:\n", encoding="utf-8")
    (tmp_path / "empty.py").write_text("x = 1\n", encoding="utf-8")
    done = _runwire("dev", target, "--port", "0", "--no-open", "--data-dir", "data", cwd=tmp_path)
    assert done.returncode == 78
    assert word in done.stderr
    assert "runwire/" not in done.stderr, "no line of ours in an error of the user's file"


def test_a_person_without_a_password_can_be_given_one(tmp_path: Path) -> None:
    _runwire("user", "add", "ann", "--data-dir", "data", cwd=tmp_path)
    empty = _runwire("user", "password", "ann", "--data-dir", "data", cwd=tmp_path)
    assert empty.returncode == 2
    done = _runwire("user", "password", "ann", "--data-dir", "data", cwd=tmp_path, stdin="correct horse battery\n")
    assert done.returncode == 0, done.stderr
    assert "correct horse" not in done.stdout + done.stderr
    nobody = _runwire("user", "password", "bob", "--data-dir", "data", cwd=tmp_path, stdin="correct horse battery\n")
    assert nobody.returncode == 1
    assert "runwire user add bob --data-dir data" in nobody.stderr


def test_run_without_server_and_without_agent_is_explained(tmp_path: Path) -> None:
    done = _runwire("run", "hello", cwd=tmp_path)
    assert done.returncode == 78
    assert "[tool.runwire]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "notaurl", "ftp://x"])
def test_a_url_without_its_scheme_is_a_usage_error(tmp_path: Path, url: str) -> None:
    for words in (("run", "hello", "--url", url), ("check", url)):
        done = _runwire(*words, "--token", "x", cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "http://" in done.stderr


def test_help_names_the_table_of_agents(tmp_path: Path) -> None:
    assert "[tool.runwire]" in _runwire("dev", "--help", cwd=tmp_path).stdout
    assert "[tool.runwire]" in _runwire("run", "--help", cwd=tmp_path).stdout


async def test_commands_beside_each_other_all_succeed_without_a_server(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        done = [
            tasks.create_task(
                asyncio.to_thread(_runwire, "user", "add", f"user{n}", "--data-dir", "data", cwd=tmp_path)
            )
            for n in range(4)
        ]
    assert [each.result().returncode for each in done] == [0] * 4, [each.result().stderr for each in done]
    listed = _runwire("user", "list", "--json", "--data-dir", "data", cwd=tmp_path)
    assert {row["name"] for row in json.loads(listed.stdout)} == {f"user{n}" for n in range(4)}


async def test_a_command_and_a_server_that_starts_wait_for_each_other(tmp_path: Path) -> None:
    server = ServerProcess(str(AGENTS), data_dir=tmp_path / "data")
    async with asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(server.start())
        added = [
            tasks.create_task(
                asyncio.to_thread(_runwire, "user", "add", f"user{n}", "--data-dir", "data", cwd=tmp_path)
            )
            for n in range(3)
        ]
    assert starting.done()
    assert [each.result().returncode for each in added] == [0] * 3, [each.result().stderr for each in added]
    await server.kill9()
    # The lock file still names the dead one's socket; the lock itself is free.
    after = await asyncio.to_thread(_runwire, "user", "list", "--json", "--data-dir", "data", cwd=tmp_path)
    assert {"user0", "user1", "user2"} <= {row["name"] for row in json.loads(after.stdout)}


@pytest.mark.parametrize("folder", ["p%20q r", "p?q#r"])
async def test_a_folder_may_have_any_name(tmp_path: Path, folder: str) -> None:
    async with ServerProcess(str(AGENTS), data_dir=tmp_path / folder) as server:
        assert (await server.create_user("ann")).startswith("rw_")  # asked over the control socket, beside the server
        assert (tmp_path / folder / "runwire.db").exists()
        assert [name for name in os.listdir(tmp_path) if not name.endswith(".log")] == [folder]


@contextlib.contextmanager
def _hearing_ctrl_c() -> Iterator[None]:
    """Let processes that are started here hear Ctrl-C: a script's background jobs, maybe this one, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def test_interrupting_a_run_with_its_own_server_ends_at_once(tmp_path: Path) -> None:
    with _hearing_ctrl_c():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runwire", "run", "x", "--agent", "steady", "--json", "--data-dir", "data",
            "--target", str(AGENTS), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert process.stdout
    async with asyncio.timeout(30):
        while b"text_delta" not in await process.stdout.readline():
            pass
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, complaints = await process.communicate()
    assert process.returncode == 130
    assert time.monotonic() - began < 10  # 0.5 s on a quiet machine; the run would go on for 20, and a drain takes 30
    assert b"Traceback" not in complaints, complaints.decode()


def test_usage_errors_exit_2(tmp_path: Path) -> None:
    assert _runwire("dance", cwd=tmp_path).returncode == 2
    assert _runwire("token", "create", cwd=tmp_path).returncode == 2
    assert _runwire("new", "no/such name", cwd=tmp_path).returncode == 2


async def test_a_busy_port_says_so_and_names_a_free_one(deployment: Deployment, tmp_path: Path) -> None:
    port = deployment.url.rpartition(":")[2]
    done = await asyncio.to_thread(
        _runwire, "dev", str(AGENTS), "--port", port, "--no-open", "--data-dir", "data", cwd=tmp_path
    )
    assert done.returncode == 78
    assert port in done.stderr
    assert "is free: --port" in done.stderr


async def test_a_second_server_on_the_same_folder_is_refused(deployment: Deployment) -> None:
    done = await asyncio.to_thread(
        _runwire, "dev", str(AGENTS), "--port", "0", "--no-open",
        "--data-dir", str(deployment.process.data_dir), cwd=deployment.probes,
    )  # fmt: skip
    assert done.returncode == 78
    assert str(deployment.process.pid) in done.stderr
    assert deployment.url in done.stderr


async def test_standard_output_has_exactly_the_two_lines(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runwire", "dev", str(AGENTS), "--port", "0", "--no-open", "--data-dir", "data",
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout
    async with asyncio.timeout(30):
        ready, link = [(await process.stdout.readline()).decode() for _ in range(2)]
        process.terminate()
        rest = await process.stdout.read()
        await process.wait()
    assert ready.startswith("ready http://127.0.0.1:")
    assert link.startswith(f"sign-in {ready.split()[1]}/?link=")
    assert rest == b""


async def test_new_makes_a_project_that_runs(tmp_path: Path) -> None:
    assert (await asyncio.to_thread(_runwire, "new", "demo", cwd=tmp_path)).returncode == 0
    done = await asyncio.to_thread(_runwire, "run", "one two three", "--json", cwd=tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["type"] for event in events]
    five = {"agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"}
    assert five <= set(kinds)
    assert kinds[-1] == "agent_completed"
    assert events[-1]["data"]["output"].startswith("You wrote 3 words")


async def test_run_tail_and_replay_show_the_same_events(tmp_path: Path) -> None:
    async with ServerProcess(str(AGENTS), data_dir=tmp_path / "data") as server:

        async def events(*words: str) -> list[dict[str, object]]:
            done = await asyncio.to_thread(_runwire, *words, "--json", "--data-dir", str(server.data_dir), cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            return [json.loads(line) for line in done.stdout.splitlines()]

        ran = await events("run", "hello", "--agent", "golden")
        run = str(ran[0]["run"])
        assert await events("replay", run, "--speed", "0") == ran
        assert await events("tail", run) == ran
        failed = await asyncio.to_thread(
            _runwire, "run", "x", "--agent", "failing", "--data-dir", str(server.data_dir), cwd=tmp_path
        )
        assert failed.returncode == 1
        assert "agent_error" in failed.stdout
        nobody = await asyncio.to_thread(
            _runwire, "run", "x", "--agent", "nobody", "--data-dir", str(server.data_dir), cwd=tmp_path
        )
        assert nobody.returncode == 1
        assert "golden" in nobody.stderr, "the names to choose from"


async def test_check_proves_our_own_server(deployment: Deployment, tmp_path: Path) -> None:
    key = await deployment.key("checker")
    done = await asyncio.to_thread(
        _runwire, "check", deployment.url, "--token", key, "--agent", "golden", "--json", cwd=tmp_path
    )
    *results, report = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0, report["verdict"]
    assert len(results) == len(report["results"]) > 60
    kept = {result["case"] for result in results if result["status"] == "kept"}
    assert {"five", "cut_at_every_event", "pipelined", "forged", "same_key"} <= kept
    plain = await asyncio.to_thread(
        _runwire, "check", deployment.url, "--token", key, "--agent", "plain", "--only", "golden_path", cwd=tmp_path
    )
    assert plain.returncode == 1, "a run without tools never passes as five"
    assert "tool_executing" in plain.stdout
    whom = await asyncio.to_thread(
        _runwire, "check", deployment.url, "--token", key, "--agent", "nobody", "--only", "golden_path", cwd=tmp_path
    )
    assert whom.returncode == 2, "an agent that is not there breaks no promise"
    nobody = await asyncio.to_thread(_runwire, "check", "http://127.0.0.1:9", "--token", key, cwd=tmp_path)
    assert nobody.returncode == 2
    nowhere = await asyncio.to_thread(_runwire, "check", "--data-dir", "none", cwd=tmp_path)
    assert nowhere.returncode == 2
    assert "runwire dev" in nowhere.stderr
