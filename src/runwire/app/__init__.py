"""The composition root: the only room that knows all others.

Its names are looked up when they are first used, as those of the root package: a command that asks a running server
needs none of what a server is made of, and would import it for a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from runwire.app.administration import administer, members, migrate, where
    from runwire.app.archives import Ages, Progress, Tidied, back_up, export, figures, import_from, restored, tidy
    from runwire.app.audit import audit_rows
    from runwire.app.cluster import Layout, run_cluster
    from runwire.app.doctor.examination import PARTS, Diagnosis, diagnose
    from runwire.app.issuers import examine_issuers
    from runwire.app.people import Gone, erase, hand_over, reconcile
    from runwire.app.process import running, serve
    from runwire.app.source.examination import look_through

__all__ = [
    "PARTS",
    "Ages",
    "Diagnosis",
    "Gone",
    "Layout",
    "Progress",
    "Tidied",
    "administer",
    "audit_rows",
    "back_up",
    "diagnose",
    "erase",
    "examine_issuers",
    "export",
    "figures",
    "hand_over",
    "import_from",
    "look_through",
    "members",
    "migrate",
    "reconcile",
    "restored",
    "run_cluster",
    "running",
    "serve",
    "tidy",
    "where",
]

_HOMES: Final = {
    "administration": ("administer", "members", "migrate", "where"),
    "archives": (*("Ages", "Progress", "Tidied", "back_up", "export", "figures", "import_from", "restored", "tidy"),),
    "audit": ("audit_rows",),
    "cluster": ("Layout", "run_cluster"),
    "doctor.examination": ("PARTS", "Diagnosis", "diagnose"),
    "issuers": ("examine_issuers",),
    "people": ("Gone", "erase", "hand_over", "reconcile"),
    "process": ("running", "serve"),
    "source.examination": ("look_through",),
}
_HOME_OF: Final = {name: f"runwire.app.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name from its module."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'runwire.app' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
