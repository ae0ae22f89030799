"""The agents: can their code be imported. In another process, which may hang, end, or leave anything behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import Final

import msgspec

from runwire.app.doctor.finding import Finding, fault, fine, skipped, warning
from runwire.app.doctor.importing import Answer, Question
from runwire.app.doctor.subject import Subject

__all__ = ["examine_agents"]

_SHOWN: Final = 8  # names on the line
_MOST_BYTES: Final = 1 << 20


async def examine_agents(subject: Subject) -> list[Finding]:
    """Import the agents as a worker does, in a process of its own."""
    if "worker" not in subject.roles:
        return [skipped("agents", "not needed: this process runs none")]
    settings = subject.settings
    question = msgspec.json.encode(Question(targets=settings.agents, default=settings.default_agent))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runwire.app.doctor.importing"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # so that what the code starts ends with it
    )
    try:
        async with asyncio.timeout(subject.limit_s):
            said, _ = await process.communicate(question)
    except TimeoutError:
        fix = "import less when the module is loaded, or look longer: runwire doctor --timeout-s 60"
        return [warning("agents", f"their import has not ended within {subject.limit_s:g} s", fix)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return _judged(said, process.returncode)


def _judged(said: bytes, status: int | None) -> list[Finding]:
    try:
        answer = msgspec.json.decode(said[:_MOST_BYTES], type=Answer)
    except msgspec.DecodeError:
        fix = "import the module by hand, `python -c 'import …'`, and look how far it comes"
        return [fault("agents", f"their code ends the process that imports it (status {status})", fix)]
    if answer.names_none:
        fix = 'name them in the command, `runwire serve agent.py`, or set agents, or [tool.runwire] agent = "agent.py"'
        return [warning("agents", "nothing names any", fix)]
    if answer.faults:
        fix = "correct the file, or what agents (or [tool.runwire] of pyproject.toml) names"
        return [fault("agents", sentence.strip(), fix) for sentence in answer.faults]
    more = f" and {len(answer.names) - _SHOWN} more" if len(answer.names) > _SHOWN else ""
    return [fine("agents", ", ".join(answer.names[:_SHOWN]) + more)]
