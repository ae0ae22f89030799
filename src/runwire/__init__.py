"""Runwire: a self-hosted, real-time server for AI agents.

::

    from runwire import connect, sign_in, tool, Context, ToolFailed

The names are looked up when they are first used, so that `import runwire` costs nothing (PEP 562); `runwire.app` is the
only other package with such a table.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from runwire.agents.context import Context
    from runwire.agents.failures import OutcomeUnknown, SubagentFailed, ToolFailed, WaitExpired, WrongAnswer
    from runwire.agents.options import tool
    from runwire.client import connect, sign_in
    from runwire.resilience.breaker import CircuitOpen

__all__ = [
    "CircuitOpen",
    "Context",
    "OutcomeUnknown",
    "SubagentFailed",
    "ToolFailed",
    "WaitExpired",
    "WrongAnswer",
    "__version__",
    "connect",
    "sign_in",
    "tool",
]

__version__ = "0.1.0"

_HOME_OF: Final = {
    "CircuitOpen": "runwire.resilience.breaker",
    "Context": "runwire.agents.context",
    "OutcomeUnknown": "runwire.agents.failures",
    "SubagentFailed": "runwire.agents.failures",
    "ToolFailed": "runwire.agents.failures",
    "WaitExpired": "runwire.agents.failures",
    "WrongAnswer": "runwire.agents.failures",
    "connect": "runwire.client",
    "sign_in": "runwire.client",
    "tool": "runwire.agents.options",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its room."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'runwire' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """List the public names too."""
    return sorted({*globals(), *_HOME_OF})
