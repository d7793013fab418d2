"""Parsers of the public corpora, and the generator of a synthetic one: pure functions on texts.

Every module of this package that offers a ``CORPUS`` is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from odin_slm.corpora.parsed import Corpus, ParsedCorpus
from odin_slm.tasks.extraction.schema import SCHEMAS


def discover() -> dict[str, Corpus]:
    """Return name -> corpus of all parser modules of this package, and make their schemas known."""
    found: dict[str, Corpus] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        corpus = getattr(importlib.import_module(f"{__name__}.{info.name}"), "CORPUS", None)
        if isinstance(corpus, Corpus):
            found[corpus.name] = corpus
            SCHEMAS.setdefault(corpus.name, corpus.schema)
    return found


CORPORA = discover()
"""The corpora by name, in alphabetical order of their modules."""

PARSERS: dict[str, Callable[..., ParsedCorpus]] = {name: corpus.parse for name, corpus in CORPORA.items()}
"""Corpus name -> parser of its files' texts."""

__all__ = ["CORPORA", "PARSERS", "Corpus", "ParsedCorpus", "discover"]
