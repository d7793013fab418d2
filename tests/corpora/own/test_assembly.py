"""Types, relations, ids and splits as the block says."""

from __future__ import annotations

import json

import pytest

from corpora.own.reading import mentions, read, relations
from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora import own

FILES = {
    "x/PMID7_a.txt": "BRAF got 5 mg.",
    "x/PMID7_a.ann": "T1\tProtein 0 4\tBRAF\nT2\tDose 9 13\t5 mg\nT3\tRemark 5 8\tgot\nR1\tdose_of Arg1:T2 Arg2:T1\n",
}
RENAMED = {
    "entities": {"Protein": "Gene", "Dose": "Dose", "Remark": None},
    "relations": {"dose_of": {"type": "given_at", "head": ["Gene"], "tail": ["Dose"], "reverse": True}},
}


def test_types_are_renamed_dropped_and_kept_and_relations_turned_round() -> None:
    found, faults, _ = read("brat", FILES, **RENAMED)
    assert faults == []
    assert mentions(found) == [[("BRAF", "Gene"), ("5 mg", "Dose")]]
    assert relations(found) == [[("braf", "given_at", "5 mg")]]
    assert found.dropped == {"mention: Remark": 1}
    assert found.signatures == {("given_at", "Gene", "Dose"): 1}


def test_what_is_named_nowhere_is_a_fault_or_dropped() -> None:
    wanted = {"entities": ["Dose"], "relations": {}}
    _, faults, _ = read("brat", FILES, **wanted)
    assert [fault.partition(",")[0] for fault in faults] == [
        "x/PMID7_a.ann:1: found the entity type 'Protein'",
        "x/PMID7_a.ann:3: found the entity type 'Remark'",
        "x/PMID7_a.ann:4: found the relation type 'dose_of'",
    ]
    found, faults, _ = read("brat", FILES, **wanted, others="drop")
    assert faults == []
    assert found.dropped == {"mention: Protein": 1, "mention: Remark": 1, "relation: dose_of": 1}


@pytest.mark.parametrize("name", [{"Gene": "Drug"}, True, 2])
def test_a_list_of_types_holds_names_alone(name: object) -> None:
    with pytest.raises(ValueError, match=r"own_corpora|expected names of types"):
        own.OwnCorpus.model_validate({"folder": "x", "format": "brat", "entities": [name]})


def test_a_relation_of_the_files_can_be_dropped_by_name() -> None:
    found, faults, _ = read("brat", FILES, **{**RENAMED, "relations": {"dose_of": None}})
    assert (faults, relations(found)) == ([], [[]])
    assert found.dropped["relation: dose_of"] == 1


def test_a_relation_with_a_dropped_mention_goes_with_it() -> None:
    entities = {"Protein": None, "Remark": "Gene", "Dose": "Dose"}
    found, faults, _ = read("brat", FILES, **{**RENAMED, "entities": entities})
    assert faults == []
    assert found.dropped["relation: with a mention that was dropped"] == 1


@pytest.mark.parametrize(
    ("pattern", "pmid"),
    [(None, "notes-x/PMID7_a"), (r"PMID(\d+)", "7"), (r"\d+", "7")],
)
def test_a_pattern_finds_the_pubmed_id_in_the_documents_id(pattern: str | None, pmid: str) -> None:
    found, faults, _ = read("brat", FILES, **RENAMED, pmid=pattern)
    assert (faults, found.documents[0].pmid) == ([], pmid)


def test_an_id_without_a_pubmed_id_is_a_fault() -> None:
    _, faults, _ = read("brat", FILES, **RENAMED, pmid=r"doi:(\S+)")
    assert faults == ["x/PMID7_a.ann:1: the id 'x/PMID7_a' holds no PubMed id as pmid finds it."]


def test_splits_go_by_file_or_field_or_not_at_all() -> None:
    by_file = {"files": {"test": "x/*", "train": ["y/*", "z/*"]}}
    assert read("brat", FILES, **RENAMED, split=by_file)[0].documents[0].split == "test"
    assert read("brat", FILES, **RENAMED)[0].documents[0].split is None
    _, faults, _ = read("brat", FILES, **RENAMED, split={"files": {"test": "y/*"}})
    assert faults == ["x/PMID7_a.ann:1: the file is of no split."]
    _, faults, _ = read("brat", FILES, **RENAMED, split={"files": {"train": "*.ann", "test": "x/*"}})
    assert faults == ["x/PMID7_a.ann:1: the file is of train and of test."]
    rows = "".join(f'{{"text": "{word}", "label": [], "part": "{word}"}}\n' for word in ("dev", "Training", "later"))
    found, faults, _ = read("jsonl", {"a.jsonl": rows}, split={"field": "part"})
    assert [document.split for document in found.documents] == ["validation", "train"]
    assert faults == ["a.jsonl:3: found the split 'later'; expected train, validation or test."]
    _, faults, _ = read("jsonl", {"a.jsonl": rows}, split={"field": "fold"})
    assert faults[0] == "a.jsonl:1: nothing is under 'fold'; expected train, validation or test."


