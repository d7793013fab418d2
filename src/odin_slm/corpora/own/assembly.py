"""From annotated texts to documents: offsets, types, relations, ids and splits, with every fault."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from odin_slm.core.document import Document, Mention, Relation, surface_concept
from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.bioc import joined
from odin_slm.corpora.faults import Faults
from odin_slm.corpora.own.block import OwnCorpus, split_named
from odin_slm.corpora.own.given import SEPARATORS, GivenMention, GivenRelation, GivenText, fault
from odin_slm.corpora.own.offsets import Choice, Places, choose, single_spaced
from odin_slm.corpora.parsed import corpus_report, require_unicode
from odin_slm.corpora.pubtator import IN_PIECES, NO_CHARACTERS, AnnotatedText, Annotation

_PMID_FORMATS = ("pubtator", "bioc_xml", "bioc_json")
"""Formats whose documents may be named by their PubMed ids."""
_PMID = re.compile(r"[1-9]\d{4,7}")
"""What is taken for one: a shorter number rather counts the documents of a file."""
_WITHOUT_OFFSETS = ("iob", "records")
FAULT = "fault, "
"""Prefix of a reason in the parse report: left out because of a fault."""
_LOST = "relation: with a mention that was dropped"


@dataclass
class Assembled:
    """What a corpus holds.

    Attributes:
        documents: Its documents.
        choice: The unit of its offsets.
        dropped: Number of things left out, by reason; without those left out for faults.
        normalised: Mentions that the file spells differently from the text, or with space at their ends.
        signatures: Relation, head type and tail type, with their number.
        overlaps: ``file:line`` of mentions that begin within another one.
        pieces: ``file:line`` of mentions in several pieces.
    """

    documents: list[Document] = field(default_factory=list)
    choice: Choice | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    normalised: int = 0
    signatures: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    overlaps: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    def report(self, name: str, block: OwnCorpus, faults: Faults, digests: Mapping[str, str]) -> dict[str, Any]:
        """Return the parse report, with the unit of the ``offsets``, and all that was ``dropped``, faults included."""
        lost = {f"{FAULT}{kind}": count for kind, count in faults.dropped.items()}
        schema = block.annotates if block.entities is not None else None
        report = corpus_report(
            name,
            self.documents,
            dropped={**self.dropped, **lost},
            duplicates={},
            inputs={},
            schema=schema,
            normalised=self.normalised,
        )
        return {**report, "offsets": str(self.choice.reading if self.choice else ""), "inputs": dict(digests)}


def assemble(name: str, block: OwnCorpus, texts: Sequence[GivenText], faults: Faults) -> Assembled:
    """Make documents of the texts that a reader yields.

    Args:
        name: Name of the corpus.
        block: Its configuration.
        texts: Texts and annotations, as read from its files.
        faults: Collects what is wrong with them.
    """
    found = Assembled(choice=choose(texts, "characters" if block.format in _WITHOUT_OFFSETS else block.offsets))
    seen: dict[str, str] = {}
    for text in texts:
        found.dropped.update(text.dropped)
        if not text.counts:
            continue
        with faults.collected("document"):
            if text.id in seen:
                raise fault(f"found the document {text.id[:60]!r} again, which is at {seen[text.id]}", text.where)
            document = _Text(name, block, text, faults, found).document()
            seen[text.id] = text.where
            found.documents.append(document)
    found.dropped += Counter()  # without zeros
    return found


class _Text:
    """Makes a document of one text."""

    def __init__(self, name: str, block: OwnCorpus, given: GivenText, faults: Faults, found: Assembled) -> None:
        assert found.choice is not None
        self._name, self._block, self._given, self._faults, self._found = name, block, given, faults, found
        self._places = Places(given.text, found.choice.reading)
        self._by_key: dict[str, Mention | None] = dict.fromkeys(given.absent)  # None: it was dropped
        self._types: dict[str, set[str]] = defaultdict(set)  # of concepts
        self._lost = set(given.absent)  # concepts of mentions that were dropped

    def document(self) -> Document:
        given, text = self._given, self._places.text
        if not text.strip():
            raise fault("the document holds no text", given.where)
        require_unicode(text, given.where)
        require_unicode(given.id, given.where)
        pmid, split = self._pmid(), self._split()
        placed: dict[Mention, str] = {}
        for mention in given.mentions:
            made = self._mention(mention)
            repeated = bool(mention.key) and mention.key in self._by_key
            with self._faults.collected("mention: named as another one is"):
                if repeated:
                    raise fault(f"found {mention.key[:40]!r} again in one document", mention.where)
                self._by_key[mention.key or mention.where] = made
            if made is None or repeated:
                self._lost.update(mention.concepts)
            elif made in placed:
                self._found.dropped["mention: repeated"] += 1
            else:
                placed[made] = mention.where
                for concept in made.concepts:
                    self._types[concept].add(made.type)
        stated = [r for relation in given.relations for r in self._relations(relation)]
        relations = dict.fromkeys(stated)
        self._found.dropped["relation: repeated"] += len(stated) - len(relations)
        self._note_overlaps(placed)
        return Document(
            f"{self._name}-{given.id}", text, self._name, pmid, split, tuple(sorted(placed)), tuple(relations)
        )

    def _pmid(self) -> str:
        identifier, pattern = self._given.id.removeprefix(f"{self._given.file}#"), self._block.pmid
        if pattern is None:
            if self._block.format in _PMID_FORMATS and _PMID.fullmatch(identifier):
                return identifier
            return f"{self._name}-{self._given.group or self._given.id}"
        match = re.search(pattern, identifier)
        pmid = (match[1] if match.re.groups else match[0]) if match else ""
        if not pmid:
            raise fault(f"the id {identifier[:60]!r} holds no PubMed id as pmid finds it", self._given.where)
        return pmid

    def _split(self) -> str | None:
        split, given = self._block.split, self._given
        if split is None:
            return None
        if split.files is not None:
            splits = split.of_file(given.file)
            if len(splits) != 1:  # of two, neither may win: test documents would be trained on
                listed = " and of ".join(splits) or "no split"
                raise fault(f"the file is of {listed}", given.where, "Let one pattern of split.files have it.")
            return splits[0]
        found = split_named(given.split or "")
        if found is None:
            what = f"found the split {given.split[:40]!r}" if given.split else f"nothing is under {split.field!r}"
            raise fault(f"{what}; expected train, validation or test", given.where)
        return found

    def _mention(self, mention: GivenMention) -> Mention | None:
        known, kind = self._block.entities, None
        with self._faults.collected("mention: of a type that entities do not name"):
            if known is None or mention.type in known:
                kind = mention.type if known is None else known[mention.type]
            elif self._block.others == "stop":
                raise fault(
                    f"found the entity type {mention.type[:40]!r}, which entities do not name",
                    mention.where,
                    "Map it to a type, drop it (null), or drop all others (others: drop).",
                )
            if kind is None:
                self._found.dropped[f"mention: {mention.type}"] += 1
        if kind is None:
            return None
        with self._faults.collected("mention: with offsets that do not fit"):
            return self._placed(mention, kind)
        return None

    def _placed(self, mention: GivenMention, kind: str) -> Mention | None:
        text = self._places.text
        spans = [self._places.span(*piece) for piece in mention.pieces or ((mention.begin, mention.end),)]
        sound = [span for span in spans if span]
        if len(sound) < len(spans):
            if mention.begin == mention.end and not mention.pieces and not (mention.text or "").strip():
                self._found.dropped[NO_CHARACTERS] += 1
                return None
            raise fault(
                f"offsets {mention.begin}-{mention.end} lead to no characters of the text, which has {len(text)}",
                mention.where,
                self._advice("Mend the offsets."),
            )
        begin, end, whole = joined(text, sound)
        if not whole:
            self._found.dropped[IN_PIECES] += 1
            self._found.pieces.append(mention.where)
            return None
        found = text[begin:end]
        named = found if mention.text is None or single_spaced(mention.text) == single_spaced(found) else mention.text
        checked = AnnotatedText(self._given.id, text, self._given.where)
        try:
            checked.annotate(Annotation(begin, end, named, kind, "", mention.where))
        except CorpusFormatError as error:
            raise fault(error.what.removesuffix("."), error.where, self._advice(error.fix)) from None
        self._found.dropped.update(checked.dropped)
        if not checked.annotations:
            return None
        surface = found.strip()
        self._found.normalised += checked.normalised or surface != found
        begin += len(found) - len(found.lstrip())
        concepts = mention.concepts or (f"{surface_concept(surface)}|{kind}",)
        return Mention(begin, begin + len(surface), surface, kind, concepts)

    def _advice(self, fix: str) -> str:
        hint = self._found.choice.hint if self._found.choice else ""
        return f"{fix} {hint}." if hint else fix

    def _relations(self, relation: GivenRelation) -> list[Relation]:
        """Return a relation of the file as relations between concepts; several for a composite argument."""
        block, kind, reverse = self._block, relation.type, False
        with self._faults.collected("relation: of a type that relations do not name"):
            known = block.relations.get(relation.type)
            if known is None and (relation.type in block.relations or (block.entities and block.others == "drop")):
                self._found.dropped[f"relation: {relation.type}"] += 1
                return []
            if known is None and block.entities is not None:
                raise fault(
                    f"found the relation type {relation.type[:40]!r}, which relations do not name",
                    relation.where,
                    "Say what it relates, drop it (null), or drop all others (others: drop).",
                )
            if known is not None:
                kind, reverse = known.type or relation.type, known.reverse
            head, tail = (relation.tail, relation.head) if reverse else (relation.head, relation.tail)
            with self._faults.collected("relation: with an argument that is not there"):
                ends = [self._argument(relation, end) for end in (head, tail)]
                if not all(ends):
                    self._found.dropped[_LOST] += 1
                    return []
                with self._faults.collected("relation: of types that it does not relate"):
                    pairs = [self._pair(relation, kind, one, other) for one in ends[0] for other in ends[1]]
                    return [pair for pair in pairs if pair]
        return []

    def _argument(self, relation: GivenRelation, end: str) -> list[tuple[str, set[str]]]:
        """Return the concepts of an argument with their types; none where its mention was dropped."""
        if relation.of_concepts:
            parts = [end] if end in self._types or end in self._lost else SEPARATORS.split(end)
            if all(part in self._types for part in parts):
                return [(part, self._types[part]) for part in parts]
            if all(part in self._types or part in self._lost for part in parts):
                return []
        elif end in self._by_key:
            mention = self._by_key[end]
            return [(concept, {mention.type}) for concept in mention.concepts] if mention else []
        what = "concept" if relation.of_concepts else "mention"
        raise fault(f"{relation.type[:40]} relates the {what} {end[:60]!r}, which is not there", relation.where)

    def _pair(
        self, relation: GivenRelation, kind: str, head: tuple[str, set[str]], tail: tuple[str, set[str]]
    ) -> Relation | None:
        if head[0] == tail[0]:
            self._found.dropped["relation: of a concept to itself"] += 1
            return None
        pairs = {(one, other) for one in head[1] for other in tail[1]}
        legal = self._block.legal().get(kind) if self._block.entities is not None else pairs
        if relation.of_concepts and legal and not pairs & legal and {(two, one) for one, two in pairs} & legal:
            return self._pair(relation, kind, tail, head)  # BioRED and PubTator 3 name concepts in either order
        if not pairs & (legal or set()):
            found, may = (" or ".join(f"{a} to {b}" for a, b in sorted(some)) for some in (pairs, legal or set()))
            raise fault(
                f"{relation.type[:40]} relates {found}; expected {may}",
                relation.where,
                "Mend it, or let relations say that it may (head, tail, reverse).",
            )
        for one, other in sorted(pairs & (legal or set())):
            self._found.signatures[kind, one, other] += 1
        return Relation(kind, head[0], tail[0])

    def _note_overlaps(self, placed: Mapping[Mention, str]) -> None:
        reached = 0
        for mention in sorted(placed):
            if mention.begin < reached:
                self._found.overlaps.append(placed[mention])
            reached = max(reached, mention.end)
