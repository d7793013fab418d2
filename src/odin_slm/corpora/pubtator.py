"""PubTator: the line format of BC5CDR and BioRED.

A document is ``PMID|t|title``, ``PMID|a|abstract``, then tab-separated lines: annotations
``PMID begin end mention type ids [parts]`` and relations ``PMID type id id [novelty]``; an empty line ends it. Offsets
count characters of ``title + " " + abstract``. Source: https://www.ncbi.nlm.nih.gov/research/pubtator3/api and the
READMEs of both corpora.

The offsets say which characters are a mention. Tools that write these files may normalise the column of the mention
(``TNF-a`` for ``TNF-α``), so it only confirms them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from odin_slm.core.document import Document
from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.faults import CUT_OFF, MEND_LINE, Faults
from odin_slm.corpora.mention_names import LONGEST, is_whole_words, same_name, similar_name
from odin_slm.corpora.parsed import ParsedCorpus, corpus_report, is_number, numbered_lines, require_files
from odin_slm.tasks.extraction.schema import Schema

_TEXT = re.compile(r"([^|\t]*)\|([ta])\|(.*)", re.DOTALL)
IN_PIECES, NO_PLACE = "mention: in several pieces", "mention: without a place"
NO_CHARACTERS = "mention: of no characters"
"""Why an annotation is dropped: it marks no one span."""
_WORD = re.compile(r"\w+")
_NO_ABSTRACT = "Add the line of the abstract; without an abstract it is 'PMID|a|'."


class _Text(NamedTuple):
    """Title or abstract: the numbered line, and what it says."""

    line: tuple[int, str]
    pmid: str
    text: str


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


@dataclass(slots=True)
class AnnotatedText:
    """One abstract as a file gives it.

    Attributes:
        pmid: PubMed id.
        text: ``title + " " + abstract``.
        where: ``file:line`` of its first line.
        annotations: Spans in file order, each with the text at its offsets.
        relations: Relations in file order.
        normalised: How many of the annotations have another text in the file, and were kept by their offsets.
        dropped: Annotations that mark no one span, by reason.
        as_given: Whether annotations are taken over as the file gives them; who reads their offsets checks them.
    """

    pmid: str
    text: str
    where: str
    annotations: list[Annotation] = field(default_factory=list)
    relations: list[ConceptRelation] = field(default_factory=list)
    normalised: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    as_given: bool = False

    def annotate(self, annotation: Annotation) -> None:
        """Take an annotation over with the text at its offsets.

        Raises:
            CorpusFormatError: They leave the document, or stand at something else than its text.
        """
        if self.as_given:
            self.annotations.append(annotation)
            return
        found = self.text[annotation.begin : min(annotation.end, annotation.begin + len(annotation.text) + LONGEST)]
        if not found.strip() and not annotation.text.strip():
            self.dropped[NO_CHARACTERS] += 1
            return
        if found != annotation.text or len(found) != annotation.end - annotation.begin:
            if fault := _offset_fault(self.text, annotation):
                raise CorpusFormatError(fault[0], where=annotation.where, fix=fault[1])
            self.normalised += 1
            annotation = replace(annotation, text=found)
        self.annotations.append(annotation)


def later_splits(
    names: Mapping[str, str],
    files: Mapping[str, str],
    read: Callable[[str, str, Faults], list[AnnotatedText]],
    faults: Faults,
) -> tuple[list[tuple[AnnotatedText, str]], Counter[str]]:
    """Read the files of all splits, and keep an abstract that two of them share in the later one.

    Args:
        names: Split -> file name, in the order in which they win.
        files: File name -> text.
        read: Reads one file, from its name and text.
        faults: Takes what is wrong with the files, a PMID with two texts included: one of them is mis-numbered.

    Returns:
        Abstracts with their splits, and how many were found twice, by where.
    """
    found: dict[str, tuple[AnnotatedText, str]] = {}
    duplicates: Counter[str] = Counter()
    for split, name in names.items():
        for item in read(name, files[name], faults):
            if item.pmid in found:
                earlier, earlier_split = found.pop(item.pmid)
                with faults.collected():
                    if earlier.text != item.text:
                        raise CorpusFormatError(
                            f"found PMID {item.pmid} again with another text; expected the text at {earlier.where}.",
                            where=item.where,
                            fix="Number one of the two anew, or take it out.",
                        )
                duplicates[f"in {earlier_split} and {split}, kept in {split}"] += 1
            found[item.pmid] = (item, split)
    return list(found.values()), duplicates


def read(name: str, text: str, faults: Faults, *, as_given: bool = False) -> list[AnnotatedText]:
    """Read a PubTator file.

    Args:
        name: Name of the file.
        text: Its text.
        faults: Takes what is wrong with it, each fault with ``file:line``.
        as_given: Take any word for a PMID, and offsets unchecked.
    """
    blocks = list(_blocks(name, text, faults))
    with faults.collected():
        if not blocks:
            raise CorpusFormatError(
                "found no documents; expected 'PMID|t|title' lines.", where=f"{name}:1", fix=CUT_OFF
            )
    documents = []
    for block in blocks:
        with faults.collected("document"):
            documents.append(_document(name, block, faults, last=block is blocks[-1], as_given=as_given))
    return documents


def parse_splits(
    corpus: str,
    schema: Schema,
    names: Mapping[str, str],
    files: Mapping[str, str],
    read: Callable[[str, str, Faults], list[AnnotatedText]],
    document: Callable[[AnnotatedText, str, Counter[str], Faults], Document],
) -> ParsedCorpus:
    """Turn the files of all splits into one document per abstract.

    Args:
        corpus: Name of the corpus.
        schema: What it annotates.
        names: Split -> file name, in the order in which they win.
        files: File name -> text.
        read: Reads one file, from its name and text.
        document: Makes a document of an abstract and its split; counts what it drops, by reason.

    Raises:
        MissingInputError: A file was not given.
        CorpusFormatError: Files break their format, or one PMID has two texts; all places, with ``file:line``.
    """
    require_files(files, tuple(names.values()), corpus)
    faults, dropped = Faults(), Counter[str]()
    found, duplicates = later_splits(names, files, read, faults)
    for item, _ in found:
        dropped.update(item.dropped)
    documents = [document(item, split, dropped, faults) for item, split in found]
    faults.stop()
    report = corpus_report(
        corpus,
        documents,
        dropped=dropped,
        normalised=sum(item.normalised for item, _ in found),
        duplicates=duplicates,
        inputs={name: files[name] for name in names.values()},
        schema=schema,
    )
    return ParsedCorpus(documents, report)


def _offset_fault(text: str, annotation: Annotation) -> tuple[str, str] | None:
    """Return what speaks against the offsets of an annotation whose text is not there, and the way out."""
    begin, end, name = annotation.begin, annotation.end, annotation.text
    found = text[begin : min(end, begin + len(name) + LONGEST)]
    what = f"characters {begin}-{end} of the document ({len(text)} characters) are {found[:60]!r}; "
    what += f"expected the mention {name[:60]!r}"
    if not 0 <= begin < end <= len(text) or not found.strip() or len(found) < end - begin:
        return f"{what}.", "Mend the offsets: they count the characters of the text from 0, the end behind the last."
    if same_name(found, name):
        return None
    elsewhere = _place(text, name)
    if is_whole_words(text, begin, end) and (elsewhere < 0 or similar_name(found, name)):
        return None
    if elsewhere >= 0:
        fix = "Mend the offsets, or what shifts them: a text that was changed, or offsets that count bytes."
        return f"{what}, which stands at {elsewhere}-{elsewhere + len(name)}.", fix
    return f"{what}.", "Mend the offsets. A mention that is only normalised is taken where they mark whole words."


@lru_cache(maxsize=2**14)
def _place(text: str, name: str) -> int:
    """Return where a name stands in a text, whatever its case; -1 where it does not."""
    folded, words = _folded(text)
    name_words = _WORD.findall(name.casefold())
    return folded.find(name.casefold()) if name_words and words.issuperset(name_words) else -1


@lru_cache(maxsize=1)
def _folded(text: str) -> tuple[str, frozenset[str]]:
    folded = text.casefold()
    return folded, frozenset(_WORD.findall(folded))


def _blocks(name: str, text: str, faults: Faults) -> Iterator[list[tuple[int, str]]]:
    """Cut a file into documents: at empty lines, and before every title but the first."""
    block: list[tuple[int, str]] = []
    titled = False
    for number, line in numbered_lines(name, text, faults):
        match = _TEXT.fullmatch(line)
        title = bool(match and match[2] == "t")
        if block and (not line.strip() or (title and titled)):
            yield block
            block, titled = [], False
        if line.strip():
            block.append((number, line))
            titled = titled or title
    if block:
        yield block


def _document(name: str, block: list[tuple[int, str]], faults: Faults, *, last: bool, as_given: bool) -> AnnotatedText:
    """Read a document; its title and abstract may stand behind annotations."""
    is_id: Callable[[str], object] = str.strip if as_given else is_number
    title = _text_line(name, block, "t", block[0], MEND_LINE, is_id)
    behind = block[block.index(title.line) + 1 :]
    advice = CUT_OFF if last else _NO_ABSTRACT
    abstract = _text_line(name, block, "a", next(iter(behind), title.line), advice, is_id)
    document = AnnotatedText(title.pmid, f"{title.text} {abstract.text}", f"{name}:{block[0][0]}", as_given=as_given)
    if abstract.pmid != title.pmid:
        error = _other_pmid(f"{name}:{abstract.line[0]}", abstract.pmid, title.pmid)
        if as_given:  # what is read so may go on without this document
            raise error
        with faults.collected():
            raise error
    for number, line in block:
        if (number, line) not in (title.line, abstract.line):
            with faults.collected("line"):
                _read_line(document, line, f"{name}:{number}")
    return document


def _read_line(document: AnnotatedText, line: str, where: str) -> None:
    fields = line.split("\t")
    if len(fields) < 4:
        raise CorpusFormatError(
            f"found {len(fields)} tab-separated fields in {line[:60]!r}; expected an annotation (6 or 7) or a "
            "relation (4 or 5).",
            where=where,
            fix=MEND_LINE,
        )
    if fields[0] != document.pmid:
        raise _other_pmid(where, fields[0], document.pmid)
    if is_number(fields[1]):
        document.annotate(_annotation(fields, where))
    else:
        document.relations.append(_relation(fields, where))


def _text_line(
    name: str,
    block: list[tuple[int, str]],
    kind: str,
    instead: tuple[int, str],
    fix: str,
    is_id: Callable[[str], object],
) -> _Text:
    """Find the title or the abstract among a document's lines; what stands ``instead`` is named where there is none."""
    for line in block:
        match = _TEXT.fullmatch(line[1])
        if match and match[2] == kind and is_id(match[1]):
            return _Text(line, match[1], match[3])
    expected = "PMID|t|title" if kind == "t" else "PMID|a|abstract after the title"
    raise CorpusFormatError(f"found {instead[1][:60]!r}; expected '{expected}'.", where=f"{name}:{instead[0]}", fix=fix)


