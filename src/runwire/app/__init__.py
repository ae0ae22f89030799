"""The composition root: the only room that knows all others."""

from runwire.app.administration import administer, migrate, where
from runwire.app.process import running, serve

__all__ = ["administer", "migrate", "running", "serve", "where"]
