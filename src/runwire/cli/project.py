"""`runwire new` and `runwire version`."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from pathlib import Path
from typing import Annotated, Final

import typer

import runwire

__all__ = ["new", "version"]

_AGENT: Final = '''"""A first agent: it thinks, calls a tool and streams its answer."""

import asyncio


async def count_words(text: str) -> int:
    """A tool is any function; its arguments and result are JSON."""
    await asyncio.sleep(0.2)
    return len(text.split())


async def agent(ctx, message):
    await ctx.thinking("How long is that?")
    words = await ctx.tool(count_words, text=message)
    for piece in f"You wrote {words} words: {message}".split(" "):
        yield piece + " "
        await asyncio.sleep(0.03)
'''
_TEST: Final = '''"""The agent, asked as a person asks it, by a real server: `runwire test --category golden_path`."""

FIVE = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]


def test_the_agent_counts_words_before_it_speaks(golden_path):
    run = golden_path("one two three")
    assert run.output.startswith("You wrote 3 words")
    assert run.tools == ["count_words"]
    assert [kind for kind in run.types if kind in FIVE] == FIVE
'''
_PYPROJECT: Final = """[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["runwire>={version}"]

[project.optional-dependencies]
test = ["runwire[test]>={version}"]

[tool.runwire]
agent = "agent.py"

[tool.pytest.ini_options]
testpaths = ["tests"]
"""
_README: Final = """# {name}

    runwire dev agent.py

It prints where it listens and a sign-in link. `runwire run "hello"` runs the agent in the terminal.

    runwire test --category golden_path

tests it by a real server, offline. If pytest is missing: `pip install "runwire[test]"`.

    runwire check

proves beside `runwire dev` that every event comes once, in order, to the right person.
"""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


def new(name: Annotated[str, typer.Argument(help="Name of the project and of its folder.")]) -> None:
    """Make a folder with an agent, a test that passes, a pyproject.toml and a README."""
    if not _NAME.fullmatch(name):
        raise typer.BadParameter("letters, digits, - and _ only, beginning with a letter", param_hint="NAME")
    folder = Path(name)
    if folder.exists():
        raise typer.BadParameter(f"{folder} exists; nothing was written", param_hint="NAME")
    folder.mkdir()
    files = {
        "agent.py": _AGENT,
        "pyproject.toml": _PYPROJECT.format(name=name, version=runwire.__version__),
        "README.md": _README.format(name=name),
        "tests/test_golden_path.py": _TEST,
        ".gitignore": ".runwire/\n.venv/\n__pycache__/\n.pytest_cache/\n",
    }
    (folder / "tests").mkdir()
    for path, text in files.items():
        (folder / path).write_text(text, encoding="utf-8")
    steps = (
        f"cd {folder}",
        "runwire dev agent.py",
        "runwire test --category golden_path",
        "runwire check  (beside dev)",
    )
    typer.echo("\n  ".join((f"{folder}/ is ready:", *steps)))


def version(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Print the versions that a bug report needs."""
    facts = {
        "runwire": runwire.__version__,
        "protocol": "1",
        "python": platform.python_version(),
        "uvicorn": importlib.metadata.version("uvicorn"),
        "websockets": importlib.metadata.version("websockets"),
        "platform": platform.platform(),
    }
    typer.echo(json.dumps(facts) if as_json else "\n".join(f"{name} {value}" for name, value in facts.items()))
