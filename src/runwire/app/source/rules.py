"""What must have one home, a function each. Whoever adds a second way says why here, or takes the first one away."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from runwire.app.source.tree import Finding, Tree

__all__ = [
    "codes_have_one_home",
    "databases_have_one_door_each",
    "names_have_one_home",
    "one_reader_of_the_environment",
    "one_verifier_of_tokens",
    "seqs_are_born_once",
]

_CODES: Final = "protocol/codes.py"
_VOCABULARIES: Final[Mapping[str, str]] = MappingProxyType(
    {"ErrorCode": _CODES, "RunFailure": _CODES, "CloseCode": _CODES, "EventType": "protocol/events.py"}
)
# By `circuit_open` and `internal` a request is refused, and a run fails: two vocabularies of the wire say them.
_SHARED: Final = frozenset({"circuit_open", "internal"})
# Codes of `tool_completed` alone, beside those of a run.
_OF_TOOLS: Final = frozenset({"tool_error", "cancelled"})
_RANGES: Final = frozenset({"1000", "1001", "1009", "4000", "4500"})  # which clients compare with, or RFC 6455 has
# An exception and the event that it makes; a kind of saying and the event that says it: nobody takes one for the other.
_NAMESAKES: Final = frozenset({("protocol/events.py", "SubagentFailed"), ("protocol/sayings.py", "custom")})
_BIRTHS: Final = (("sqlite.sql", "move_head"), ("postgres_functions.sql", "runwire_extend"))
_USE: Final = "use the one of runwire.protocol"
_DEFINED: Final = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_HERE: Final = "app/source/"
_BIRTHPLACE: Final = "storage/sqlite/log.py"
_VERIFIER: Final = "auth/tokens.py"
_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType(
    {"settings/": "the reader", "testing/runner.py": "gives the tests what they would have without it"}
)
_DOORS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "asyncpg.connect": ("storage/postgres/driver.py",),
        "asyncpg.create_pool": (),
        # SQLite has files that nobody serves yet: copies, archives, migrations; and an index in memory.
        "sqlite3.connect": ("storage/sqlite/", "storage/migrations/", "guide/library.py"),
        "redis.connection": ("storage/redis/link.py",),
    }
)
_REDIS: Final = frozenset(
    {"Redis", "RedisCluster", "Sentinel", "BlockingConnectionPool", "Connection", "SSLConnection"}
)


def codes_have_one_home(tree: Tree) -> Iterator[Finding]:
    """Each event, error code and close code is spelled in one enumeration, and errors have no code but those."""
    words = {name: _words(tree, name) for name in _VOCABULARIES}
    every = set[str]().union(*words.values())
    for path, nodes in tree.nodes.items():
        for node in _classes(nodes):
            mine = words[node.name] if _VOCABULARIES.get(node.name) == path else set()
            for line, value in _members(node) if _is_enumeration(node) else ():
                if str(value) in every - mine - _SHARED and (path, value) not in _NAMESAKES:
                    yield Finding(f"{path}:{line}", f"{node.name} spells `{value}` a second time", _USE)
        for line, value in _said_codes(nodes):
            if value not in every | _OF_TOOLS:
                yield Finding(f"{path}:{line}", f"`{value}` is no code of the wire", f"add it to {_CODES}, or use one")
        for leaf in nodes if path != _CODES else ():
            if isinstance(leaf, ast.Constant) and type(leaf.value) is int and str(leaf.value) in _closes(words):
                yield Finding(f"{path}:{leaf.lineno}", f"{leaf.value} is a close code in digits", _USE)


def _words(tree: Tree, name: str) -> set[str]:
    of_home = tree.nodes.get(_VOCABULARIES[name], ())
    return {str(value) for node in _classes(of_home) if node.name == name for _, value in _members(node)}


def _closes(words: Mapping[str, set[str]]) -> set[str]:
    return words["CloseCode"] - _RANGES


def seqs_are_born_once(tree: Tree) -> Iterator[Finding]:
    """One statement of each database moves a thread's head, and one function executes SQLite's."""
    fix = "go through EventLog.append"
    moves = re.compile(r"\bset\b[^;]*\bhead\s*=", re.IGNORECASE | re.DOTALL)
    born = [block for block in tree.blocks if moves.search(block.text)]
    for block in born:
        if (block.file, block.name) not in _BIRTHS:
            yield Finding(f"storage/sql/{block.file}:{block.line}", f"{block.name} moves a thread's head, too", fix)
    for file, name in _BIRTHS:
        if (file, name) not in {(block.file, block.name) for block in born}:
            yield Finding(
                f"storage/sql/{file}", f"{name} moves no head: the birthplace of a seq is gone", "put it back"
            )
    users = [
        (path, node.lineno)
        for path, nodes in tree.nodes.items()
        if not path.startswith(_HERE)
        and any(isinstance(leaf, ast.Constant) and leaf.value == "move_head" for leaf in nodes)
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(isinstance(leaf, ast.Constant) and leaf.value == "move_head" for leaf in ast.walk(node))
    ]
    for path, line in users:
        if path != _BIRTHPLACE or len([each for each, _ in users if each == path]) > 1:
            yield Finding(f"{path}:{line}", "executes move_head, which one function does", fix)
    if not users:
        yield Finding(_BIRTHPLACE, "nothing executes move_head", "put it back")


def one_verifier_of_tokens(tree: Tree) -> Iterator[Finding]:
    """Signatures are looked at in one function: a second one would forget a check of the first."""
    fix = "call runwire.auth.tokens.verify"
    found = [
        (path, leaf.lineno)
        for path, nodes in tree.nodes.items()
        for leaf in nodes
        if isinstance(leaf, ast.Call)
        and _dotted(leaf.func).split(".")[-1] in ("deserialize_compact", "deserialize_json", "decode")
        and _dotted(leaf.func).split(".")[0] in ("jws", "jwt", "jwe")
    ]
    for path, line in found[1:] if found and found[0][0] == _VERIFIER else found:
        yield Finding(f"{path}:{line}", "looks at a token's signature, too", fix)
    for path, nodes in tree.nodes.items():
        for line, name in _imported(nodes):
            if path != _VERIFIER and re.match(r"(joserfc\.(jws|jwt|jwe)|jwt|jose)\b", name):
                yield Finding(f"{path}:{line}", f"imports {name}", fix)
    if not any(path == _VERIFIER for path, _ in found):
        yield Finding(_VERIFIER, "looks at no signature", "put the verifier back")


def one_reader_of_the_environment(tree: Tree) -> Iterator[Finding]:
    """Only `settings/` asks what is set, so that `runwire config` tells of all of it."""
    fix = "make it a setting, and take the value"
    for path, nodes in tree.nodes.items():
        if any(path.startswith(each) for each in _ENVIRONMENT):
            continue
        for leaf in nodes:
            if isinstance(leaf, ast.Attribute) and _dotted(leaf) in ("os.environ", "os.getenv", "os.environb"):
                yield Finding(f"{path}:{leaf.lineno}", "reads the environment", fix)
        for line, name in _imported(nodes):
            if name in ("os.environ", "os.getenv"):
                yield Finding(f"{path}:{line}", "reads the environment", fix)


def databases_have_one_door_each(tree: Tree) -> Iterator[Finding]:
    """PostgreSQL and Redis are connected to in one module each; SQLite's files by those who keep them."""
    for path, nodes in tree.nodes.items():
        from_redis = {name.rsplit(".", 1)[-1] for _, name in _imported(nodes) if name.startswith("redis.")} & _REDIS
        for leaf in nodes:
            if not isinstance(leaf, ast.Call):
                continue
            called = _dotted(leaf.func)
            door = "redis.connection" if called.split(".")[0] in from_redis else called
            if door in _DOORS and not any(path.startswith(each) for each in _DOORS[door]):
                rooms = ", ".join(_DOORS[door]) or "storage/postgres/driver.py"
                yield Finding(f"{path}:{leaf.lineno}", f"{called} opens a way of its own", f"go through {rooms}")


