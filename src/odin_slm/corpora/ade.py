r"""ADE Corpus V2: sentences of case reports with drugs and their adverse effects.

Source of the format: Gurulingappa et al. 2012, "Development of a benchmark corpus to support the automatic extraction
of drug-related adverse effects from medical case reports", and the corpus' own README. A row of ``DRUG-AE.rel`` is
``PMID|sentence|effect|begin|end|drug|begin|end`` with offsets into ``PMID\n\nTitle\n\nAbstract``, a text that the
corpus does not contain. Offsets within the sentence are therefore recomputed here. A mention that the sentence holds in
another spelling (a normalised one) becomes what the sentence says.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from odin_slm.core.document import Document, Mention, Relation, surface_concept
from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.faults import CUT_OFF, MEND_LINE, Faults
from odin_slm.corpora.mention_names import verbatim
from odin_slm.corpora.parsed import (
    Corpus,
    ParsedCorpus,
    corpus_report,
    is_number,
    numbered_lines,
    require_files,
)
from odin_slm.tasks.extraction.schema import SCHEMAS

EFFECTS_FILE = "DRUG-AE.rel"
DOSAGES_FILE = "DRUG-DOSE.rel"
NEGATIVES_FILE = "ADE-NEG.txt"
FILES = (EFFECTS_FILE, DOSAGES_FILE, NEGATIVES_FILE)

_ROW = "PMID|sentence|{}|begin|end|drug|begin|end"


@dataclass(frozen=True, slots=True)
class AdeRow:
    """One row of a ``.rel`` file.

    Attributes:
        pmid: PubMed id of the case report.
        sentence: The sentence, verbatim.
        other: The related mention: the adverse effect, or the dosage in ``DRUG-DOSE.rel``.
        other_begin: Its offset in the case report (not in the sentence).
        drug: The drug mention.
        drug_begin: Its offset in the case report.
        exact: Whether both offset pairs are as long as their mentions.
        normalised: How many of the two mentions the file spells otherwise than the sentence.
    """

    pmid: str
    sentence: str
    other: str
    other_begin: int
    drug: str
    drug_begin: int
    exact: bool
    normalised: int


def parse(
    files: Mapping[str, str],
    negative_ratio: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.5,
    seed: int = 42,
) -> ParsedCorpus:
    """Turn the corpus' three files into one document per sentence.

    All rows of one (PMID, sentence) become one document. Sentences without an adverse event are chosen by a hash of
    ``seed`` and sentence, so that a larger ratio only adds documents.

    Args:
        files: File name -> text, for the names in :data:`FILES`.
        negative_ratio: Sentences without an adverse event per sentence with one; as many as there are at most.
        seed: Seed of that choice.

    Raises:
        MissingInputError: A file was not given.
        CorpusFormatError: Lines break the format; all of them, with ``file:line``.
    """
    require_files(files, FILES, "ade")
    faults = Faults()
    rows = _rows(EFFECTS_FILE, files[EFFECTS_FILE], "effect", faults)
    distinct = list(dict.fromkeys(rows))
    dosages = parse_dosages(files[DOSAGES_FILE], faults)

    by_sentence: dict[tuple[str, str], list[AdeRow]] = {}
    for row in distinct:
        by_sentence.setdefault((row.pmid, row.sentence), []).append(row)
    numbers: Counter[str] = Counter()
    positives = []
    for (pmid, sentence), sentence_rows in by_sentence.items():
        numbers[pmid] += 1
        positives.append(_positive(f"ade-{pmid}-{numbers[pmid]}", pmid, sentence, sentence_rows))

    candidates, negative_counts = _negative_candidates(files[NEGATIVES_FILE], positives, faults)
    faults.stop()
    quota = min(round(negative_ratio * len(positives)), len(candidates))
    drawn = sorted(candidates, key=lambda d: (hashlib.sha256(f"{seed}\n{d.text}".encode()).hexdigest(), d.id))
    chosen = {d.id for d in drawn[:quota]}
    negatives = [document for document in candidates if document.id in chosen]

    documents = [*positives, *negatives]
    report = corpus_report(
        "ade",
        documents,
        dropped={},
        normalised=sum(row.normalised for row in distinct),
        duplicates={"rows": len(rows) - len(distinct), **negative_counts},
        inputs={name: files[name] for name in FILES},
        schema=SCHEMAS["ade"],
    )
    report["sentences"] = {
        "rows": len(rows),
        "with_adverse_event": len(positives),
        "without_adverse_event": len(negatives),
        "without_adverse_event_available": len(candidates),
    }
    report["rows_with_inexact_offsets"] = sum(not row.exact for row in distinct)
    report["dosages"] = {"rows": len(dosages), "distinct": len({tuple(d.items()) for d in dosages})}
    return ParsedCorpus(documents, report)


def parse_dosages(text: str, faults: Faults) -> list[dict[str, Any]]:
    """Read ``DRUG-DOSE.rel``: which dosage belongs to which drug.

    The schema has no dosage type, so these are counted in the report and become no records.

    Args:
        text: Text of the file.
        faults: Takes what is wrong with it.

    Returns:
        One ``{"pmid", "sentence", "dosage", "drug"}`` a row.
    """
    return [
        {"pmid": row.pmid, "sentence": row.sentence, "dosage": row.other, "drug": row.drug}
        for row in _rows(DOSAGES_FILE, text, "dosage", faults)
    ]


def _rows(name: str, text: str, other: str, faults: Faults) -> list[AdeRow]:
    rows: list[AdeRow] = []
    empty = True
    for number, line in numbered_lines(name, text, faults):
        if line.strip():
            empty = False
            with faults.collected():
                rows.append(_row(line, f"{name}:{number}", other))
    with faults.collected():
        if empty:
            expected = f"found no rows; expected {_ROW.format(other)}."
            raise CorpusFormatError(expected, where=f"{name}:1", fix=CUT_OFF)
    return rows


def _row(line: str, where: str, other: str) -> AdeRow:
    """Read one row from both ends, because a sentence may contain the separator."""
    fields = line.split("|")
    if len(fields) < 8:
        expected = f"found {len(fields)} fields; expected 8: {_ROW.format(other)}."
        raise CorpusFormatError(expected, where=where, fix=MEND_LINE)
    pmid, sentence = fields[0], "|".join(fields[1:-6])
    mention, begin, end, drug, drug_begin, drug_end = fields[-6:]
    if not is_number(pmid):
        raise CorpusFormatError(f"found PMID {pmid[:40]!r}; expected digits.", where=where, fix=MEND_LINE)
    spans = []
    for kind, surface, first, last in ((other, mention, begin, end), ("drug", drug, drug_begin, drug_end)):
        if not (is_number(first) and is_number(last)) or int(first) >= int(last):
            raise CorpusFormatError(
                f"found {kind} offsets {first[:20]!r} and {last[:20]!r}; expected two numbers, begin before end.",
                where=where,
                fix=MEND_LINE,
            )
        known = surface.strip() and surface in sentence
        written = surface if known else verbatim(sentence, surface)
        if written is None:
            raise CorpusFormatError(
                f"the {kind} {surface[:60]!r} does not occur in the sentence, in this or a like spelling.",
                where=where,
                fix="Write it as the sentence does, or take the row out.",
            )
        spans.append((written, int(first), int(last) - int(first) == len(written), not known))
    (mention, other_begin, *of_other), (drug, begin_of_drug, *of_drug) = spans
    exact, normalised = zip(of_other, of_drug, strict=True)
    return AdeRow(pmid, sentence, mention, other_begin, drug, begin_of_drug, all(exact), sum(normalised))


def _positive(identifier: str, pmid: str, sentence: str, rows: list[AdeRow]) -> Document:
    placed = _place(sentence, {(r.other, r.other_begin) for r in rows} | {(r.drug, r.drug_begin) for r in rows})
    mentions = set()
    relations: dict[Relation, None] = {}
    for row in rows:
        effect, drug = surface_concept(row.other), surface_concept(row.drug)
        for kind, surface, begin, concept in (
            ("Symptom", row.other, placed[row.other, row.other_begin], effect),
            ("Drug", row.drug, placed[row.drug, row.drug_begin], drug),
        ):
            mentions.add(Mention(begin, begin + len(surface), surface, kind, (concept,)))
        relations[Relation("causes", drug, effect)] = None
    return Document(identifier, sentence, "ade", pmid, mentions=tuple(sorted(mentions)), relations=tuple(relations))


def _place(sentence: str, annotations: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Find where in the sentence each (surface, offset in the case report) stands.

    Every occurrence of a surface would put the sentence's first character somewhere in the case report. The start that
    most annotations agree on decides which occurrence is meant; an annotation that does not agree takes the first
    occurrence that no other has taken.
    """
    ordered = sorted(annotations, key=lambda a: (a[1], a[0]))
    occurrences = {surface: _occurrences(sentence, surface) for surface, _ in ordered}
    votes = Counter(offset - begin for surface, offset in ordered for begin in occurrences[surface])
    # On a tie the greatest start wins, which is the one that uses the first occurrences.
    start = max(votes, key=lambda candidate: (votes[candidate], candidate))
    placed = {(s, offset): offset - start for s, offset in ordered if offset - start in occurrences[s]}
    taken = {(surface, begin) for (surface, _), begin in placed.items()}
    for surface, offset in ordered:
        if (surface, offset) not in placed:
            free = [begin for begin in occurrences[surface] if (surface, begin) not in taken]
            begin = (free or occurrences[surface])[0]
            placed[surface, offset] = begin
            taken.add((surface, begin))
    return placed


