"""BioC in XML and in JSON: passages, perhaps in sentences, with annotations, and relations between these or concepts.

Source: Comeau et al. 2013, "BioC: a minimalist approach to interoperability for biomedical text processing", and its
DTD. Both forms hold the same; XML becomes what JSON is. A relation names annotations (``node``), or concepts: BioRED in
the infons ``entity1`` and ``entity2``, PubTator 3 (https://www.ncbi.nlm.nih.gov/research/pubtator3/api) in ``role1``
and ``role2``, beside a node that names no annotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.bioc import label_of
from odin_slm.corpora.faults import CUT_OFF, Faults
from odin_slm.corpora.json_values import JsonValues, Placed, kind_of, placed
from odin_slm.corpora.own.block import OwnCorpus
from odin_slm.corpora.own.given import GivenMention, GivenRelation, GivenText, fault, ids_of
from odin_slm.corpora.own.offsets import units
from odin_slm.corpora.parsed import is_number, numbered_lines
from odin_slm.corpora.pubtator import NO_PLACE

_HEADS = ("head", "arg1", "source", "subject", "entity1", "chemical")
"""Roles of the argument that goes first."""
_CONCEPTS = (("entity1", "entity2"), ("role1", "role2"))
"""Infons that name a relation's concepts."""
_LINE = "\tline"


def read_json(files: Mapping[str, str], block: OwnCorpus, faults: Faults) -> Iterator[GivenText]:
    """Read a folder of BioC JSON; see :data:`odin_slm.corpora.own.READERS`."""
    for name in sorted(files):
        for _ in numbered_lines(name, files[name], faults):
            pass  # refuses lone surrogates
        with faults.collected():
            value = placed(name, files[name], "a BioC collection")
            if isinstance(value, dict) and "passages" in value:
                value = Placed(documents=[value])
            elif isinstance(value, dict) and "PubTator3" in value:
                value = Placed(documents=value["PubTator3"])
            yield from _Reader(name, faults).texts(value)


def read_xml(files: Mapping[str, str], block: OwnCorpus, faults: Faults) -> Iterator[GivenText]:
    """Read a folder of BioC XML; see :data:`odin_slm.corpora.own.READERS`."""
    for name in sorted(files):
        with faults.collected():
            yield from _Reader(name, faults).texts(_from_xml(name, files[name]))


def _from_xml(name: str, text: str) -> Placed:
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    class Lined(DefusedXMLParser):
        """Says of each element where it begins."""

        def _start(self, tag: str, attributes: list[str]) -> Element:
            element: Element = super()._start(tag, attributes)
            element.set(_LINE, str(self.parser.CurrentLineNumber))
            return element

    try:
        parser = Lined(target=TreeBuilder())
        parser.feed(text.removeprefix("\ufeff"))
        root = parser.close()
    except ParseError as error:
        line, column = error.position
        fix = CUT_OFF if "no element found" in str(error) else "Mend the XML there."
        raise CorpusFormatError(
            f"no XML ({str(error).partition(':')[0]}, column {column + 1}); expected a BioC collection.",
            where=f"{name}:{line}",
            fix=fix,
        ) from None
    except DefusedXmlException as error:
        raise fault(f"found {type(error).__name__}; expected no definitions of entities", f"{name}:1") from None
    except (ValueError, LookupError) as error:
        raise fault(f"no usable XML ({type(error).__name__}); expected a BioC collection", f"{name}:1") from None
    if root.tag != "collection":
        raise fault(f"found <{root.tag[:40]}>; expected a BioC <collection>", f"{name}:{root.get(_LINE)}")
    return _node(root, documents=[_document(one) for one in root.iterfind("document")])


def _document(element: Element) -> Placed:
    return _node(
        element,
        id=element.findtext("id") or "",
        passages=[_passage(one) for one in element.iterfind("passage")],
        relations=[_relation(one) for one in element.iterfind("relation")],
    )


def _passage(element: Element) -> Placed:
    """Return a passage, or a sentence, which holds the same."""
    return _node(
        element,
        offset=_number(element.findtext("offset")),
        text=element.findtext("text"),
        sentences=[_passage(one) for one in element.iterfind("sentence")] if element.tag == "passage" else [],
        annotations=[_annotation(one) for one in element.iterfind("annotation")],
        relations=[_relation(one) for one in element.iterfind("relation")],
    )


def _annotation(element: Element) -> Placed:
    places = [{key: _number(one.get(key)) for key in ("offset", "length")} for one in element.iterfind("location")]
    return _node(element, id=element.get("id"), text=element.findtext("text"), locations=places)


def _relation(element: Element) -> Placed:
    nodes = [{"refid": one.get("refid"), "role": one.get("role")} for one in element.iterfind("node")]
    return _node(element, id=element.get("id"), nodes=nodes)


def _node(element: Element, **values: Any) -> Placed:
    infons = {one.get("key", ""): one.text or "" for one in element.iterfind("infon")}
    node = Placed(infons=infons, **values)
    node.line = int(element.get(_LINE, "1"))
    return node


def _number(text: str | None) -> int | str | None:
    stripped = (text or "").strip()
    return int(stripped) if is_number(stripped) else text


