"""Corpora by configuration: readers of the formats that annotation tools write, and what makes documents of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.faults import CUT_OFF, Faults
from odin_slm.corpora.own import bioc, brat, iob, pubtator, records, spans, tables
from odin_slm.corpora.own.assembly import FAULT, Assembled, assemble
from odin_slm.corpora.own.block import OwnCorpus
from odin_slm.corpora.own.given import GivenText
from odin_slm.corpora.parsed import ParsedCorpus

Reader: TypeAlias = Callable[[Mapping[str, str], OwnCorpus, Faults], Iterable[GivenText]]

READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "brat": brat.read,
        "bioc_xml": bioc.read_xml,
        "bioc_json": bioc.read_json,
        "pubtator": pubtator.read,
        "iob": iob.read,
        "jsonl": spans.read,
        "csv": tables.read_csv,
        "parquet": tables.read_parquet,
        "records": records.read,
    }
)
"""Format -> reader: file name -> text, the block, and faults to given texts, in the order of the files."""


def survey(name: str, block: OwnCorpus, files: Mapping[str, str], faults: Faults) -> Assembled:
    """Read a corpus to its end, whatever is wrong with it.

    Args:
        name: Its name.
        block: Its configuration; without entities every type is kept as it is called.
        files: File name -> text, as the folder has them.
        faults: Takes all faults.

    Raises:
        CorpusFormatError: There are so many faults that it is no such corpus.
    """
    texts = list(READERS[block.format](files, block, faults))
    with faults.collected():
        if not texts and not faults.listed:
            first = next(iter(sorted(files)), block.folder)
            raise CorpusFormatError(
                f"found no document; expected some in {block.format}.", where=f"{first}:1", fix=CUT_OFF
            )
    found = assemble(name, block, texts, faults)
    if block.format == "brat" and (count := brat.unannotated(files)):
        found.dropped["document: a text without annotations"] += count
    return found


def parse(name: str, block: OwnCorpus, files: Mapping[str, str], digests: Mapping[str, str]) -> ParsedCorpus:
    """Read a corpus as its block says.

    Args:
        name: Its name.
        block: Its configuration.
        files: File name -> text.
        digests: File name -> sha256 of the file, for the report.

    Raises:
        CorpusFormatError: Something is wrong with it, and ``on_fault`` is ``stop``, or nothing could be left out to
            mend it; all faults, each with ``file:line``.
    """
    faults = Faults(drop=block.on_fault == "drop")
    found = survey(name, block, files, faults)
    faults.stop()
    if not found.documents and faults.listed:
        raise faults.listed[0]
    return ParsedCorpus(found.documents, found.report(name, block, faults, digests))


__all__ = ["FAULT", "READERS", "OwnCorpus", "parse", "survey"]
