r"""The one module that renders and parses prompts and outputs.

An output text lists entities, then relations::

    ### Entities:
    1. [Drug] enalapril
    2. [Symptom] acute renal failure

    ### Relations:
    1. enalapril --[causes]--> acute renal failure

An empty list is the line ``None``. ``parse(render(x)) == x`` holds for every extraction: a backslash, a line break
and the arrow's own characters are escaped where a mention contains them (``\\``, ``\n``, ``\r``, ``--\[``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from odin_slm.tasks.extraction.schema import ENTITY_TYPES, RELATION_TYPES, Schema

ENTITIES_HEADER = "### Entities:"
RELATIONS_HEADER = "### Relations:"
NOTHING = "None"

# A line ends at a line feed and nowhere else.
_ENTITIES = re.compile(r"^[0-9]+\. \[(" + "|".join(ENTITY_TYPES) + r")\] (.+)$", re.MULTILINE)
_RELATIONS = re.compile(r"^[0-9]+\. (.+?) --\[(" + "|".join(RELATION_TYPES) + r")\]--> (.+)$", re.MULTILINE)
# The same for any schema's types and relations.
_ANY_ENTITY = re.compile(r"^[0-9]+\. \[[^]]*\] (.+)$", re.MULTILINE)
_ANY_RELATION = re.compile(r"^[0-9]+\. (.+?) --\[[^]]*\]--> (.+)$", re.MULTILINE)
_START = f"{ENTITIES_HEADER}\n"
_MIDDLE = f"\n\n{RELATIONS_HEADER}\n"
_NO_ENTITIES = _START + NOTHING
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity as it stands in an output text: its type and surface."""

    type: str
    text: str


@dataclass(frozen=True, slots=True)
class RelationTriple:
    """A relation as it stands in an output text: head surface, type, tail surface."""

    head: str
    type: str
    tail: str


@dataclass(frozen=True, slots=True)
class Extraction:
    """What an output text says: entities and relations, in order."""

    entities: tuple[Entity, ...] = ()
    relations: tuple[RelationTriple, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """A parsed output text.

    Attributes:
        extraction: Everything that could be read.
        malformed: The lines that follow no rule of the format, in order; empty for a well-formed output.
        entity_lines: For every entity the number of its line, from 0.
        relation_lines: The same for every relation.
    """

    extraction: Extraction
    malformed: tuple[str, ...] = ()
    entity_lines: tuple[int, ...] = field(default=(), compare=False)
    relation_lines: tuple[int, ...] = field(default=(), compare=False)

    @property
    def well_formed(self) -> bool:
        """Whether every line of the output follows the format."""
        return not self.malformed


def instruction_for(schema: Schema) -> str:
    """Return the instruction that names what a schema annotates."""
    relations = ", ".join(schema.relations) or "none"
    return f"Extract entities: {', '.join(schema.entities)}. Relations: {relations}."


SHARED_INSTRUCTION = instruction_for(Schema(ENTITY_TYPES, RELATION_TYPES))
"""The single instruction of ``instruction: shared``, whatever the corpus annotates."""


def render(extraction: Extraction) -> str:
    """Return the output text of an extraction, without a final line break."""
    entities = [f"{n}. [{e.type}] {_escape(e.text)}" for n, e in enumerate(extraction.entities, start=1)]
    relations = [
        f"{n}. {_escape(r.head)} --[{r.type}]--> {_escape(r.tail)}" for n, r in enumerate(extraction.relations, start=1)
    ]
    return "\n".join([ENTITIES_HEADER, *(entities or [NOTHING]), "", RELATIONS_HEADER, *(relations or [NOTHING])])


def parse(output: str) -> ParsedOutput:
    """Read an output text.

    Lines that break the format are collected instead of ending the parse, so that one bad line costs one item. A
    missing header counts as a malformed line of its own.
    """
    entities, relations, malformed = _read_lines(output)
    return ParsedOutput(
        Extraction(
            tuple(Entity(kind, _unescape(text)) for _, kind, text in entities),
            tuple(RelationTriple(_unescape(head), kind, _unescape(tail)) for _, head, kind, tail in relations),
        ),
        tuple(malformed),
        tuple(line for line, *_ in entities),
        tuple(line for line, *_ in relations),
    )


def item_places(output: str) -> list[tuple[tuple[int, int], list[tuple[int, int]]]]:
    """Return (begin, end) of every line of a rendered output that holds an item, and of the names in it."""
    middle = output.index(_MIDDLE)
    items = [*_ANY_ENTITY.finditer(output, 0, middle), *_ANY_RELATION.finditer(output, middle)]
    return [(item.span(), [item.span(group) for group in range(1, len(item.groups()) + 1)]) for item in items]


def read(output: str) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]], list[str]]:
    """Read an output text as :func:`parse` does, into plain (type, text), (head, type, tail) and malformed lines."""
    output = output.rstrip("\n")
    head, found, tail = output.partition(_MIDDLE)
    if found and head.startswith(_START):
        # Two searches read a well-formed output, which most are; whatever they leave over is read line by line.
        entities, relations = _ENTITIES.findall(head), _RELATIONS.findall(tail)
        if (len(entities) == head.count("\n") or head == _NO_ENTITIES) and (
            len(relations) == tail.count("\n") + 1 or tail == NOTHING
        ):
            return (entities, relations, []) if "\\" not in output else _unescaped(entities, relations, [])
    by_line, triples, malformed = _read_lines(output)
    return _unescaped([entity[1:] for entity in by_line], [triple[1:] for triple in triples], malformed)


