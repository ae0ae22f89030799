"""The composition root: the only room that knows all others."""

from runwire.app.administration import administer, migrate, where
from runwire.app.archives import Ages, Progress, Tidied, back_up, export, figures, import_from, tidy
from runwire.app.process import running, serve

__all__ = [
    "Ages",
    "Progress",
    "Tidied",
    "administer",
    "back_up",
    "export",
    "figures",
    "import_from",
    "migrate",
    "running",
    "serve",
    "tidy",
    "where",
]
