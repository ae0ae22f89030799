from runwire.guide.conversation import agent
from runwire.guide.library import docs_root

__all__ = ["agent", "docs_root"]
