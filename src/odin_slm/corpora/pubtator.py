"""PubTator: the line format of BC5CDR and BioRED.

A document is ``PMID|t|title``, ``PMID|a|abstract``, then tab-separated lines: annotations
``PMID begin end mention type ids [parts]`` and relations ``PMID type id id [novelty]``; an empty line ends it. Offsets
count characters of ``title + " " + abstract``. Source: https://www.ncbi.nlm.nih.gov/research/pubtator3/api and the
READMEs of both corpora.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.parsed import DOWNLOAD_AGAIN, is_number, numbered_lines

_TEXT = re.compile(r"([^|\t]*)\|([ta])\|(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotated span with the corpus' own type and identifier field, and where it was read."""

    begin: int
    end: int
    text: str
    type: str
    identifiers: str
    where: str


@dataclass(frozen=True, slots=True)
class ConceptRelation:
    """A relation between two concept ids, in file order, and where it was read."""

    type: str
    first: str
    second: str
    where: str


@dataclass(frozen=True, slots=True)
class AnnotatedText:
    """One abstract as a file gives it.

    Attributes:
        pmid: PubMed id.
        text: ``title + " " + abstract``.
        where: ``file:line`` of its first line.
        annotations: Spans in file order, each verified to be verbatim.
        relations: Relations in file order.
    """

    pmid: str
    text: str
    where: str
    annotations: list[Annotation] = field(default_factory=list)
    relations: list[ConceptRelation] = field(default_factory=list)


def later_splits(
    names: Mapping[str, str], files: Mapping[str, str], read: Callable[[str, str], list[AnnotatedText]]
) -> tuple[list[tuple[AnnotatedText, str]], Counter[str]]:
    """Read the files of all splits, and keep an abstract that two of them share in the later one.

    Args:
        names: Split -> file name, in the order in which they win.
        files: File name -> text.
        read: Reads one file, from its name and text.

    Returns:
        Abstracts with their splits, and how many were found twice, by where.

    Raises:
        CorpusFormatError: A PMID occurs twice with different texts, so one of the two is mis-numbered.
    """
    found: dict[str, tuple[AnnotatedText, str]] = {}
    duplicates: Counter[str] = Counter()
    for split, name in names.items():
        for item in read(name, files[name]):
            if item.pmid in found:
                earlier, earlier_split = found.pop(item.pmid)
                if earlier.text != item.text:
                    raise CorpusFormatError(
                        f"found PMID {item.pmid} again with another text; expected the text at {earlier.where}.",
                        where=item.where,
                        fix=DOWNLOAD_AGAIN,
                    )
                duplicates[f"in {earlier_split} and {split}, kept in {split}"] += 1
            found[item.pmid] = (item, split)
    return list(found.values()), duplicates


def read(name: str, text: str) -> list[AnnotatedText]:
    """Read a PubTator file.

    Raises:
        CorpusFormatError: A line breaks the format, with ``file:line``.
    """
    documents = [_document(name, block) for block in _blocks(name, text)]
    if not documents:
        raise CorpusFormatError(
            "found no documents; expected 'PMID|t|title' lines.", where=f"{name}:1", fix=DOWNLOAD_AGAIN
        )
    return documents


def checked_annotation(text: str, annotation: Annotation) -> Annotation:
    """Return the annotation if its offsets give its text.

    Raises:
        CorpusFormatError: The offsets leave the document, or stand at another text.
    """
    found = text[annotation.begin : annotation.end]
    if not 0 <= annotation.begin < annotation.end <= len(text) or found != annotation.text or not found.strip():
        raise CorpusFormatError(
            f"characters {annotation.begin}-{annotation.end} of the document ({len(text)} characters) are "
            f"{found[:60]!r}; expected the mention {annotation.text[:60]!r}.",
            where=annotation.where,
            fix=DOWNLOAD_AGAIN,
        )
    return annotation


def _blocks(name: str, text: str) -> Iterator[list[tuple[int, str]]]:
    """Cut a file into documents: at empty lines, and before every title."""
    block: list[tuple[int, str]] = []
    for number, line in numbered_lines(name, text):
        match = _TEXT.fullmatch(line)
        if block and (not line.strip() or (match and match[2] == "t")):
            yield block
            block = []
        if line.strip():
            block.append((number, line))
    if block:
        yield block


def _document(name: str, block: list[tuple[int, str]]) -> AnnotatedText:
    first = block[0][0]
    pmid, title = _text_line(name, block, 0, "t")
    abstract_pmid, abstract = _text_line(name, block, 1, "a")
    document = AnnotatedText(pmid, f"{title} {abstract}", f"{name}:{first}")
    if abstract_pmid != pmid:
        raise _other_pmid(f"{name}:{block[1][0]}", abstract_pmid, pmid)
    for number, line in block[2:]:
        where = f"{name}:{number}"
        fields = line.split("\t")
        if len(fields) < 4:
            raise CorpusFormatError(
                f"found {len(fields)} tab-separated fields in {line[:60]!r}; expected an annotation (6 or 7) or a "
                "relation (4 or 5).",
                where=where,
                fix=DOWNLOAD_AGAIN,
            )
        if fields[0] != pmid:
            raise _other_pmid(where, fields[0], pmid)
        if is_number(fields[1]):
            document.annotations.append(checked_annotation(document.text, _annotation(fields, where)))
        else:
            document.relations.append(_relation(fields, where))
    return document


def _text_line(name: str, block: list[tuple[int, str]], position: int, kind: str) -> tuple[str, str]:
    number, line = block[min(position, len(block) - 1)]
    match = _TEXT.fullmatch(line)
    if position >= len(block) or not match or match[2] != kind or not is_number(match[1]):
        expected = "PMID|t|title" if kind == "t" else "PMID|a|abstract after the title"
        raise CorpusFormatError(
            f"found {line[:60]!r}; expected '{expected}'.", where=f"{name}:{number}", fix=DOWNLOAD_AGAIN
        )
    return match[1], match[3]


def _annotation(fields: list[str], where: str) -> Annotation:
    # Five fields: some tools drop the tab before an empty identifier.
    if not 5 <= len(fields) <= 7 or not is_number(fields[2]):
        raise CorpusFormatError(
            f"found {len(fields)} fields, end {fields[2][:20]!r}; expected PMID, begin, end, mention, type, ids and "
            "perhaps the parts of a composite mention.",
            where=where,
            fix=DOWNLOAD_AGAIN,
        )
    identifiers = fields[5] if len(fields) > 5 else ""
    return Annotation(int(fields[1]), int(fields[2]), fields[3], fields[4], identifiers, where)


def _relation(fields: list[str], where: str) -> ConceptRelation:
    if len(fields) > 5 or not all(fields[1:4]):
        raise CorpusFormatError(
            f"found {len(fields)} fields, second {fields[1][:20]!r}; expected a relation (PMID, type, id, id, perhaps "
            "novelty) or an annotation whose second field is a number.",
            where=where,
            fix=DOWNLOAD_AGAIN,
        )
    return ConceptRelation(fields[1], fields[2], fields[3], where)


def _other_pmid(where: str, found: str, expected: str) -> CorpusFormatError:
    return CorpusFormatError(
        f"found PMID {found[:40]!r} within document {expected}; expected the same PMID up to an empty line.",
        where=where,
        fix=DOWNLOAD_AGAIN,
    )
