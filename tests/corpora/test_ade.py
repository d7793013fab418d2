"""ADE: one document per sentence, offsets found again, sentences without an event chosen by a hash."""

from __future__ import annotations

import pytest

from odin_slm.core.document import Mention, Relation
from odin_slm.core.errors import CorpusFormatError, MissingInputError
from odin_slm.corpora import ade
from odin_slm.corpora.faults import Faults

ROW = "11|Lorvapril caused flushing.|flushing|17|25|Lorvapril|0|9"
DOSE = "11|Lorvapril 5 mg was given.|5 mg|10|14|Lorvapril|0|9"
NEGATIVES = "12 NEG Lorvapril is used.\n13 NEG Nothing happened.\n13 NEG It rained.\n14 NEG All slept.\n"


def files(rows: str = ROW, negatives: str = NEGATIVES, doses: str = DOSE) -> dict[str, str]:
    return {ade.EFFECTS_FILE: rows, ade.DOSAGES_FILE: doses, ade.NEGATIVES_FILE: negatives}


def spans(rows: list[str]) -> set[tuple[int, int, str]]:
    (document,) = ade.parse(files("\n".join(rows)), negative_ratio=0.0).documents
    return {(m.begin, m.end, m.type) for m in document.mentions}


def test_a_row_becomes_a_document_with_offsets_in_the_sentence() -> None:
    (document,) = ade.parse(files("11|Lorvapril caused flushing.|flushing|117|125|Lorvapril|100|109"), 0.0).documents
    assert document.id == "ade-11-1"
    assert (document.source, document.pmid, document.split) == ("ade", "11", None)
    assert document.mentions == (
        Mention(0, 9, "Lorvapril", "Drug", ("text:lorvapril",)),
        Mention(17, 25, "flushing", "Symptom", ("text:flushing",)),
    )
    assert document.relations == (Relation("causes", "text:lorvapril", "text:flushing"),)


def test_rows_of_one_sentence_share_a_document_and_sentences_are_numbered_within_a_pmid() -> None:
    rows = [
        "11|Lorvapril caused flushing and rash.|flushing|17|25|Lorvapril|0|9",
        "22|Rash from belmab.|Rash|5|9|belmab|15|21",
        "11|Rash from belmab.|Rash|50|54|belmab|60|66",
        "11|Lorvapril caused flushing and rash.|rash|30|34|Lorvapril|0|9",
    ]
    documents = ade.parse(files("\n".join(rows)), 0.0).documents
    assert [d.id for d in documents] == ["ade-11-1", "ade-22-1", "ade-11-2"]
    assert [m.text for m in documents[0].mentions] == ["Lorvapril", "flushing", "rash"]


def test_document_offsets_tell_which_of_several_occurrences_is_meant() -> None:
    sentence = "Rash on day 1; belmab stopped; belmab again, rash again; later rash once more."
    assert spans([f"11|{sentence}|rash|{500 + 45}|{500 + 49}|belmab|{500 + 31}|{500 + 37}"]) == {
        (45, 49, "Symptom"),
        (31, 37, "Drug"),
    }


def test_without_help_from_offsets_repeated_mentions_take_different_occurrences() -> None:
    sentence = "rash, then belmab, then rash."
    rows = [f"11|{sentence}|rash|{begin}|{begin + 4}|belmab|3000|3006" for begin in (900, 7000)]
    assert spans(rows) == {(0, 4, "Symptom"), (24, 28, "Symptom"), (11, 17, "Drug")}


def test_overlapping_mentions_are_kept() -> None:
    assert spans(["11|Belmab toxicity was seen.|Belmab toxicity|0|15|Belmab|0|6"]) == {
        (0, 15, "Symptom"),
        (0, 6, "Drug"),
    }


def test_a_sentence_may_contain_the_separator() -> None:
    assert spans(["11|Ratio |x| 3|4: rash by belmab.|rash|15|19|belmab|23|29"]) == {
        (15, 19, "Symptom"),
        (23, 29, "Drug"),
    }


def test_repeated_rows_and_sentences_are_counted() -> None:
    negatives = "12 NEG It rained.\n13 NEG it  RAINED.\n14 NEG LORVAPRIL caused  flushing.\n15 NEG All slept.\n"
    parsed = ade.parse(files(f"{ROW}\n{ROW}\n", negatives), negative_ratio=5.0)
    assert parsed.report["duplicates"] == {
        "rows": 1,
        "negative_sentences": 1,
        "negative_sentences_equal_to_a_positive": 1,
    }
    assert [d.id for d in parsed.documents] == ["ade-11-1", "ade-neg-12-1", "ade-neg-15-1"]


