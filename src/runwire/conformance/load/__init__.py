"""Load on a deployment, seen from the wire: who sends what, what came back, and how late."""
