"""PubTator files of anybody, with and without relations; see :mod:`odin_slm.corpora.pubtator` for the format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from odin_slm.corpora import pubtator
from odin_slm.corpora.faults import Faults
from odin_slm.corpora.own.block import OwnCorpus
from odin_slm.corpora.own.given import GivenMention, GivenRelation, GivenText, ids_of


def read(files: Mapping[str, str], block: OwnCorpus, faults: Faults) -> Iterator[GivenText]:
    """Read a folder; see :data:`odin_slm.corpora.own.READERS`. What is annotated twice is one mention."""
    for name in sorted(files):
        for item in pubtator.read(name, files[name], faults, as_given=True):
            text = GivenText(item.pmid, item.text, name, item.where)
            for found in item.annotations:
                concepts = ids_of(found.identifiers)
                text.mentions.append(
                    GivenMention("", found.begin, found.end, found.type, found.text, found.where, concepts)
                )
            text.relations += [GivenRelation(r.type, r.first, r.second, r.where, True) for r in item.relations]
            yield text
