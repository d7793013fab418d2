"""Parsers of the public corpora, and the generator of a synthetic one: pure functions on texts.

Every module of this package that offers a ``CORPUS`` is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import MappingProxyType

from odin_slm.corpora.parsed import Corpus, ParsedCorpus
from odin_slm.tasks.extraction.schema import MEDICAL, Schema


def discover() -> Mapping[str, Corpus]:
    """Return name -> corpus of all parser modules of this package."""
    found: dict[str, Corpus] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        corpus = getattr(importlib.import_module(f"{__name__}.{info.name}"), "CORPUS", None)
        if isinstance(corpus, Corpus):
            found[corpus.name] = corpus
    return MappingProxyType(found)


CORPORA = discover()
"""The corpora by name, in alphabetical order of their modules."""

PARSERS: Mapping[str, Callable[..., ParsedCorpus]] = MappingProxyType(
    {name: corpus.parse for name, corpus in CORPORA.items()}
)
"""Corpus name -> parser of its files' texts."""


def annotated() -> dict[str, Schema]:
    """Return source -> what it annotates: every corpus with annotations, and the project's own generator."""
    schemas = {name: corpus.schema for name, corpus in CORPORA.items() if corpus.schema is not None}
    return {**schemas, "synthetic": MEDICAL.everything}


__all__ = ["CORPORA", "PARSERS", "Corpus", "ParsedCorpus", "annotated", "discover"]