def test_negatives_follow_ratio_and_seed() -> None:
    negatives = "".join(f"{n} NEG Sentence number {n}.\n" for n in range(100, 200))

    def chosen(ratio: float, seed: int) -> list[str]:
        return [d.id for d in ade.parse(files(negatives=negatives), ratio, seed).documents if not d.mentions]

    assert len(chosen(8.0, 1)) == 8
    assert chosen(8.0, 1) == chosen(8.0, 1)
    assert chosen(8.0, 1) != chosen(8.0, 2)
    assert set(chosen(8.0, 1)) < set(chosen(30.0, 1)), "a larger ratio only adds sentences"
    assert len(chosen(1000.0, 1)) == 100


def test_dosages_are_read_and_counted_but_become_no_mentions() -> None:
    assert ade.parse_dosages(DOSE, Faults()) == [
        {"pmid": "11", "sentence": "Lorvapril 5 mg was given.", "dosage": "5 mg", "drug": "Lorvapril"}
    ]
    assert ade.parse(files()).report["dosages"] == {"rows": 1, "distinct": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "DRUG-AE.rel:1: found no rows"),
        (f"{ROW}\n11|too|short", "DRUG-AE.rel:2: found 3 fields; expected 8"),
        (ROW.replace("11|", "PMC11|", 1), "DRUG-AE.rel:1: found PMID 'PMC11'"),
        (ROW.replace("|17|", "|x|"), "DRUG-AE.rel:1: found effect offsets 'x' and '25'"),
        (ROW.replace("|0|9", "|9|9"), "DRUG-AE.rel:1: found drug offsets '9' and '9'"),
        (ROW.replace("|17|", f"|{'9' * 5000}|"), "DRUG-AE.rel:1: found effect offsets"),
        (f"\n{ROW.replace('|flushing|', '|chills|')}", "DRUG-AE.rel:2: the effect 'chills' does not occur"),
        (f"{ROW}\n{ROW}\ud800", r"DRUG-AE.rel:2: found '\ud800', which is no character"),
    ],
)
def test_broken_rows_are_named_with_file_and_line(rows: str, message: str) -> None:
    with pytest.raises(CorpusFormatError) as raised:
        ade.parse(files(rows))
    assert message in str(raised.value)
    assert raised.value.fix


def test_broken_negatives_and_doses_are_named_with_file_and_line() -> None:
    with pytest.raises(CorpusFormatError, match=r"ADE-NEG\.txt:2: found '13 POS x'; expected 'PMID NEG sentence'"):
        ade.parse(files(negatives="12 NEG x\n13 POS x\n"))
    with pytest.raises(CorpusFormatError, match=r"DRUG-DOSE\.rel:1: found 1 fields"):
        ade.parse(files(doses="x"))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(MissingInputError, match=r"missing DRUG-DOSE\.rel, ADE-NEG\.txt; found DRUG-AE\.rel"):
        ade.parse({ade.EFFECTS_FILE: ROW})


def test_windows_line_ends_change_nothing() -> None:
    windows = {name: text.replace("\n", "\r\n") for name, text in files().items()}
    assert ade.parse(windows).documents == ade.parse(files()).documents


def test_a_mention_in_another_spelling_is_what_the_sentence_says() -> None:
    row = "11|Interferon-α caused flushing.|Flushing|20|28|interferon alpha|0|12"
    parsed = ade.parse(files(row))
    assert [m.text for m in parsed.documents[0].mentions] == ["Interferon-α", "flushing"]
    assert parsed.report["normalised_mentions"] == 2
    assert parsed.report["rows_with_inexact_offsets"] == 0


def test_all_faults_of_all_files_are_named_at_once() -> None:
    broken = files(f"{ROW}\n11|short\n{ROW.replace('|flushing|', '|chills|')}", "12 POS x\n", "x")
    with pytest.raises(CorpusFormatError) as raised:
        ade.parse(broken)
    places = [line.split(": ")[0] for line in str(raised.value).splitlines()]
    assert places[:4] == ["DRUG-AE.rel:2", "DRUG-AE.rel:3", "DRUG-DOSE.rel:1", "ADE-NEG.txt:1"]
    assert "fetch" not in raised.value.fix.casefold()
