"""Parsers of the public corpora, and the generator of a synthetic one: pure functions on texts."""

from __future__ import annotations

from collections.abc import Callable

from odin_slm.corpora import ade, bc5cdr, biored
from odin_slm.corpora.parsed import ParsedCorpus

PARSERS: dict[str, Callable[..., ParsedCorpus]] = {
    "ade": ade.parse,
    "bc5cdr": bc5cdr.parse,
    "biored": biored.parse,
}
"""Corpus name -> parser of its files' texts; ADE's also takes ``negative_ratio`` and ``seed``."""

__all__ = ["PARSERS", "ParsedCorpus"]