def _read_lines(output: str) -> tuple[list[tuple[int, str, str]], list[tuple[int, str, str, str]], list[str]]:
    """Return entities and relations, each led by the number of its line, as they are escaped, and malformed lines."""
    entities: list[tuple[int, str, str]] = []
    relations: list[tuple[int, str, str, str]] = []
    malformed: list[str] = []
    section = ""
    seen: list[str] = []
    for number, line in enumerate(output.rstrip("\n").split("\n")):
        if line in (ENTITIES_HEADER, RELATIONS_HEADER):
            section = line
            seen.append(line)
        elif line in ("", NOTHING):
            continue
        elif section == ENTITIES_HEADER and (match := _ENTITIES.fullmatch(line)):
            entities.append((number, match[1], match[2]))
        elif section == RELATIONS_HEADER and (match := _RELATIONS.fullmatch(line)):
            relations.append((number, match[1], match[2], match[3]))
        else:
            malformed.append(line)
    if seen != [ENTITIES_HEADER, RELATIONS_HEADER]:
        malformed.append(f"<headers: {', '.join(seen) or 'none'}>")
    return entities, relations, malformed


def _unescaped(
    entities: list[tuple[str, str]], relations: list[tuple[str, str, str]], malformed: list[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]], list[str]]:
    return (
        [(kind, _unescape(text)) for kind, text in entities],
        [(_unescape(head), kind, _unescape(tail)) for head, kind, tail in relations],
        malformed,
    )


def locate(text: str, surface: str) -> list[tuple[int, int]]:
    """Return the (begin, end) of every occurrence of a surface in a text that does not cut a word.

    Falls back to occurrences inside words ("toxicity" in "ototoxicity") only where no whole-word one exists. The
    match is exact first, then without regard to case.
    """
    if not surface:
        return []
    inside: list[tuple[int, int]] = []
    for flags in (0, re.IGNORECASE):
        spans = [match.span() for match in re.finditer(re.escape(surface), text, flags)]
        whole = [span for span in spans if _on_word_boundaries(text, *span)]
        if whole:
            return whole
        inside = inside or spans
    return inside


def _on_word_boundaries(text: str, begin: int, end: int) -> bool:
    before = begin > 0 and text[begin - 1].isalnum() and text[begin].isalnum()
    after = end < len(text) and text[end].isalnum() and text[end - 1].isalnum()
    return not before and not after


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("--[", "--\\[")


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPED.sub(lambda match: {"n": "\n", "r": "\r"}.get(match[1], match[1]), text)
