"""What the tests of the readers share: read some files by a block, and say what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odin_slm.corpora import own
from odin_slm.corpora.faults import Faults
from odin_slm.corpora.own.assembly import Assembled
from own_corpora_files import BLOCK


def read(form: str, files: Mapping[str, str], **changes: Any) -> tuple[Assembled, list[str], Faults]:
    """Return what was read, the faults as ``place: what``, and their collection."""
    block = own.OwnCorpus.model_validate({"folder": "notes", "format": form, **BLOCK, **changes})
    faults = Faults(drop=block.on_fault == "drop")
    found = own.survey("notes", block, files, faults)
    return found, [f"{fault.where}: {fault.what}" for fault in faults.listed], faults


def mentions(found: Assembled) -> list[list[tuple[str, str]]]:
    """Return (text, type) of the mentions, document by document."""
    return [[(mention.text, mention.type) for mention in document.mentions] for document in found.documents]


def relations(found: Assembled) -> list[list[tuple[str, str, str]]]:
    """Return the relations as (head, type, tail), without what concepts have for prefixes."""

    def name(concept: str) -> str:
        return concept.removeprefix("text:").partition("|")[0]

    return [[(name(r.head), r.type, name(r.tail)) for r in document.relations] for document in found.documents]
