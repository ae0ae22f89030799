"""The composition root: the only room that knows all others."""

from runwire.app.administration import administer, members, migrate, where
from runwire.app.archives import Ages, Progress, Tidied, back_up, export, figures, import_from, restored, tidy
from runwire.app.cluster import Layout, run_cluster
from runwire.app.people import Gone, erase, hand_over, reconcile
from runwire.app.process import running, serve

__all__ = [
    "Ages",
    "Gone",
    "Layout",
    "Progress",
    "Tidied",
    "administer",
    "back_up",
    "erase",
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