@pytest.mark.parametrize("format_", ["brat", "bioc_xml", "bioc_json", "pubtator", "iob"])
def test_a_split_by_field_is_refused_where_there_are_no_fields(format_: str) -> None:
    with pytest.raises(ValueError, match=rf"split\.field: {format_} has no fields.*split\.files"):
        own.OwnCorpus.model_validate({"folder": "x", "format": format_, "split": {"field": "part"}})


def test_a_relation_that_keeps_a_name_of_several_words_is_refused() -> None:
    relations_ = {"dosage.of": {"head": ["Gene"], "tail": ["Dose"]}}
    block = {"folder": "x", "format": "brat", "entities": ["Gene", "Dose"]}
    with pytest.raises(ValueError, match=r"relations\.dosage\.of: this is not one word"):
        own.OwnCorpus.model_validate({**block, "relations": relations_})
    relations_["dosage.of"] |= {"type": "given_at"}  # type: ignore[dict-item]
    assert own.OwnCorpus.model_validate({**block, "relations": relations_}).annotates.relations == ("given_at",)


def test_two_documents_of_one_id_are_a_fault() -> None:
    rows = '{"id": 4, "text": "a", "label": []}\n' * 2
    found, faults, _ = read("jsonl", {"a.jsonl": rows})
    assert faults == ["a.jsonl:2: found the document '4' again, which is at a.jsonl:1."]
    assert len(found.documents) == 1
    found, faults, _ = read("jsonl", {"a.jsonl": rows[: len(rows) // 2], "b.jsonl": rows[: len(rows) // 2]})
    assert faults == [], "tools count the documents of every export from 1"
    assert [document.id for document in found.documents] == ["notes-a.jsonl#4", "notes-b.jsonl#4"]


def test_surfaces_of_two_types_are_two_concepts() -> None:
    files = {
        "a.txt": "BRAF and BRAF got 5 mg.",
        "a.ann": "T1\tDose 0 4\tBRAF\nT2\tGene 9 13\tBRAF\nT3\tDose 18 22\t5 mg\nR1\tgiven_at Arg1:T2 Arg2:T3\n",
    }
    (document,) = read("brat", files)[0].documents
    assert document.mentions[0].concepts != document.mentions[1].concepts
    assert document.relations[0].head == document.mentions[1].concepts[0]


def test_space_at_the_ends_of_a_mention_is_cut_off_and_counted() -> None:
    found, faults, _ = read("jsonl", {"a.jsonl": '{"text": "a BRAF b", "label": [[1, 7, "Gene"]]}\n'})
    assert (faults, mentions(found), found.normalised) == ([], [[("BRAF", "Gene")]], 1)


def test_a_corpus_of_which_nothing_is_left_is_refused() -> None:
    block = own.OwnCorpus(folder="notes", format="jsonl", entities=["Gene"], on_fault="drop")
    with pytest.raises(CorpusFormatError, match=r"a\.jsonl:1: no JSON"):
        own.parse("notes", block, {"a.jsonl": "{\n"}, {})
    with pytest.raises(CorpusFormatError, match="found no document; expected some in jsonl"):
        own.parse("notes", block, {"a.jsonl": "\n"}, {})


@pytest.mark.parametrize(("number", "pmid"), [("8701013", "8701013"), ("3", "notes-3")])
def test_a_short_number_counts_documents_and_is_no_pubmed_id(number: str, pmid: str) -> None:
    found, faults, _ = read("pubtator", {"a.txt": f"{number}|t|Rash.\n{number}|a|It came.\n"})
    assert (faults, found.documents[0].pmid) == ([], pmid)


@pytest.mark.parametrize("pattern", [r"^PMID(\d+)", r"\d+"])
def test_the_name_of_the_file_is_no_part_of_the_pubmed_id(pattern: str) -> None:
    files = {f"export-202{n}.jsonl": json.dumps({"id": f"PMID1{n}", "text": "Rash.", "spans": []}) for n in (4, 5)}
    found, faults, _ = read("jsonl", files, pmid=pattern)
    assert (faults, [document.pmid for document in found.documents]) == ([], ["14", "15"])
