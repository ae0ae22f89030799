"""The composition root: the only room that knows all others."""

from runwire.app.administration import administer, members, migrate, where
from runwire.app.archives import Ages, Progress, Tidied, back_up, export, figures, import_from, restored, tidy
from runwire.app.audit import audit_rows
from runwire.app.cluster import Layout, run_cluster
from runwire.app.issuers import examine_issuers
from runwire.app.people import Gone, erase, hand_over, reconcile
from runwire.app.process import running, serve

__all__ = [
    "Ages",
    "Gone",
    "Layout",
    "Progress",
    "Tidied",
    "administer",
    "audit_rows",
    "back_up",
    "erase",
    "examine_issuers",
    "export",
    "figures",
    "hand_over",
    "import_from",
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
