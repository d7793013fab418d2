r"""The one module that renders and parses prompts and outputs.

An output text lists entities, then relations::

    ### Entities:
    1. [Drug] enalapril
    2. [Symptom] acute renal failure

    ### Relations:
    1. enalapril --[causes]--> acute renal failure

An empty list is the line ``None``. ``parse(render(x)) == x`` holds for every extraction: a backslash, a line break
and the arrow's own characters are escaped where a mention contains them (``\\``, ``\n``, ``\r``, ``--\[``).
Outputs in the forms of :mod:`odin_slm.tasks.extraction.tagged` are read by the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from odin_slm.core.folding import fold, folded, folded_name
from odin_slm.tasks.extraction import tagged
from odin_slm.tasks.extraction.schema import MEDICAL, Schema, Types
from odin_slm.tasks.extraction.tagged import NOTHING, escape, unescape

ENTITIES_HEADER = "### Entities:"
RELATIONS_HEADER = "### Relations:"

# A line ends at a line feed and nowhere else.
_ANY_ENTITY = re.compile(r"^[0-9]+\. \[[^]]*\] (.+)$", re.MULTILINE)
_ANY_RELATION = re.compile(r"^[0-9]+\. (.+?) --\[[^]]*\]--> (.+)$", re.MULTILINE)
_START = f"{ENTITIES_HEADER}\n"
_MIDDLE = f"\n\n{RELATIONS_HEADER}\n"
_NO_ENTITIES = _START + NOTHING


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity as it stands in an output text: its type and surface."""

    type: str
    text: str

    @property
    def key(self) -> tuple[str, ...]:
        """What it says as ``exact`` compares it: type and folded text."""
        return self.type, fold(self.text)


@dataclass(frozen=True, slots=True)
class RelationTriple:
    """A relation as it stands in an output text: head surface, type, tail surface."""

    head: str
    type: str
    tail: str

    @property
    def key(self) -> tuple[str, ...]:
        """What it says as ``exact`` compares it: folded head, type, folded tail."""
        return fold(self.head), self.type, fold(self.tail)


@dataclass(frozen=True, slots=True)
class Extraction:
    """What an output text says: entities and relations, in order."""

    entities: tuple[Entity, ...] = ()
    relations: tuple[RelationTriple, ...] = ()

    def keys(self, kind: str) -> list[tuple[str, ...]]:
        """Return the keys of its items of a kind, ``entity`` or ``relation``, in order."""
        return [item.key for item in (self.entities if kind == "entity" else self.relations)]


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


@dataclass(frozen=True, slots=True)
class Listed:
    """What an output lists, each with the log-probability of its line; None where that is not known."""

    entities: tuple[tuple[Entity, float | None], ...]
    relations: tuple[tuple[RelationTriple, float | None], ...]

    @classmethod
    def of(cls, parsed: ParsedOutput, lines: Sequence[float | None]) -> Listed:
        """Return what a parsed output lists; ``lines`` are the log-probabilities of all its lines, or fewer."""

        def chance(line: int) -> float | None:
            return lines[line] if line < len(lines) else None

        found = parsed.extraction
        return cls(
            tuple((entity, chance(line)) for entity, line in zip(found.entities, parsed.entity_lines, strict=True)),
            tuple((triple, chance(line)) for triple, line in zip(found.relations, parsed.relation_lines, strict=True)),
        )

    def output(self) -> tuple[str, tuple[float | None, ...]]:
        """Return the output text, and the log-probability of every line of it."""
        text = render(Extraction(tuple(entity for entity, _ in self.entities), tuple(one for one, _ in self.relations)))
        entities, relations = ([chance for _, chance in items] or [None] for items in (self.entities, self.relations))
        return text, (None, *entities, None, None, *relations)  # a header, and a blank line and a header between


def instruction_for(schema: Schema) -> str:
    """Return the instruction that names what a schema annotates."""
    relations = ", ".join(schema.relations) or "none"
    return f"Extract entities: {', '.join(schema.entities)}. Relations: {relations}."


_INSTRUCTION = re.compile(r"Extract entities: ([^.]+)\. Relations: ([^.]+)\.")


def schema_in(instruction: str, types: Types = MEDICAL) -> Schema:
    """Return the schema that an instruction names; one of unknown wording, or of other types, asks for every type."""
    match = _INSTRUCTION.fullmatch(instruction)
    if match is None:
        return types.everything
    named = Schema(tuple(match[1].split(", ")), () if match[2] == "none" else tuple(match[2].split(", ")))
    known = set(named.entities) <= set(types.entities) and set(named.relations) <= set(types.relations)
    return named if known else types.everything


def render(extraction: Extraction) -> str:
    """Return the output text of an extraction, without a final line break."""
    entities = [f"{n}. [{e.type}] {escape(e.text)}" for n, e in enumerate(extraction.entities, start=1)]
    relations = [
        f"{n}. {escape(r.head)} --[{r.type}]--> {escape(r.tail)}" for n, r in enumerate(extraction.relations, start=1)
    ]
    return "\n".join([ENTITIES_HEADER, *(entities or [NOTHING]), "", RELATIONS_HEADER, *(relations or [NOTHING])])