def names_have_one_home(tree: Tree) -> Iterator[Finding]:
    """What `runwire` gives people is defined once, and pages and examples import a name from one place."""
    public = {name for name in _all_of(tree.modules["__init__.py"]) if not name.startswith("__")}
    homes: dict[str, list[str]] = {name: [] for name in sorted(public)}
    for path, module in tree.modules.items():
        for node in module.body:
            if isinstance(node, _DEFINED) and node.name in public & _all_of(module) - _aside(path):
                homes[node.name].append(f"{path}:{node.lineno}")
    for name, found in homes.items():
        if len(found) != 1:
            what = f"`{name}` is defined {len(found)} times: {', '.join(found) or 'nowhere'}"
            fix = "give what `runwire` offers one definition, and others another name"
            yield Finding(found[-1] if found else "__init__.py", what, fix)
    for name, said in sorted(_imported_in_pages(tree).items()):
        if len(said) > 1:
            first, second, *_ = said
            yield Finding(said[second], f"`{name}` is imported from {first} and from {second}", f"say {first}")


def _aside(path: str) -> set[str]:
    return {name for place, name in _NAMESAKES if place == path}


def _imported_in_pages(tree: Tree) -> dict[str, dict[str, str]]:
    """Return, by name, from which modules it is imported, and where that is first said."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for page, text in tree.pages.items():
        for number, line in enumerate(text.splitlines(), 1):
            if match := re.match(r"\s*from (runwire[\w.]*) import ([\w, ]+)$", line):
                for name in match[2].split(","):
                    found[name.split(" as ")[0].strip()].setdefault(match[1], f"{page}:{number}")
    return found


def _said_codes(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield (line, code) for each `code="…"` of a call, and `code = "…"` of an error's class."""
    for node in nodes:
        if isinstance(node, ast.Call) and _dotted(node.func).split(".")[-1] in _RAISED:
            values: Iterable[ast.expr] = (keyword.value for keyword in node.keywords if keyword.arg == "code")
        elif isinstance(node, ast.ClassDef) and any(_dotted(base) in _RAISED for base in node.bases):
            values = (
                each.value
                for each in node.body
                if isinstance(each, ast.Assign) and [_dotted(target) for target in each.targets] == ["code"]
            )
        else:
            continue
        for value in values:
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.lineno, value.value


