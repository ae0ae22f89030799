"""Pages of the reference that are made from more rooms than one; `python -m runwire.app.pages` writes them."""