def parse(output: str, types: Types = MEDICAL) -> ParsedOutput:
    """Read an output text.

    Lines that break the format are collected instead of ending the parse, so that one bad line costs one item. A
    missing header counts as a malformed line of its own.
    """
    entities, relations, malformed, entity_lines, relation_lines = _read(output, types)
    return ParsedOutput(
        Extraction(
            tuple(Entity(kind, text) for kind, text in entities),
            tuple(RelationTriple(head, kind, tail) for head, kind, tail in relations),
        ),
        tuple(malformed),
        tuple(entity_lines),
        tuple(relation_lines),
    )


def item_places(output: str) -> list[tuple[tuple[int, int], list[tuple[int, int]]]]:
    """Return (begin, end) of every line of a rendered output that holds an item, and of the names in it."""
    middle = output.index(_MIDDLE)
    items = [*_ANY_ENTITY.finditer(output, 0, middle), *_ANY_RELATION.finditer(output, middle)]
    return [(item.span(), [item.span(group) for group in range(1, len(item.groups()) + 1)]) for item in items]


def read(output: str, types: Types = MEDICAL) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]], list[str]]:
    """Read an output text as :func:`parse` does, into plain (type, text), (head, type, tail) and malformed lines."""
    return _read(output, types)[:3]


def _read(
    output: str, types: Types
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]], list[str], Sequence[int], Sequence[int]]:
    """Return entities, relations, malformed lines, and the numbers of the lines of entities and relations."""
    output = output.rstrip("\n")
    if output.startswith(tagged.HEADERS):
        return _read_tagged(output, types)
    an_entity, a_relation = _patterns(types)
    head, found, tail = output.partition(_MIDDLE)
    if found and head.startswith(_START):
        # Two searches read a well-formed output, which most are; whatever they leave over is read line by line.
        entities, relations = an_entity.findall(head), a_relation.findall(tail)
        breaks = head.count("\n")
        if (len(entities) == breaks or head == _NO_ENTITIES) and (
            len(relations) == tail.count("\n") + 1 or tail == NOTHING
        ):
            first = breaks + 3  # the blank line and the header lie between
            lines = range(1, 1 + len(entities)), range(first, first + len(relations))
            if "\\" in output:
                entities, relations = _unescaped(entities, relations)
            return entities, relations, [], *lines
    entities, relations = [], []
    entity_lines: list[int] = []
    relation_lines: list[int] = []
    malformed: list[str] = []
    section = ""
    seen: list[str] = []
    for number, line in enumerate(output.split("\n")):
        if line in (ENTITIES_HEADER, RELATIONS_HEADER):
            section = line
            seen.append(line)
        elif line in ("", NOTHING):
            continue
        elif section == ENTITIES_HEADER and (match := an_entity.fullmatch(line)):
            entities.append((match[1], match[2]))
            entity_lines.append(number)
        elif section == RELATIONS_HEADER and (match := a_relation.fullmatch(line)):
            relations.append((match[1], match[2], match[3]))
            relation_lines.append(number)
        else:
            malformed.append(line)
    if seen != [ENTITIES_HEADER, RELATIONS_HEADER]:
        malformed.append(f"<headers: {', '.join(seen) or 'none'}>")
    return *_unescaped(entities, relations), malformed, entity_lines, relation_lines


def _read_tagged(
    output: str, types: Types
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]], list[str], Sequence[int], Sequence[int]]:
    """Return the same of an output in another form: its relations are read as those of a list without entities."""
    section, found, rest = output.partition(_MIDDLE)
    entities, entity_lines, malformed = tagged.read(section, types.entities)
    if not found:
        header = section.split("\n", 1)[0]
        return entities, [], [*malformed, f"<headers: {header}>"], entity_lines, []
    before = f"{_NO_ENTITIES}{_MIDDLE}"
    _, relations, more, _, lines = _read(before + rest, types)
    moved = section.count("\n") - _NO_ENTITIES.count("\n")
    return entities, relations, [*malformed, *more], entity_lines, [line + moved for line in lines]


@lru_cache(maxsize=16)
def _patterns(types: Types) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of an entity's and of a relation's line."""
    entities, relations = ("|".join(map(re.escape, names)) or r"(?!)" for names in (types.entities, types.relations))
    return (
        re.compile(rf"^[0-9]+\. \[({entities})\] (.+)$", re.MULTILINE),
        re.compile(rf"^[0-9]+\. (.+?) --\[({relations})\]--> (.+)$", re.MULTILINE),
    )


def _unescaped(
    entities: list[tuple[str, str]], relations: list[tuple[str, str, str]]
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    return (
        [(kind, unescape(text)) for kind, text in entities],
        [(unescape(head), kind, unescape(tail)) for head, kind, tail in relations],
    )


def locate(text: str, surface: str) -> list[tuple[int, int]]:
    """Return the (begin, end) of every occurrence of a surface in a text that does not cut a word.

    Falls back to occurrences inside words ("toxicity" in "ototoxicity") only where no whole-word one exists. The
    match is first with and then without regard to case; how a name is written otherwise never matters, see
    :mod:`odin_slm.core.folding`. Offsets are those of the text as it is.
    """
    inside: list[tuple[int, int]] = []
    for case in (False, True):
        found = folded(text, case=case).find(re.escape(folded_name(surface, case=case)))
        if whole := [(begin, end) for begin, end, is_whole in found if is_whole]:
            return whole
        inside = inside or [(begin, end) for begin, end, _ in found]
    return inside