def _annotation(fields: list[str], where: str) -> Annotation:
    # Five fields: some tools drop the tab before an empty identifier.
    if not 5 <= len(fields) <= 7 or not is_number(fields[2]):
        raise CorpusFormatError(
            f"found {len(fields)} fields, end {fields[2][:20]!r}; expected PMID, begin, end, mention, type, ids and "
            "perhaps the parts of a composite mention.",
            where=where,
            fix=MEND_LINE,
        )
    identifiers = fields[5] if len(fields) > 5 else ""
    return Annotation(int(fields[1]), int(fields[2]), fields[3], fields[4], identifiers, where)


def _relation(fields: list[str], where: str) -> ConceptRelation:
    if len(fields) > 5 or not all(fields[1:4]):
        raise CorpusFormatError(
            f"found {len(fields)} fields, second {fields[1][:20]!r}; expected a relation (PMID, type, id, id, perhaps "
            "novelty) or an annotation whose second field is a number.",
            where=where,
            fix=MEND_LINE,
        )
    return ConceptRelation(fields[1], fields[2], fields[3], where)


def _other_pmid(where: str, found: str, expected: str) -> CorpusFormatError:
    return CorpusFormatError(
        f"found PMID {found[:40]!r} within document {expected}; expected the same PMID up to an empty line.",
        where=where,
        fix=MEND_LINE,
    )
