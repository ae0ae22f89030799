from runwire.testing.server import ServerProcess

__all__ = ["ServerProcess"]
