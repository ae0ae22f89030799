"""Write the page anew from the figures of the last run, e.g. when its words have changed: `python -m bench.scale`."""

from __future__ import annotations

from bench.scale import fit, page

page.PAGE.write_text(page.render(fit.load()), encoding="utf-8")
