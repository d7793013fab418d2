"""BioC JSON, as BioRED publishes it: passages with annotations, and relations between concept ids.

Source: Comeau et al. 2013, "BioC: a minimalist approach to interoperability for biomedical text processing", and the
BioRED README. Read to the same values as PubTator.
"""

from __future__ import annotations

import json
from typing import Any

from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.parsed import DOWNLOAD_AGAIN, is_number, numbered_lines, require_unicode
from odin_slm.corpora.pubtator import AnnotatedText, Annotation, ConceptRelation, checked_annotation


def read(name: str, text: str) -> list[AnnotatedText]:
    """Read a BioC JSON file.

    Raises:
        CorpusFormatError: The file is no BioC JSON. ``where`` is ``file:line`` of the broken JSON, or of the document
            that breaks the format (public copies hold a whole collection on one line, so the text names the
            document's id as well).
    """
    for _ in numbered_lines(name, text):
        pass  # Refuses lone surrogates with their line before json can pass them on.
    try:
        collection = json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise CorpusFormatError(
            f"no JSON ({error.msg}, column {error.colno}); expected a BioC collection.",
            where=f"{name}:{error.lineno}",
            fix=DOWNLOAD_AGAIN,
        ) from None
    except (ValueError, RecursionError) as error:
        raise CorpusFormatError(
            f"no usable JSON ({type(error).__name__}); expected a BioC collection.",
            where=f"{name}:1",
            fix=DOWNLOAD_AGAIN,
        ) from None
    reader = _Reader(name, text)
    documents = [reader.document(value) for value in reader.items(collection, "documents", "the collection")]
    if not documents:
        raise CorpusFormatError("found no documents; expected some.", where=f"{name}:1", fix=DOWNLOAD_AGAIN)
    return documents


class _Reader:
    """Takes values out of decoded JSON and knows, for errors, which document it is in."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._pmid = ""
        self._position = 0
        self._line = 1

    def document(self, value: Any) -> AnnotatedText:
        self._pmid = ""
        pmid = self.string(value, "id", "a document")
        if not is_number(pmid):
            raise self.error(f"found document id {pmid[:40]!r}; expected a PMID")
        self._pmid = pmid
        self._advance()
        text = ""
        annotations = []
        for number, passage in enumerate(self.items(value, "passages", "the document")):
            offset = self.number(passage, "offset", f"passage {number}")
            expected = len(text) + 1 if number else 0
            if offset != expected:
                raise self.error(f"found passage {number} at offset {offset}; expected {expected}")
            text += (" " if number else "") + self.string(passage, "text", f"passage {number}")
            annotations += [self.annotation(a) for a in self.items(passage, "annotations", f"passage {number}")]
        relations = [self.relation(relation) for relation in self.items(value, "relations", "the document")]
        return AnnotatedText(
            pmid, text, self._where(), [checked_annotation(text, annotation) for annotation in annotations], relations
        )

    def annotation(self, value: Any) -> Annotation:
        label = f"annotation {str(value.get('id'))[:20] if isinstance(value, dict) else ''}".rstrip()
        infons = self.mapping(value, "infons", label)
        locations = self.items(value, "locations", label)
        if len(locations) != 1:
            raise self.error(f"found {len(locations)} locations of {label}; expected 1")
        begin = self.number(locations[0], "offset", label)
        end = begin + self.number(locations[0], "length", label)
        identifiers = self.string(infons, "identifier", label) if "identifier" in infons else ""
        surface, kind = self.string(value, "text", label), self.string(infons, "type", label)
        return Annotation(begin, end, surface, kind, identifiers, f"{self._where()}, document {self._pmid}, {label}")

    def relation(self, value: Any) -> ConceptRelation:
        label = f"relation {str(value.get('id'))[:20] if isinstance(value, dict) else ''}".rstrip()
        infons = self.mapping(value, "infons", label)
        kind, first, second = (self.string(infons, key, label) for key in ("type", "entity1", "entity2"))
        return ConceptRelation(kind, first, second, f"{self._where()}, document {self._pmid}, {label}")

    def items(self, value: Any, key: str, label: str) -> list[Any]:
        found = self._get(value, key, label)
        if not isinstance(found, list):
            raise self.error(f"found {type(found).__name__} under '{key}' of {label}; expected a list")
        return found

    def mapping(self, value: Any, key: str, label: str) -> dict[str, Any]:
        found = self._get(value, key, label)
        if not isinstance(found, dict):
            raise self.error(f"found {type(found).__name__} under '{key}' of {label}; expected an object")
        return found

    def string(self, value: Any, key: str, label: str) -> str:
        found = self._get(value, key, label)
        if not isinstance(found, str):
            raise self.error(f"found {type(found).__name__} under '{key}' of {label}; expected a string")
        require_unicode(found, self._where())
        return found

    def number(self, value: Any, key: str, label: str) -> int:
        found = self._get(value, key, label)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 10**9:
            raise self.error(f"found {str(found)[:20]!r} under '{key}' of {label}; expected a number of characters")
        return found

    def _get(self, value: Any, key: str, label: str) -> Any:
        if not isinstance(value, dict):
            raise self.error(f"{label} is {type(value).__name__}; expected an object")
        if key not in value:
            raise self.error(f"{label} has no '{key}'")
        return value[key]

    def _where(self) -> str:
        return f"{self._name}:{self._line}"

    def error(self, what: str) -> CorpusFormatError:
        document = f"document {self._pmid}: " if self._pmid else ""
        return CorpusFormatError(f"{document}{what}.", where=self._where(), fix=DOWNLOAD_AGAIN)

    def _advance(self) -> None:
        """Move to the current document, so that errors can say its line; a collection is read in one pass."""
        position = self._text.find(f'"{self._pmid}"', self._position)
        if position >= 0:
            self._line += self._text.count("\n", self._position, position)
            self._position = position
