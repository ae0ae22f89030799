from runwire.testing.model import FakeModel
from runwire.testing.server import ServerProcess

__all__ = ["FakeModel", "ServerProcess"]
