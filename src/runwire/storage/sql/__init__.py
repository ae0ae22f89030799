"""SQL text, in files of named blocks; no other place holds any."""

from runwire.storage.sql.blocks import load

__all__ = ["load"]
