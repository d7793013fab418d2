r"""Decoding held to the text: the grammar of one input, in two phases.

In the first phase every entity is a span of the input, word for word, with a type that the instruction names. When the
first relation is about to be written, the entities are known, and a second grammar allows only triples of listed
entities with a legal type signature (:attr:`odin_slm.tasks.extraction.schema.Types.legal`).

The grammars are Lark as llguidance reads it. A line is one terminal: split into several, the greedy lexer would take
the space before ``--[`` into the name and refuse the arrow. Spans are built from chunks of white space, words and
single punctuation marks (``%regex {"substring_chunks": …}``), so that a name never starts or ends inside a word, or
between a letter and its accent. Text that the output format would have to escape (line breaks, backslashes, ``--[``)
belongs to no span.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from odin_slm.core.folding import chunks, fold
from odin_slm.tasks.extraction import pairs, tagged
from odin_slm.tasks.extraction.format import (
    ENTITIES_HEADER,
    NOTHING,
    RELATIONS_HEADER,
    Entity,
    RelationTriple,
    parse,
    render,
)
from odin_slm.tasks.extraction.records import written
from odin_slm.tasks.extraction.schema import MEDICAL, Schema, Types
from odin_slm.tasks.extraction.tagged import escape
from odin_slm.tasks.grammar import Ending, Judgement, Step
from odin_slm.tasks.lark import accepts, literal

_NEEDS_ESCAPE = re.compile(r"--\[|[\\\r\n]")
_NUMBER = r"/[1-9][0-9]{0,2}\. /"
_REPEATS = 3
_MENTION = re.compile(r"\] (.+) #([0-9]+)\n\Z")


@dataclass(frozen=True, slots=True)
class ExtractionGrammar:
    """What an output may say; see :class:`odin_slm.tasks.grammar.Grammar`.

    Attributes:
        text: The input; every entity is a span of it.
        schema: Types that the instruction names.
        types: The experiment's types, with the legal signatures.
        end_bias: What is added to the log-odds of ending the list of entities, and of relations, against going on;
            None leaves decoding as it is. Entities in another form than a list are not biased.
        judge: How relations are found after the output is written; None where nothing is judged.
        taught: Whether the model was taught to judge pairs, and is asked for yes or no.
        form: One of :data:`.tagged.FORMS`; pairs are judged behind ``list`` alone.
    """

    text: str
    schema: Schema = MEDICAL.everything
    types: Types = MEDICAL
    end_bias: tuple[float, float] | None = None
    judge: pairs.Judge | None = None
    taught: bool = False
    form: str = "list"

    @property
    def biased(self) -> bool:
        """Whether the ends of lists are biased."""
        return self.end_bias is not None

    def lark(self) -> str:
        """Return the first phase: all of the output up to the first relation."""
        if self.form == "inline":
            return tagged.inline_lark(self.text, self.schema.entities, f"\n\n{RELATIONS_HEADER}\n")
        begin = tagged.MENTIONS_HEADER if self.form == "numbered" else ENTITIES_HEADER
        header, heading = literal(f"{begin}\n"), literal(f"\n{RELATIONS_HEADER}\n")
        nothing = literal(f"{NOTHING}\n")
        spans = chunks(_NEEDS_ESCAPE.sub("\n", self.text))
        if not any(chunk.strip() for chunk in spans):
            return f"start: {header} {nothing} {heading}\n"
        types = _any_of(f"[{name}] " for name in self.schema.entities)
        number = ' " #" /[1-9][0-9]{0,2}/' if self.form == "numbered" else ""
        return (
            f"start: {header} entities {heading}\n"
            f"entities: {nothing} | ENTITY+\n"
            f"SPAN: %regex {json.dumps({'substring_chunks': spans})}\n"
            r"NAME: SPAN & /[^\s](.*[^\s])?/"
            f'\nENTITY: {_NUMBER} {types} NAME{number} "\\n"\n'
        )

    def step(self, phase: int, text: str) -> Step | None:
        """Return what follows a text that has just reached the end of a line; None: the grammar before goes on."""
        section, blank, begun = text.partition("\n\n")
        if phase:
            return Step(closed=True) if _in_circles(text) else None
        if blank:
            entities = () if self.judge and self.judge.mode == "pairs" else self._entities(section)
            return Step(lark=self.relations(entities, begun))
        if self.form != "inline" and text.endswith("\n") and (_in_circles(text) or self._beyond(text)):
            return Step(forced=f"\n{RELATIONS_HEADER}\n")
        return None

    def _beyond(self, text: str) -> bool:
        """Tell whether the last mention is one more of its name than the text has: the count would go on for ever."""
        match = _MENTION.search(text) if self.form == "numbered" else None
        return match is not None and int(match[2]) > fold(self.text).count(fold(match[1]))

    def ending(self, text: str) -> Ending | None:
        """Return how the list ends that a text writes; see :meth:`odin_slm.tasks.grammar.Grammar.ending`."""
        section, blank, rest = text.partition("\n\n")
        header, written = (RELATIONS_HEADER, rest) if blank else (ENTITIES_HEADER, section)
        if self.end_bias is None or not written.startswith(f"{header}\n"):
            return None
        bias, (*items, last) = self.end_bias[bool(blank)], written.split("\n")[1:]
        if not last:  # at the beginning of a line; a relation that has begun goes on
            return Ending("\n" if items else NOTHING, bias) if not (items and blank) else None
        return Ending("" if blank else "\n\n", bias) if last != NOTHING else None

    @property
    def repeats(self) -> bool:
        """Whether outputs repeat their text."""
        return self.form == "inline"

    def likely(self, text: str) -> str:
        """Return the text that follows: most words begin and end no entity."""
        return tagged.rest(self.text, text) if self.repeats else ""

    def complete(self, text: str) -> str:
        """Return an output that the token budget cut off as a whole one: its complete lines and nothing after them."""
        whole = text[: text.rfind("\n") + 1]
        if self.form == "list":
            return render(parse(whole, self.types).extraction)
        section, _, rest = whole.partition("\n\n")  # the lines stay where they are, as their probabilities do
        heading = f"{RELATIONS_HEADER}\n"
        section, relations = section.rstrip("\n"), rest.removeprefix(heading).rstrip("\n")
        return f"{section}\n\n{heading}{relations or NOTHING}"

    def accepts(self, output: str) -> bool:
        """Tell whether an output, for example a record's gold, can be written under the grammar.

        A list is first written in the grammar's own form, which has to lose nothing of it.
        """
        if self.form != "list" and not output.startswith(tagged.HEADERS):
            listed = parse(output, self.types).extraction
            output = written(self.text, listed, self.form, self.types)
            found = parse(output, self.types).extraction
            if any(set(found.keys(kind)) != set(listed.keys(kind)) for kind in ("entity", "relation")):
                return False
        section, blank, relations = output.partition("\n\n")
        heading = f"{RELATIONS_HEADER}\n"
        if not blank or not relations.startswith(heading):
            return False
        entities = self._entities(section)
        return accepts(self.lark(), f"{section}\n\n{heading}") and accepts(self.relations(entities), relations)

    @property
    def judges(self) -> bool:
        """See :attr:`odin_slm.tasks.grammar.Grammar.judges`."""
        return self.judge is not None

    def alternatives(self, output: str) -> list[str]:
        """Return for every legal pair the output that lists it alone, or both answers of a model taught to judge."""
        weighed = pairs.questions if self.taught else pairs.outputs
        return weighed(self._entities(output), found) if (found := self.legal_pairs(output)) else []

    def judged(self, output: str, lines: Sequence[float | None], log_shares: Sequence[float]) -> Judgement:
        """See :meth:`odin_slm.tasks.grammar.Grammar.judged` and :func:`odin_slm.tasks.extraction.pairs.judged`."""
        found = self.legal_pairs(output)
        scores = pairs.answers(log_shares) if self.taught else pairs.scores(found, log_shares)
        weighed = tuple((pairs.line_of(pair), score) for pair, score in zip(found, scores, strict=True))
        judge = self.judge or pairs.Judge()
        return Judgement(*pairs.judged(output, lines, found, scores, judge, self.types), weighed)

    def legal_pairs(self, output: str) -> list[RelationTriple]:
        """Return the pairs of an output that are judged."""
        return pairs.candidates(self._triples(list(self._entities(output))))

    def _entities(self, output: str) -> tuple[Entity, ...]:
        return parse(output, self.types).extraction.entities

    def relations(self, entities: Iterable[Entity], written: str = "") -> str:
        """Return the second phase.

        Args:
            entities: The entities that the output lists.
            written: What is already written of the heading before the relations.
        """
        heading = f"{RELATIONS_HEADER}\n".removeprefix(written)
        start = f"start: {literal(heading)} relations\n" if heading else "start: relations\n"
        triples = list(self._triples(list(entities)))
        if not triples:
            return f"{start}relations: {literal(NOTHING)}\n"
        alternatives = " | ".join(
            f"({_any_of(map(escape, heads))} {literal(f' --[{relation}]--> ')} {_any_of(map(escape, tails))})"
            for heads, relation, tails in triples
        )
        return (
            f"{start}"
            f"relations: {literal(NOTHING)} | FIRST NEXT*\n"
            f"TRIPLE: {alternatives}\n"
            f"FIRST: {_NUMBER} TRIPLE\n"
            f'NEXT: "\\n" {_NUMBER} TRIPLE\n'
        )

    def _triples(self, entities: list[Entity]) -> Iterator[tuple[list[str], str, list[str]]]:
        """Yield (heads, relation, tails) so that each head goes with each tail."""
        of_type: dict[str, list[str]] = {}
        for entity in dict.fromkeys(entities):
            of_type.setdefault(entity.type, []).append(entity.text)
        for relation in self.schema.relations:
            for head_type, tail_type in sorted(self.types.legal[relation]):
                heads, tails = of_type.get(head_type, []), of_type.get(tail_type, [])
                if not set(map(fold, heads)) & set(map(fold, tails)):
                    if heads and tails:
                        yield heads, relation, tails
                    continue
                for head in heads:  # nothing is related to itself, whatever its types
                    others = [tail for tail in tails if fold(tail) != fold(head)]
                    if others:
                        yield [head], relation, others


def _in_circles(text: str) -> bool:
    """Tell whether the last whole line says what two lines before it have said.

    A greedy decoder that writes a line for the third time goes on to write it until the budget ends. Outputs are read
    as sets, so ending the list there loses nothing.
    """
    lines = [line.partition(". ")[2] for line in text.split("\n")[:-1]]
    return bool(lines) and lines.count(lines[-1]) >= _REPEATS and bool(lines[-1])


def _any_of(texts: Iterable[str]) -> str:
    return f"({' | '.join(literal(text) for text in texts)})"
