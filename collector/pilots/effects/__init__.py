"""Effects of a pilot with their intervals, and the verdict. The rule and its evidence: docs/decisions/0054.

The modules take and return plain numbers: no stored rows, no plan. Those that calculate import numpy, so a
collector without reports does not load it.
"""

from collector.pilots.effects.effect import Effect, Refused, Result

__all__ = ["Effect", "Refused", "Result"]
