"""A whole deployment on one machine, for looking at and for breaking: `runwire cluster`."""

from runwire.app.cluster.run import Layout, run_cluster

__all__ = ["Layout", "run_cluster"]
