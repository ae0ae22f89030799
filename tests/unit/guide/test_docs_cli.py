"""The reference of the command line has every verb and every option that there is, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import typer

from runwire.cli.main import make_app
from runwire.guide import docs_root

PAGE = (docs_root() / "reference" / "cli.md").read_text(encoding="utf-8")
OPTION = re.compile(r"--[a-z][a-z-]*")


def _verbs(command: object, name: str = "runwire") -> Iterator[tuple[str, set[str]]]:
    """Give (verb, its options) of a command and everything below it."""
    below = getattr(command, "commands", None)
    if below is not None:
        for word, each in below.items():
            yield from _verbs(each, f"{name} {word}")
        return
    words = [word for parameter in getattr(command, "params", []) for word in parameter.opts]
    yield name, {word for word in words if word.startswith("--")} - {"--help"}


VERBS = dict(_verbs(typer.main.get_command(make_app())))


def _written(verb: str) -> set[str]:
    """Return the options of the line that shows how a verb is called."""
    lines = re.findall(rf"(?:^|`)({re.escape(verb)}(?![\w-])[^`\n]*)", PAGE, re.MULTILINE)
    assert lines, f"{verb} is not in docs/reference/cli.md"
    return set(OPTION.findall(max(lines, key=len)))


def test_there_are_verbs_to_check() -> None:
    assert len(VERBS) >= 14
    assert "--data-dir" in VERBS["runwire dev"]


@pytest.mark.parametrize("verb", VERBS)
def test_the_reference_shows_each_verb_with_all_its_options(verb: str) -> None:
    assert _written(verb) == VERBS[verb]


def test_no_page_uses_an_option_that_its_verb_does_not_have() -> None:
    wrong = []
    for page in sorted(docs_root().rglob("*.md")):
        for line in re.findall(r"\brunwire [a-z][^`\n|]*", page.read_text(encoding="utf-8")):
            verb = next((verb for verb in VERBS if f"{line} ".startswith(f"{verb} ")), None)
            if verb and set(OPTION.findall(line.partition("#")[0])) - VERBS[verb]:
                wrong.append(f"{page.name}: {line}")
    assert wrong == []


def test_no_page_names_an_option_that_no_verb_has() -> None:
    known = set().union(*VERBS.values()) | {"--help", "--write"}  # `python -m runwire.protocol.schema --write`
    wrong = []
    for page in sorted(docs_root().rglob("*.md")):
        for option in re.findall(r"`(--[a-z][a-z-]*)", page.read_text(encoding="utf-8")):
            wrong += [f"{page.name}: {option}"] if option not in known else []
    assert wrong == []
