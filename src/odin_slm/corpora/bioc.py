"""BioC JSON, as BioRED publishes it: passages with annotations, and relations between concept ids.

Source: Comeau et al. 2013, "BioC: a minimalist approach to interoperability for biomedical text processing", and the
BioRED README. Read to the same values as PubTator.

An annotation may have no location (it speaks of the whole document), or several (a mention in pieces, as the first and
the last word of "renal and hepatic failure"). A :class:`~odin_slm.core.document.Mention` is one span, so these are
dropped and counted; pieces with nothing but space between them are one span.
"""

from __future__ import annotations

from typing import Any

from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.faults import CUT_OFF, Faults
from odin_slm.corpora.json_values import JsonValues, decoded
from odin_slm.corpora.parsed import is_number, numbered_lines
from odin_slm.corpora.pubtator import IN_PIECES, NO_PLACE, AnnotatedText, Annotation, ConceptRelation


def read(name: str, text: str, faults: Faults) -> list[AnnotatedText]:
    """Read a BioC JSON file.

    Args:
        name: Name of the file.
        text: Its text.
        faults: Takes what is wrong with it. The place is ``file:line`` of the broken JSON, or of the document that
            breaks the format (public copies hold a whole collection on one line, so the text names the document's id
            as well).
    """
    for _ in numbered_lines(name, text, faults):
        pass  # Refuses lone surrogates with their line before json can pass them on.
    documents = []
    with faults.collected():
        reader = _Reader(name, text, faults)
        for value in reader.items(decoded(name, text, "a BioC collection"), "documents", "the collection"):
            with faults.collected():
                documents.append(reader.document(value))
        if not reader.seen:
            raise CorpusFormatError("found no documents; expected some.", where=f"{name}:1", fix=CUT_OFF)
    return documents


class _Reader(JsonValues):
    """Takes values out of decoded JSON and knows, for errors, which document it is in."""

    def __init__(self, name: str, text: str, faults: Faults) -> None:
        super().__init__(f"{name}:1")
        self.seen = 0
        self._name = name
        self._text = text
        self._faults = faults
        self._pmid = self.about = ""
        self._position = 0
        self._line = 1

    def document(self, value: Any) -> AnnotatedText:
        self.seen += 1
        self._pmid = self.about = ""
        pmid = self.string(value, "id", "a document")
        if not is_number(pmid):
            raise self.error(f"found document id {pmid[:40]!r}; expected a PMID")
        self._pmid, self.about = pmid, f"document {pmid}: "
        self._advance()
        text = ""
        annotations = []
        for number, passage in enumerate(self.items(value, "passages", "the document")):
            offset = self.number(passage, "offset", f"passage {number}")
            expected = len(text) + 1 if number else 0
            if offset != expected:
                raise self.error(f"found passage {number} at offset {offset}; expected {expected}")
            text += (" " if number else "") + self.string(passage, "text", f"passage {number}")
            annotations += self.items(passage, "annotations", f"passage {number}")
        document = AnnotatedText(pmid, text, self.where)
        for annotation in annotations:
            with self._faults.collected():
                self._annotate(document, annotation)
        for relation in self.items(value, "relations", "the document"):
            with self._faults.collected():
                document.relations.append(self.relation(relation))
        return document

    def _annotate(self, document: AnnotatedText, value: Any) -> None:
        label = label_of("annotation", value)
        infons = self.mapping(value, "infons", label)
        spans = []
        for location in self.items(value, "locations", label):
            begin = self.number(location, "offset", label)
            spans.append((begin, begin + self.number(location, "length", label)))
        identifiers = "" if infons.get("identifier") is None else self.string(infons, "identifier", label)
        surface, kind = self.string(value, "text", label), self.string(infons, "type", label)
        where = f"{self.where}, document {self._pmid}, {label}"
        if len(spans) == 1:
            document.annotate(Annotation(*spans[0], surface, kind, identifiers, where))
            return
        begin, end, whole = joined(document.text, spans)
        if end > len(document.text):
            raise self.error(f"{label} reaches to {end}; expected at most {len(document.text)}, the end of the text")
        if whole:
            document.annotate(Annotation(begin, end, surface, kind, identifiers, where))
        else:
            document.dropped[IN_PIECES if spans else NO_PLACE] += 1

    def relation(self, value: Any) -> ConceptRelation:
        label = label_of("relation", value)
        infons = self.mapping(value, "infons", label)
        kind, first, second = (self.string(infons, key, label) for key in ("type", "entity1", "entity2"))
        return ConceptRelation(kind, first, second, f"{self.where}, document {self._pmid}, {label}")

    def _advance(self) -> None:
        """Move to the current document, so that errors can say its line; a collection is read in one pass."""
        position = self._text.find(f'"{self._pmid}"', self._position)
        if position < 0:  # an id that is written otherwise; the lines of those behind it are not looked for
            self._position = len(self._text)
            return
        self._line += self._text.count("\n", self._position, position)
        self._position = position
        self.where = f"{self._name}:{self._line}"


def label_of(what: str, value: Any) -> str:
    """Return what messages call a value of a document: its kind and its id."""
    return f"{what} {str(value.get('id'))[:20] if isinstance(value, dict) else ''}".rstrip()


def joined(text: str, spans: list[tuple[int, int]]) -> tuple[int, int, bool]:
    """Return the span over all pieces, and whether they are one: nothing but space stands between them."""
    if not spans:
        return 0, 0, False
    begin, end = min(spans)
    whole = True
    for piece_begin, piece_end in sorted(spans):
        whole = whole and not text[end:piece_begin].strip()
        end = max(end, piece_end)
    return begin, end, whole
