"""Scores of predictions: pure functions on rows of a predictions file.

Everything is recomputed from the raw texts ``gold`` and ``prediction``. The headline rule, ``exact``, compares sets per
example: an entity is its type and its text, a relation its head, type and tail; texts are compared in whatever case,
Unicode form and spacing (:mod:`odin_slm.core.folding`). :mod:`odin_slm.tasks.extraction.metrics.modes` says what the
other rules change. Where nothing was predicted or nothing was to be found, a ratio is 0.

Micro averages add up true positives, false positives and false negatives over all examples. Macro averages are means
over examples; an example without gold and without prediction is right and counts 1. Figures carry 95 % intervals of a
bootstrap over abstracts, whose documents are drawn together; two models are compared abstract by abstract
(:mod:`odin_slm.tasks.resampling`).

Rows become columns of numbers (:mod:`odin_slm.tasks.extraction.metrics.items`), on which whole files are counted at
once; only examples with errors are looked at one by one.
"""

from odin_slm.tasks.extraction.metrics.results import (
    HEADLINE,
    KINDS,
    difference,
    evaluate,
    micro,
    micro_f1,
    ratios,
    score,
)
from odin_slm.tasks.extraction.metrics.rules import RULES, Rule, Strings, strings_of
from odin_slm.tasks.extraction.metrics.taxonomy import ERRORS, Error, errors_in

__all__ = [
    "ERRORS",
    "HEADLINE",
    "KINDS",
    "RULES",
    "Error",
    "Rule",
    "Strings",
    "difference",
    "errors_in",
    "evaluate",
    "micro",
    "micro_f1",
    "ratios",
    "score",
    "strings_of",
]
