"""What the writers write, the parsers read back; and the sample has the traps of the real corpora."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_slm.core.document import Document, Mention, Relation, is_synthetic
from odin_slm.core.record import SPLITS
from odin_slm.corpora import PARSERS, ParsedCorpus, ade, biored
from odin_slm.corpora.synthetic.formats import title_end, write_ade, write_bc5cdr, write_biored
from odin_slm.corpora.synthetic.generator import generate
from odin_slm.corpora.synthetic.sample import make_sample

DOSE = {ade.DOSAGES_FILE: "11|Lorvapril 5 mg was given.|5 mg|10|14|Lorvapril|0|9\n"}


def with_splits(documents: list[Document]) -> list[Document]:
    split = [replace(d, split=SPLITS[n * 3 // len(documents)]) for n, d in enumerate(documents)]
    assert {d.split for d in split} == set(SPLITS)
    return split


@pytest.mark.parametrize("seed", range(5))
def test_ade_round_trip(seed: int) -> None:
    documents = generate(60, seed, "ade")
    positives = [d for d in documents if d.relations]
    negatives = [d for d in documents if not d.relations]
    files = write_ade(positives, negatives) | DOSE
    assert PARSERS["ade"](files, negative_ratio=1000.0).documents == positives + negatives


def test_ade_offsets_are_those_of_the_whole_case_report() -> None:
    first = Document("ade-77-1", "Rash by belmab.", "ade", "77", mentions=MENTIONS, relations=RELATIONS)
    second = replace(first, id="ade-77-2")
    rows = write_ade([first, replace(second, text="Rash by belmab!")], [])[ade.EFFECTS_FILE].splitlines()
    # 77, an empty line, the title, an empty line, the abstract.
    assert rows == [
        "77|Rash by belmab.|Rash|4|8|belmab|12|18",
        "77|Rash by belmab!|Rash|21|25|belmab|29|35",
    ]


MENTIONS = (
    Mention(0, 4, "Rash", "Symptom", ("text:rash",)),
    Mention(8, 14, "belmab", "Drug", ("text:belmab",)),
)
RELATIONS = (Relation("causes", "text:belmab", "text:rash"),)


@pytest.mark.parametrize("seed", range(5))
def test_bc5cdr_round_trip(seed: int) -> None:
    documents = with_splits(generate(45, seed, "bc5cdr"))
    assert PARSERS["bc5cdr"](write_bc5cdr(documents)).documents == documents


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("members", [biored.BIOC_MEMBERS, biored.PUBTATOR_MEMBERS])
def test_biored_round_trip(seed: int, members: tuple[str, ...]) -> None:
    documents = with_splits(generate(45, seed, "biored"))
    files = write_biored(documents)
    assert PARSERS["biored"]({name: files[name] for name in members}).documents == documents


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_pubtator_document_comes_back(data: st.DataObject) -> None:
    """Spaces, tabs, bars, overlaps, and characters beyond the basic plane."""
    text = data.draw(st.text("ab cé|\t.𝛼", min_size=2, max_size=40).filter(lambda t: " " in t.strip()))
    spans = data.draw(st.lists(st.tuples(*[st.integers(0, len(text))] * 2), max_size=6))
    mentions = {
        Mention(b, e, text[b:e], data.draw(st.sampled_from(["Drug", "Disease"])), (f"D{b}", f"D{e}"))
        for b, e in spans
        if b < e and text[b:e].strip() and "\t" not in text[b:e]
    }
    chosen = tuple(sorted({(m.begin, m.end): m for m in mentions}.values()))
    document = Document("bc5cdr-5", text, "bc5cdr", "5", "test", chosen)
    others = [Document(f"bc5cdr-{n}", "A b.", "bc5cdr", str(n), split) for n, split in enumerate(SPLITS[:2], start=1)]
    assert PARSERS["bc5cdr"](write_bc5cdr([*others, document])).documents[-1] == document


def test_a_text_that_cannot_be_cut_is_refused() -> None:
    for text in ("word", "two\nlines here"):
        with pytest.raises(ValueError, match="cannot be cut into title and abstract"):
            title_end(text)


@pytest.fixture(scope="module")
def corpora(sample: dict[str, dict[str, str]]) -> dict[str, ParsedCorpus]:
    return {corpus: PARSERS[corpus](files) for corpus, files in sample.items() if corpus != "."}


def test_the_sample_is_the_same_for_the_same_seed(sample: dict[str, dict[str, str]]) -> None:
    assert make_sample(7, 30) == sample
    assert make_sample(8, 30) != sample


def test_the_sample_reads_as_the_public_corpora_do(corpora: dict[str, ParsedCorpus]) -> None:
    for corpus in ("bc5cdr", "biored"):
        assert corpora[corpus].report["splits"] == {"train": 18, "validation": 6, "test": 6}
        assert corpora[corpus].report["dropped"] == {}
    assert corpora["ade"].report["sentences"]["with_adverse_event"] == 30
    assert corpora["ade"].report["dosages"]["rows"] > 0
    assert all(is_synthetic(d.pmid) for parsed in corpora.values() for d in parsed.documents)


def test_the_sample_holds_the_traps_of_the_real_corpora(
    corpora: dict[str, ParsedCorpus], sample: dict[str, dict[str, str]]
) -> None:
    by_pmid = {corpus: {d.pmid: d for d in parsed.documents} for corpus, parsed in corpora.items()}
    shared = by_pmid["bc5cdr"].keys() & by_pmid["biored"].keys()
    assert shared
    assert all(by_pmid["bc5cdr"][pmid].text == by_pmid["biored"][pmid].text for pmid in shared)
    assert any(by_pmid["bc5cdr"][pmid].split != by_pmid["biored"][pmid].split for pmid in shared)
    assert by_pmid["ade"].keys() & by_pmid["bc5cdr"].keys()
    texts = {document.text for document in corpora["ade"].documents}
    assert any(f"Again, {text}" in texts for text in texts), "a near-duplicate under another PMID"
    duplicates = corpora["ade"].report["duplicates"]
    assert (duplicates["negative_sentences"], duplicates["negative_sentences_equal_to_a_positive"]) == (1, 1)
    assert corpora["bc5cdr"].report["composite_mentions"] > 0
    assert "\tChemical\t-1\n" in "".join(make_sample(42)["bc5cdr"].values())
    assert "synthetic" in sample["."]["README.md"]


def test_overlapping_mentions_occur() -> None:
    assert PARSERS["ade"](make_sample(42, 100)["ade"]).report["overlapping_mentions"] > 0


@pytest.mark.parametrize("size", [10, 11, 17])
def test_small_samples_work(size: int) -> None:
    files = make_sample(1, size)
    for corpus in ("ade", "bc5cdr", "biored"):
        assert len(PARSERS[corpus](files[corpus]).documents) >= size