_RAISED: Final = frozenset(
    {
        *("RunwireError", "ProtocolError", "NotFound", "Conflict", "Unauthenticated", "Forbidden", "Fenced"),
        *("Unavailable", "PayloadError", "RunFailed", "ConfigurationError", "ErrorBody", "Failure"),
    }
)


def _classes(nodes: Iterable[ast.AST]) -> Iterator[ast.ClassDef]:
    return (node for node in nodes if isinstance(node, ast.ClassDef))


def _is_enumeration(node: ast.ClassDef) -> bool:
    return any(_dotted(base).split(".")[-1] in ("Enum", "StrEnum", "IntEnum") for base in node.bases)


def _members(node: ast.ClassDef) -> Iterator[tuple[int, object]]:
    for each in node.body:
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant):
            yield each.lineno, each.value.value


def _all_of(module: ast.Module) -> set[str]:
    for node in module.body:
        if isinstance(node, ast.Assign) and [_dotted(target) for target in node.targets] == ["__all__"]:
            return {leaf.value for leaf in ast.walk(node.value) if isinstance(leaf, ast.Constant)}  # type: ignore[misc]
    return set()


def _imported(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of each import, wherever it stands."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _dotted(node: ast.expr) -> str:
    """Return `a.b.c` for such an expression, "" for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""
