"""`@runwire.tool(…)`: how a function wants to be called."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest

import runwire
from runwire.agents.options import ToolOptions, name_of, options_of


@runwire.tool(name="send_mail", retry=3, on_crash="fail", returns=str)
def send(to: str) -> str:
    return to


def plain() -> None: ...


class Shop:
    @runwire.tool(retry=2)
    def order(self) -> None: ...


def test_the_function_stays_as_it_is_and_carries_its_options() -> None:
    assert send("ann") == "ann"
    assert options_of(send) == ToolOptions(name="send_mail", retry=3, on_crash="fail", returns=str)
    assert options_of(functools.partial(functools.partial(send), "ann")).name == "send_mail"
    assert options_of(Shop().order).retry == 2
    assert options_of(plain) == options_of(len) == ToolOptions()


def test_a_partial_may_have_options_of_its_own() -> None:
    mine = runwire.tool(name="to_ann")(functools.partial(send, "ann"))
    assert options_of(mine).name == "to_ann"
    assert name_of(mine) == "send"
    assert options_of(send).name == "send_mail"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": ""}, "`name` is a text of 1 to 200 characters, not ''"),
        ({"name": "x" * 201}, f"`name` is a text of 1 to 200 characters, not '{'x' * 79}…"),
        ({"name": "a\0b"}, "text holds a NUL character (U+0000); remove it"),
        ({"retry": 0}, "`retry` says how many tries a call has, 1 to 100, and is not 0"),
        ({"retry": True}, "`retry` says how many tries a call has, 1 to 100, and is not True"),
        ({"retry": [1]}, "`retry` says how many tries a call has, 1 to 100, and is not a list"),
        ({"on_crash": "stop"}, '`on_crash` is "retry" or "fail", not \'stop\''),
    ],
)
def test_an_option_out_of_its_bounds_is_refused_when_the_file_is_loaded(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        runwire.tool(**options)


def test_a_decorator_without_parentheses_and_what_cannot_be_marked_are_told() -> None:
    with pytest.raises(TypeError, match=r"write `@tool\(…\)` with parentheses"):
        runwire.tool(plain)  # type: ignore[arg-type] # the mistake
    with pytest.raises(TypeError, match=r"cannot mark a builtin_function_or_method; wrap it in a function"):
        runwire.tool(retry=2)(len)
    with pytest.raises(TypeError, match=r"cannot mark a method; wrap it in a function"):
        runwire.tool(retry=2)(Shop().order)
