"""Does a circuit breaker keep what it promises when many call it at once? A kit for any breaker, ours or another.

::

    def made(terms: KitTerms) -> Subject: ...   # the breaker, behind the two methods of `Subject`

    for verdict in await examine(made):
        print(verdict.check, "kept" if verdict.is_kept else verdict.found)

A breaker that passes lets exactly its probes through while it is half-open, however many call; drops what calls from
before a change of state come to; takes cancellation for nothing; opens by rate; and gets over a probe that hangs.
`Model` is what a breaker is, in a few lines and without a thought of speed, to compare a state machine with.
"""

from runwire.resilience.testing.checks import CHECKS
from runwire.resilience.testing.kit import Verdict, examine, subject_of
from runwire.resilience.testing.model import Model
from runwire.resilience.testing.subject import KitTerms, Made, Refused, Subject

__all__ = ["CHECKS", "KitTerms", "Made", "Model", "Refused", "Subject", "Verdict", "examine", "subject_of"]