class _Reader(JsonValues):
    """Makes given texts of a collection."""

    def __init__(self, name: str, faults: Faults) -> None:
        super().__init__(f"{name}:1")
        self._name = name
        self._faults = faults

    def texts(self, collection: Any) -> Iterator[GivenText]:
        self._at(collection)
        for value in self.items(collection, "documents", "the collection"):
            with self._faults.collected("document"):
                yield self._text(value)

    def _at(self, value: Any) -> None:
        self.where = f"{self._name}:{getattr(value, 'line', 1)}"

    def _text(self, value: Any) -> GivenText:
        self._at(value)
        self.about = ""
        identifier = self.get(value, "id", "a document")
        if not isinstance(identifier, str | int) or not f"{identifier}".strip():
            raise self.error(f"found the document id {str(identifier)[:40]!r}; expected one")
        self.about = f"document {str(identifier)[:40]}: "
        text = GivenText(f"{identifier}", "", self._name, self.where)
        parts = [part for passage in self.items(value, "passages", "the document") for part in self._parts(passage)]
        shifts = self._joined(text, parts)
        relations = self.perhaps(value, "relations", "the document") + [
            r for p in parts for r in self.perhaps(p, "relations", "a passage")
        ]
        for part, shift in zip(parts, shifts, strict=True):
            for annotation in part.get("annotations") or []:
                with self._faults.collected("mention"):
                    self._annotation(text, annotation, shift)
        text.absent.update(f"{r['id']}" for r in relations if isinstance(r, dict) and r.get("id"))
        text.absent -= {mention.key for mention in text.mentions}
        for relation in relations:
            with self._faults.collected("relation"):
                self._relation(text, relation)
        return text

    def _parts(self, passage: Any) -> list[dict[str, Any]]:
        """Return a passage, or its sentences where these hold the text."""
        self._at(passage)
        sentences = passage.get("sentences") if isinstance(passage, dict) else None
        if not sentences:
            self.get(passage, "text", "a passage")
            return [passage]
        self.items(passage, "sentences", "a passage")
        if passage.get("text"):
            inner = [one for one in sentences if isinstance(one, dict)]
            gathered = {
                key: [v for p in (passage, *inner) for v in self.perhaps(p, key, "a passage")]
                for key in ("annotations", "relations")
            }
            return [passage | gathered]
        rest = {"text": "", "offset": passage.get("offset"), "annotations": [], "relations": passage.get("relations")}
        return [*sentences, rest] if passage.get("relations") else sentences

    def _joined(self, text: GivenText, parts: list[dict[str, Any]]) -> list[int]:
        """Join the parts by a space; return what is added to the offsets of each one.

        Parts may leave out any number of characters between them. What they count is what makes the gaps equal.
        """
        offsets, texts = [], []
        for part in parts:
            self._at(part)
            offsets.append(self.number(part, "offset", "a passage"))
            texts.append(self.string(part, "text", "a passage") if part.get("text") is not None else "")
            for key in ("annotations", "relations"):
                if not isinstance(part.get(key) or [], list):
                    raise self.error(f"found {kind_of(part[key])} under '{key}' of a passage; expected a list")
        unit = _unit(offsets, texts)
        shifts = []
        for offset, piece in zip(offsets, texts, strict=True):
            text.text += " " if text.text and piece else ""
            shifts.append(units(text.text, unit) - offset)
            text.text += piece
        return shifts

    def _annotation(self, text: GivenText, value: Any, shift: int) -> None:
        self._at(value)
        label = label_of("annotation", value)
        infons = self.mapping(value, "infons", label)
        surface = None if value.get("text") is None else self.string(value, "text", label)
        key = "" if value.get("id") is None else f"{value['id']}"
        concepts = ids_of("" if infons.get("identifier") is None else f"{infons['identifier']}")
        spans = []
        for place in self.items(value, "locations", label):
            begin = self.number(place, "offset", label) + shift
            spans.append((begin, begin + self.number(place, "length", label)))
        if not spans:
            text.dropped[NO_PLACE] += 1
            text.absent.update((key, *concepts))
            return
        kind = self.string(infons, "type", label)
        pieces = tuple(spans) if len(spans) > 1 else ()
        text.mentions.append(GivenMention(key, *spans[0], kind, surface, self.where, concepts, pieces))

    def _relation(self, text: GivenText, value: Any) -> None:
        self._at(value)
        label = label_of("relation", value)
        infons = self.mapping(value, "infons", label)
        kind = self.string(infons, "type", label)
        for keys in _CONCEPTS:
            if infons.keys() & keys:
                first, second = (self._concept(infons, key, label) for key in keys)
                text.relations.append(GivenRelation(kind, first, second, self.where, True))
                return
        nodes = self.items(value, "nodes", label)
        ends = [f"{self.get(node, 'refid', label)}" for node in nodes]
        if len(ends) != 2:
            text.dropped["relation: of other than two mentions"] += 1
            return
        if f"{nodes[1].get('role')}".casefold() in _HEADS and f"{nodes[0].get('role')}".casefold() not in _HEADS:
            ends.reverse()
        text.relations.append(GivenRelation(kind, ends[0], ends[1], self.where))

    def _concept(self, infons: Mapping[str, Any], key: str, label: str) -> str:
        """Return a relation's concept: an id, or that in what PubTator 3 says of one (``Chemical|MESH:D1`` as text)."""
        if isinstance(infons.get(key), dict):
            return self.string(infons[key], "identifier", label)
        return self.string(infons, key, label).rpartition("|")[2]


def _unit(offsets: list[int], texts: list[str]) -> str:
    """Return what parts count: that by which one character lies between any two of them, or else equally many."""
    gaps = {}
    for unit in ("characters", "utf-16", "bytes"):
        ends = [offset + units(text, unit) for offset, text in zip(offsets, texts, strict=True)]
        gaps[unit] = {begin - end for end, begin in zip(ends, offsets[1:], strict=False)}
    regular = [unit for unit, found in gaps.items() if found <= {1}]
    equal = [unit for unit, found in gaps.items() if len(found) == 1 and min(found) >= 0]
    return (regular or equal or ["characters"])[0]