def _occurrences(sentence: str, surface: str) -> list[int]:
    found = [sentence.find(surface)]
    while (begin := sentence.find(surface, found[-1] + 1)) >= 0:
        found.append(begin)
    return found


def _negative_candidates(text: str, positives: list[Document], faults: Faults) -> tuple[list[Document], dict[str, int]]:
    """Read the sentences without an adverse event, each once, and without those that also report one."""
    seen = {_normalised(document.text) for document in positives}
    positive = frozenset(seen)
    numbers: Counter[str] = Counter()
    counts = Counter(negative_sentences=0, negative_sentences_equal_to_a_positive=0)
    candidates = []
    for number, line in numbered_lines(NEGATIVES_FILE, text, faults):
        if not line.strip():
            continue
        pmid, marker, sentence = line.partition(" NEG ")
        numbers[pmid] += 1
        with faults.collected():
            if not is_number(pmid) or not marker or not sentence.strip():
                found = f"found {line[:60]!r}; expected 'PMID NEG sentence'."
                raise CorpusFormatError(found, where=f"{NEGATIVES_FILE}:{number}", fix=MEND_LINE)
        key = _normalised(sentence)
        if key in positive:
            counts["negative_sentences_equal_to_a_positive"] += 1
        elif key in seen:
            counts["negative_sentences"] += 1
        else:
            seen.add(key)
            candidates.append(Document(f"ade-neg-{pmid}-{numbers[pmid]}", sentence, "ade", pmid))
    with faults.collected():
        if not numbers:
            found = "found no sentences; expected 'PMID NEG sentence'."
            raise CorpusFormatError(found, where=f"{NEGATIVES_FILE}:1", fix=CUT_OFF)
    return candidates, dict(counts)


def _normalised(sentence: str) -> str:
    return " ".join(sentence.casefold().split())


CORPUS = Corpus("ade", SCHEMAS["ade"], parse)
