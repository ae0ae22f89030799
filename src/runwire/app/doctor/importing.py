"""The process that imports the agents for `agents.py`: a question on standard input, an answer on standard output."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from runwire.agents.load import NoneNamed, load_agents
from runwire.errors import ConfigurationError

__all__ = ["Answer", "Question", "main"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be loaded."""

    targets: tuple[str, ...]
    default: str | None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    names: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    names_none: bool = False  # the fault is that nothing names any


def main() -> None:
    """Answer, and end whatever the imported code has begun."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # what the code prints is no answer
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    try:
        agents = load_agents(question.targets, root=Path.cwd(), default=question.default)
        answer = Answer(names=agents.names)
    except ConfigurationError as error:
        answer = Answer(faults=tuple(error.faults), names_none=isinstance(error, NoneNamed))
    os.write(answer_to, msgspec.json.encode(answer))
    os._exit(0)  # threads of the code may go on


if __name__ == "__main__":
    main()
