"""A synthetic corpus in the style of each of the public ones: own names, own sentences, exact annotations.

It stands in for the public corpora where those may not be redistributed. A document tells one story about a small cast
of drugs and conditions, drawn from :mod:`odin_slm.corpora.synthetic.vocabulary`, in sentences of
:mod:`odin_slm.corpora.synthetic.templates`; the annotations follow the rules of the corpus whose style it has.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from odin_slm.core.document import SYNTHETIC_PMIDS, Document, Mention, Relation, surface_concept
from odin_slm.corpora.parsed import ParsedCorpus, corpus_report
from odin_slm.corpora.synthetic import templates, vocabulary
from odin_slm.corpora.synthetic.templates import Template
from odin_slm.tasks.extraction.schema import MEDICAL, SCHEMAS

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_PHRASE = re.compile(r"<(\w+)>")
_SLOT = re.compile(r"\{(\w)\}")
_DRUG_SLOTS = frozenset("de")

_UNCODED = 0.15
"""Share of bystanders without a concept id, as in the public corpora (``-1``)."""
_ABBREVIATED = 0.1
"""Share of coded drugs and conditions that have an abbreviation."""
_COMPOSITE = 0.03
"""Share of effects that are two concepts in one mention."""


def generate(count: int, seed: int, corpus: str | None = None) -> list[Document]:
    """Write synthetic documents.

    Args:
        count: How many.
        seed: Equal seeds give equal documents.
        corpus: Style, which is also the documents' source: ade, bc5cdr, biored or synthetic; None takes the four in
            turn.

    Returns:
        ``count`` documents without official split, with PMIDs in :data:`odin_slm.core.document.SYNTHETIC_PMIDS`. ADE
        documents are single sentences, up to three of one PMID, a third of them without an adverse event.
    """
    rng = random.Random(f"{seed}/{corpus}")
    number = int(hashlib.sha256(f"{seed}/{corpus}".encode()).hexdigest()[:8], 16)
    documents: list[Document] = []
    while len(documents) < count:
        style = corpus or tuple(_WRITERS)[number % len(_WRITERS)]
        pmid = str(SYNTHETIC_PMIDS[number % len(SYNTHETIC_PMIDS)])
        number += 1
        documents += _WRITERS[style](pmid, rng)
    return documents[:count]


def synthetic_corpus(count: int, seed: int) -> ParsedCorpus:
    """Write the synthetic corpus: documents in its own style, for training alone."""
    documents = [replace(document, split="train") for document in generate(count, seed, "synthetic")]
    report = corpus_report("synthetic", documents, dropped={}, duplicates={}, inputs={}, schema=MEDICAL.everything)
    return ParsedCorpus(documents, {**report, "seed": seed})


def clinical_note(rng: random.Random) -> Document:
    """Write one clinical note: the ``synthetic`` style without the stories that the styles of the corpora share."""
    draft = _Draft("synthetic", rng)
    _note(draft)
    return draft.document("synthetic-note", str(SYNTHETIC_PMIDS[0]))


@dataclass(frozen=True, slots=True)
class _Thing:
    """A drug or condition of a document's cast.

    Attributes:
        type: Entity type.
        name: Full surface.
        concepts: Concept ids.
        abbreviation: Second surface, or empty.
        inner: A drug whose name the surface begins with: "cisplatin nephrotoxicity".
    """

    type: str
    name: str
    concepts: tuple[str, ...]
    abbreviation: str = ""
    inner: _Thing | None = None


@dataclass(slots=True)
class _Draft:
    """A document being written."""

    style: str
    rng: random.Random
    text: str = ""
    separator: str = " "
    mentions: list[tuple[int, int, _Thing]] = field(default_factory=list)
    facts: dict[tuple[str, _Thing, _Thing], None] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    defined: set[str] = field(default_factory=set)

    def drug(self, *, stated: bool = True) -> _Thing:
        return self._coded("Drug", self._new(vocabulary.drug), stated)

    def condition(self, *, symptom: float = 0.5, stated: bool = True) -> _Thing:
        """Draw a condition: a symptom with this probability, otherwise a disease."""
        if stated and self.style in ("bc5cdr", "biored") and self.rng.random() < _COMPOSITE:
            surface, *parts = vocabulary.coordinated(self.rng)
            self.names.add(surface)
            return _Thing("Disease", surface, tuple(vocabulary.concept_id(part) for part in parts))
        is_symptom = self.rng.random() < symptom
        name = self._new(vocabulary.symptom if is_symptom else vocabulary.disease)
        kinds = {"ade": "Symptom", "synthetic": "Symptom" if is_symptom else "Disease"}
        return self._coded(kinds.get(self.style, "Disease"), name, stated)

    def say(self, pool: Sequence[Template], **cast: _Thing) -> None:
        """Add a sentence of a pool, its slots filled with the cast; bystanders are drawn where the cast has none."""
        fresh = [template for template in pool if template.text not in self.written] or pool
        template = self.rng.choice(fresh)
        self.written.add(template.text)
        text = _wording(template.text, self.rng)
        for slot in dict.fromkeys(_SLOT.findall(text)):
            if slot not in cast:
                cast[slot] = (
                    self.drug(stated=bool(template.facts))
                    if slot in _DRUG_SLOTS
                    else self.condition(stated=bool(template.facts))
                )
        self.text += self.separator if self.text else ""
        begin = len(self.text)
        for position, part in enumerate(_SLOT.split(text)):
            if position % 2:
                self._mention(cast[part], text, part)
            else:
                self.text += part
        self.text = self.text[:begin] + self.text[begin].upper() + self.text[begin + 1 :]
        self.facts |= {(relation, cast[head], cast[tail]): None for relation, head, tail in template.facts}

    def document(self, identifier: str, pmid: str) -> Document:
        """Annotate the text by the rules of the style."""
        relations: dict[Relation, None] = {}
        involved = set()
        for relation, head, tail in self.facts:
            if relation in SCHEMAS[self.style].relations:
                involved |= {head.name, tail.name}
                relations |= {Relation(relation, a, b): None for a in head.concepts for b in tail.concepts}
        mentions = sorted(
            Mention(begin, end, self.text[begin:end], thing.type, thing.concepts)
            for begin, end, thing in self.mentions
            # ADE marks nothing but adverse effects and the drugs that cause them.
            if self.style != "ade" or thing.name in involved
        )
        return Document(identifier, self.text, self.style, pmid, mentions=tuple(mentions), relations=tuple(relations))

    def _mention(self, thing: _Thing, text: str, slot: str) -> None:
        begin = len(self.text)
        if thing.inner:
            self.mentions.append((begin, begin + len(thing.inner.name), thing.inner))
        name = thing.abbreviation if thing.name in self.defined and self.rng.random() < 0.6 else thing.name
        self.text += name[0].upper() + name[1:] if self.text.endswith(". ") else name
        self.mentions.append((begin, len(self.text), thing))
        # An abbreviation is defined at a mention that stands free, never in "(X)-induced".
        # A title defines none.
        free = re.search(r"\{" + slot + r"\}(?=[ .])", text) and len(self.written) > 1
        if thing.abbreviation and thing.name not in self.defined and free:
            self.defined.add(thing.name)
            begin = len(self.text) + 2
            self.text += f" ({thing.abbreviation})"
            self.mentions.append((begin, begin + len(thing.abbreviation), thing))

    def _new(self, draw: Callable[[random.Random], str]) -> str:
        """Draw a name that is no part of another name of the document, nor the other way round."""
        while True:
            name = draw(self.rng)
            folded = name.casefold()
            if not any(folded in other.casefold() or other.casefold() in folded for other in self.names):
                self.names.add(name)
                return name

    def _coded(self, kind: str, name: str, stated: bool) -> _Thing:
        if self.style == "ade" or (not stated and self.rng.random() < _UNCODED):
            return _Thing(kind, name, (surface_concept(name),))
        short = ""
        if self.style != "synthetic" and self.rng.random() < _ABBREVIATED:
            short = vocabulary.abbreviation(name, self.rng)
            if short in self.names:
                short = ""
            else:
                self.names.add(short)
        return _Thing(kind, name, (vocabulary.concept_id(name),), short)


def _ade(pmid: str, rng: random.Random) -> list[Document]:
    """Write one to three sentences of a case report; a third have no adverse event."""
    documents = []
    number = {"ade": 0, "ade-neg": 0}
    for _ in range(rng.choice((1, 1, 2, 3))):
        draft = _Draft("ade", rng)
        draw = rng.random()
        prefix = "ade"
        if draw < 1 / 3:
            prefix = "ade-neg"
            draft.say(rng.choice(_WITHOUT_ADVERSE_EVENT))
        elif draw < 0.37:
            drug = draft.drug()
            name = f"{drug.name} {vocabulary.toxicity(rng)}"
            effect = _Thing("Symptom", name, (surface_concept(name),), inner=drug)
            draft.say(templates.OVERLAPPING, d=drug, c=effect)
        else:
            draft.say(rng.choice(_WITH_ADVERSE_EVENT), c=draft.condition(symptom=0.6), k=draft.condition(symptom=0.6))
            if rng.random() < 0.25:
                draft.text, draft.separator = draft.text.removesuffix("."), ""
                draft.say(_AFTERTHOUGHTS)
        number[prefix] += 1
        documents.append(draft.document(f"{prefix}-{pmid}-{number[prefix]}", pmid))
    return documents


_WITHOUT_ADVERSE_EVENT = (
    templates.TREATS,
    templates.TREATS_TITLE,
    templates.NEGATED,
    templates.BYSTANDERS,
    templates.BACKGROUND,
    templates.INTERACTS,
    templates.COMBINED,
)
_WITH_ADVERSE_EVENT = (
    *[templates.CAUSES] * 3,
    *[templates.CAUSES_TITLE] * 2,
    templates.CAUSES_TWO_EFFECTS,
    templates.CAUSES_TWO_DRUGS,
)
_AFTERTHOUGHTS = (
    Template(", while {d} [was tolerated|had no such effect|was continued]."),
    Template(", although {d} had been [taken for years|well tolerated]."),
    Template(", without signs of {c}."),
    Template(", and there was no {c}."),
)
"""Ends of ADE sentences that mention a drug or condition outside the adverse event."""


def _case_report(draft: _Draft) -> None:
    rng = draft.rng
    drug, effect = draft.drug(), draft.condition()
    draft.say(templates.CAUSES_TITLE, d=drug, c=effect)
    if rng.random() < 0.35:
        draft.say(templates.TREATS if rng.random() < 0.6 else templates.BACKGROUND, d=drug)
    if rng.random() < 0.2:
        draft.say(templates.CAUSES_TWO_EFFECTS, d=drug, c=effect, k=draft.condition())
    else:
        draft.say(templates.CAUSES, d=drug, c=effect)
    _deny(draft, drug)
    _maybe(draft, (0.1, templates.BYSTANDERS), (0.2, templates.FILLERS))


def _trial(draft: _Draft) -> None:
    rng = draft.rng
    drug, illness = draft.drug(), draft.condition(symptom=0.2)
    draft.say(templates.TREATS_TITLE, d=drug, c=illness)
    if rng.random() < 0.5:
        draft.say(templates.TREATS, d=drug, c=illness)
    if draft.style == "bc5cdr" or rng.random() < 0.3:
        draft.say(templates.CAUSES if rng.random() < 0.8 else templates.CAUSES_TWO_EFFECTS, d=drug)
    _deny(draft, drug)
    _maybe(draft, (0.1, templates.BYSTANDERS), (0.2, templates.FILLERS))


def _prevention(draft: _Draft) -> None:
    drug, culprit, effect = draft.drug(), draft.drug(), draft.condition()
    draft.say(templates.PREVENTS_TITLE, d=drug, e=culprit, c=effect)
    _maybe(draft, (0.1, templates.BACKGROUND))
    draft.say(templates.PREVENTS, d=drug, e=culprit, c=effect)
    _maybe(draft, (0.1, templates.BYSTANDERS), (0.2, templates.FILLERS))


def _interaction(draft: _Draft) -> None:
    drug, other = draft.drug(), draft.drug()
    draft.say(templates.INTERACTS_TITLE, d=drug, e=other)
    _maybe(draft, (0.3, templates.FILLERS))
    draft.say(templates.INTERACTS, d=drug, e=other)
    _maybe(draft, (0.1, templates.NEGATED))


def _association(draft: _Draft) -> None:
    drug, illness = draft.drug(), draft.condition(symptom=0.3)
    draft.say(templates.ASSOCIATED_TITLE, d=drug, c=illness)
    _maybe(draft, (0.3, templates.FILLERS))
    draft.say(templates.ASSOCIATED, d=drug, c=illness)
    _maybe(draft, (0.2, templates.COMBINED), (0.1, templates.NEGATED))


def _note(draft: _Draft) -> None:
    rng = draft.rng
    draft.separator = rng.choice((" ", "\n"))
    draft.say(templates.NOTE_OPENINGS, c=draft.condition(symptom=0.1))
    if rng.random() < 0.75:
        draft.say(templates.NOTE_EVENTS, c=draft.condition(symptom=0.75))
    for _ in range(rng.choice((1, 2, 2, 3))):
        draft.say(templates.NOTE_DETAILS)


def _deny(draft: _Draft, drug: _Thing) -> None:
    """Sometimes add that something did not happen; in half of the cases with the very drug that does other things."""
    if draft.rng.random() < 0.15:
        draft.say(templates.NEGATED, d=drug if draft.rng.random() < 0.5 else draft.drug(stated=False))


def _maybe(draft: _Draft, *chances: tuple[float, Sequence[Template]]) -> None:
    for probability, pool in chances:
        if draft.rng.random() < probability:
            draft.say(pool)


_STORIES = {
    "bc5cdr": (_case_report, _case_report, _case_report, _trial, _prevention, _prevention),
    "biored": (_case_report, _trial, _prevention, _interaction, _association),
    "synthetic": (_note, _note, _note, _case_report, _trial, _prevention, _interaction, _association),
}


def _abstract(style: str, pmid: str, rng: random.Random) -> list[Document]:
    draft = _Draft(style, rng)
    rng.choice(_STORIES[style])(draft)
    return [draft.document(f"{style}-{pmid}", pmid)]


def _wording(text: str, rng: random.Random) -> str:
    """Make every choice of a template and fill in its phrases; the slots stay."""
    while match := _CHOICE.search(text):
        text = text[: match.start()] + rng.choice(match[1].split("|")) + text[match.end() :]
    while match := _PHRASE.search(text):
        phrase = _phrase(match[1].lower(), rng)
        if match[1][0].isupper():
            phrase = phrase[0].upper() + phrase[1:]
        text = text[: match.start()] + phrase + text[match.end() :]
    return text


def _phrase(name: str, rng: random.Random) -> str:
    if name in templates.PHRASES:
        return rng.choice(templates.PHRASES[name])
    if name == "patient":
        age = rng.randint(2, 89)
        article = "an" if age in (8, 11, 18) or 80 <= age < 90 else "a"
        people = ("boy", "girl") if age < 16 else ("man", "woman", "patient")
        return f"{article} {age}-year-old {rng.choice(people)}"
    if name == "dose":
        return f"{rng.choice((2, 5, 10, 20, 25, 40, 50, 75, 100, 150, 200, 300, 400, 500))} {rng.choice(_DOSE_UNITS)}"
    return {
        "number": str(rng.randint(3, 240)),
        "day": str(rng.randint(3, 28)),
        "percent": f"{rng.randint(3, 85)}%",
        "ratio": f"{rng.randint(11, 59) / 10}",
        "year": str(rng.randint(1978, 2019)),
    }[name]


_DOSE_UNITS = ("mg", "mg daily", "mg/day", "mg twice daily", "mg/kg", "mg b.i.d.", "mcg")

_WRITERS: dict[str, Callable[[str, random.Random], list[Document]]] = {
    "ade": _ade,
    **{style: partial(_abstract, style) for style in _STORIES},
}
