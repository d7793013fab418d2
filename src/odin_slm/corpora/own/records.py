"""The project's own records: ``instruction``, ``input`` and ``output``, as a list of JSON or as JSON Lines.

An output names what it found without saying where, so a mention stands wherever its text does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from odin_slm.core.document import surface_concept
from odin_slm.corpora.faults import Faults
from odin_slm.corpora.json_values import JsonValues, line_of, rows
from odin_slm.corpora.own.block import OwnCorpus
from odin_slm.corpora.own.given import GivenMention, GivenRelation, GivenText
from odin_slm.corpora.own.spans import identifier
from odin_slm.tasks.extraction.format import locate, parse
from odin_slm.tasks.extraction.schema import Types

_WHAT = "records with instruction, input and output"
_ENTITY = re.compile(r"^[0-9]+\. \[([^]\n]+)\] ", re.MULTILINE)
_RELATION = re.compile(r" --\[([^]\n]+)\]--> ")


def read(files: Mapping[str, str], block: OwnCorpus, faults: Faults) -> Iterator[GivenText]:
    """Read a folder; see :data:`odin_slm.corpora.own.READERS`."""
    for name in sorted(files):
        with faults.collected():
            for number, value in rows(name, files[name], _WHAT, faults):
                with faults.collected("document"):
                    yield _text(name, number, value, block, faults, many=len(files) > 1)


def _text(name: str, number: int, record: Any, block: OwnCorpus, faults: Faults, *, many: bool) -> GivenText:
    values = JsonValues(f"{name}:{line_of(record, number)}")
    source, output = (values.string(record, key, "a record") for key in ("input", "output"))
    values.string(record, "instruction", "a record")
    text = GivenText(identifier(name, number, record.get(block.fields.id), many=many), source, name, values.where)
    group = record.get("document_id")
    text.group = group if isinstance(group, str) else ""
    if block.split and block.split.field:
        found = record.get(block.split.field)
        text.split = found if isinstance(found, str) else None
    kinds = tuple(dict.fromkeys(_ENTITY.findall(output)))
    related = tuple((kind, ()) for kind in dict.fromkeys(_RELATION.findall(output)))
    parsed = parse(output, Types(kinds, related))
    for line in parsed.malformed:
        with faults.collected("line"):
            raise values.error(f"the output says {line[:60]!r}; expected the format of this project")
    for entity in parsed.extraction.entities:
        with faults.collected("mention"):
            places = locate(source, entity.text)
            if not places:
                raise values.error(f"the output names {entity.text[:60]!r}, which the input does not say")
            concepts = (surface_concept(entity.text),)
            text.mentions += [
                GivenMention("", begin, end, entity.type, None, values.where, concepts) for begin, end in places
            ]
    for relation in parsed.extraction.relations:
        ends = surface_concept(relation.head), surface_concept(relation.tail)
        text.relations.append(GivenRelation(relation.type, *ends, values.where, True))
    return text
