"""Finding the user's agents, and saying what to write where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire.agents.load import Agents, load_agents
from runwire.errors import ConfigurationError

AGENT = "async def agent(ctx, message):\n    return message\n"


@pytest.fixture(autouse=True)
def _as_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_py", ".py").replace("_toml", ".toml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _fault(root: Path, *targets: str, default: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_agents(targets, root=root, default=default)
    assert "Traceback" not in caught.value.message
    assert "importlib" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("weather.py", ("weather",)),
        ("weather.py:agent", ("weather",)),
        ("weather.py:forecast", ("forecast",)),
        ("many.py", ("one", "two")),
        ("many.py:agents", ("one", "two")),
        ("weather:forecast", ("forecast",)),
        ("weather:agent", ("weather",)),
        ("package.deep:agent", ("deep",)),
        ("package.deep", ("deep",)),
        ("package/deep.py", ("deep",)),
    ],
)
def test_targets_name_files_modules_and_attributes(tmp_path: Path, target: str, names: tuple[str, ...]) -> None:
    generator = "async def forecast(ctx, message):\n    yield message\n"
    many = "async def f(ctx, message):\n    yield 'x'\nagents = {'one': f, 'two': f}\n"
    _write(tmp_path, weather_py=AGENT + generator, many_py=many, package__deep_py=AGENT)
    agents = load_agents([target], root=tmp_path)
    assert agents.names == names
    assert agents.default == (names[0] if len(names) == 1 else None)
    assert len(agents.version or "") == 12


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    _write(tmp_path, beside_py="WORD = 'x'\n", weather_py="from beside import WORD\n" + AGENT)
    assert load_agents(["weather.py"], root=tmp_path).names == ("weather",)


def test_the_project_file_names_one_agent_or_several(tmp_path: Path) -> None:
    _write(tmp_path, agent_py=AGENT, pyproject_toml='[tool.runwire]\nagent = "agent.py"\n')
    assert load_agents([], root=tmp_path).names == ("agent",)
    several = '[tool.runwire]\nagents = {first = "agent.py", second = "agent:agent"}\n'
    _write(tmp_path, pyproject_toml=several)
    agents = load_agents([], root=tmp_path, default="second")
    assert (agents.names, agents.default) == (("first", "second"), "second")


def test_an_object_with_an_async_call_and_a_wrapped_function_are_agents(tmp_path: Path) -> None:
    text = (
        "import functools\n"
        "class Caller:\n    async def __call__(self, ctx, message):\n        return message\n"
        "def traced(fn):\n    @functools.wraps(fn)\n    def inner(*args):\n        return fn(*args)\n    return inner\n"
        f"{AGENT}"
        "agents = {'object': Caller(), 'wrapped': traced(agent), 'bound': Caller().__call__,"
        " 'partial': functools.partial(agent)}\n"
    )
    _write(tmp_path, agent_py=text)
    assert load_agents(["agent.py"], root=tmp_path).names == ("bound", "object", "partial", "wrapped")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("missing.py", "there is no file"),
        ("missing:agent", "there is no module 'missing'"),
        ("weather.missing:agent", "there is no module 'weather.missing'"),
        ("weather.py:forcast", "it has agent"),
        ("empty.py", "async def agent(ctx, message)"),
        ("sync.py", "write `async def` instead of `def`"),
        ("one.py", "two arguments"),
        ("kind.py", "async def agent(ctx, message)"),
        ("named.py", "letters, digits"),
        ("not a target", "write `file.py`"),
    ],
)
def test_a_mistake_is_answered_with_what_to_write(tmp_path: Path, target: str, says: str) -> None:
    _write(
        tmp_path,
        weather_py=AGENT,
        empty_py="x = 1\n",
        sync_py="def agent(ctx, message):\n    return message\n",
        one_py="async def agent(message):\n    return message\n",
        kind_py="class agent:\n    pass\n",
        named_py=AGENT + "agents = {'no/slash': agent}\n",
    )
    fault = _fault(tmp_path, target)
    assert says in fault
    assert fault.startswith(target)


def test_faults_in_the_users_file_show_the_users_lines_and_none_of_ours(tmp_path: Path) -> None:
    _write(
        tmp_path,
        broken_py="async def agent(ctx, message)\n    return 1\n",
        raises_py="def check():\n    raise RuntimeError('no key')\ncheck()\n",
        lacks_py="import not_installed_anywhere\n",
        leaves_py="raise SystemExit('bye')\n",
    )
    assert f"{tmp_path}/broken.py:1\n    async def agent(ctx, message)" in _fault(tmp_path, "broken.py")
    raises = _fault(tmp_path, "raises.py")
    assert f"{tmp_path}/raises.py:3 in <module>\n    check()" in raises
    assert f"{tmp_path}/raises.py:2 in check" in raises
    assert "RuntimeError: no key" in raises
    assert "src/runwire" not in raises
    lacks = _fault(tmp_path, "lacks.py")
    assert "No module named 'not_installed_anywhere'" in lacks
    assert f"{tmp_path}/lacks.py:1" in lacks
    assert "SystemExit: bye" in _fault(tmp_path, "leaves.py")


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    _write(tmp_path, agent_py=AGENT, other_py=AGENT)
    with pytest.raises(ConfigurationError) as caught:
        load_agents(["missing.py", "gone:agent", "agent.py"], root=tmp_path)
    assert len(caught.value.faults) == 2


def test_two_agents_of_one_name_and_an_unknown_default_are_faults(tmp_path: Path) -> None:
    _write(tmp_path, agent_py=AGENT, sub__agent_py=AGENT)
    assert "another agent named 'agent'" in _fault(tmp_path, "agent.py", "sub/agent.py")
    assert "there is no such agent, only agent" in _fault(tmp_path, "agent.py", default="gone")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "does not exist"),
        ("[tool.runwire\n", "is not TOML"),
        ("[project]\nname = 'x'\n", "names no agent"),
        ("[tool.runwire]\nagent = 3\n", "a target is text"),
        ("[tool.runwire]\nagents = ['agent.py']\n", "is a table"),
        ("[tool.runwire]\nagents = {one = 'many.py'}\n", "must be one function"),
    ],
)
def test_a_project_file_that_names_no_agent_says_what_to_write(tmp_path: Path, text: str | None, says: str) -> None:
    _write(tmp_path, many_py=AGENT + "agents = {'a': agent, 'b': agent}\n")
    if text is not None:
        _write(tmp_path, pyproject_toml=text)
    assert says in _fault(tmp_path)


def test_a_reload_sees_the_new_code_and_the_old_one_goes_on(tmp_path: Path) -> None:
    _write(tmp_path, beside_py="WORD = 'old'\n", agent_py="from beside import WORD\n" + AGENT)
    old = load_agents(["agent.py"], root=tmp_path)
    _write(tmp_path, beside_py="WORD = 'newer'\n", agent_py="from beside import WORD\n" + AGENT + "# changed\n")
    new = load_agents(["agent.py"], root=tmp_path, fresh=True)
    assert new.version != old.version
    assert sys.modules["beside"].WORD == "newer"
    assert old.get("agent") is not new.get("agent")


def test_agents_of_functions_refuse_what_is_no_agent() -> None:
    def sync(ctx: object, message: str) -> str:
        return message

    with pytest.raises(ConfigurationError, match="async def"):
        Agents.of({"sync": sync})
