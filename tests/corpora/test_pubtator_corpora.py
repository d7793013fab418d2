"""BC5CDR and BioRED: official splits, concepts, mapped relations, and errors that name file and line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from odin_slm.core.document import Mention, Relation
from odin_slm.core.errors import CorpusFormatError, MissingInputError
from odin_slm.corpora import ParsedCorpus, bc5cdr, biored

TITLE = "Belmab and renal failure."
ABSTRACT = "Renal and hepatic failure after belmab."
TEXT = f"{TITLE} {ABSTRACT}"
CDR = f"""{{pmid}}|t|{TITLE}
{{pmid}}|a|{ABSTRACT}
{{pmid}}\t0\t6\tBelmab\tChemical\tD1
{{pmid}}\t11\t24\trenal failure\tDisease\tD2
{{pmid}}\t26\t51\tRenal and hepatic failure\tDisease\tD2|D3\tRenal failure|hepatic failure
{{pmid}}\t58\t64\tbelmab\tChemical\t-1
{{pmid}}\tCID\tD1\tD2

"""


def cdr(train: str = "", validation: str = "", test: str = "") -> dict[str, str]:
    return {
        name: text or CDR.format(pmid=number)
        for number, (name, text) in enumerate(
            zip(bc5cdr.FILES.values(), (train, validation, test), strict=True), start=901
        )
    }


def test_bc5cdr_abstract() -> None:
    parsed = bc5cdr.parse(cdr())
    assert [(d.id, d.split) for d in parsed.documents] == [
        ("bc5cdr-901", "train"),
        ("bc5cdr-902", "validation"),
        ("bc5cdr-903", "test"),
    ]
    document = parsed.documents[0]
    assert document.text == TEXT
    assert document.mentions == (
        Mention(0, 6, "Belmab", "Drug", ("D1",)),
        Mention(11, 24, "renal failure", "Disease", ("D2",)),
        Mention(26, 51, "Renal and hepatic failure", "Disease", ("D2", "D3")),
        Mention(58, 64, "belmab", "Drug", ("text:belmab",)),
    )
    assert document.relations == (Relation("causes", "D1", "D2"),)
    assert parsed.report["composite_mentions"] == 3
    assert set(parsed.report["inputs"]) == set(bc5cdr.FILES.values())


def test_an_abstract_of_two_files_keeps_the_later_official_split() -> None:
    """Some public training files hold the development set as well; that must not leak."""
    combined = CDR.format(pmid=901) + CDR.format(pmid=902) + CDR.format(pmid=903)
    parsed = bc5cdr.parse(cdr(train=combined))
    assert {d.pmid: d.split for d in parsed.documents} == {"901": "train", "902": "validation", "903": "test"}
    assert parsed.report["duplicates"] == {
        "in train and test, kept in test": 1,
        "in train and validation, kept in validation": 1,
    }


def test_one_pmid_with_two_texts_is_an_error() -> None:
    other = CDR.format(pmid=901).replace("after belmab.", "after belmab!")
    with pytest.raises(
        CorpusFormatError, match=r"CDR_TestSet\.PubTator\.txt:1: found PMID 901 again with another text"
    ):
        bc5cdr.parse(cdr(test=other))


def test_a_relation_of_unmentioned_concepts_is_dropped_and_counted() -> None:
    parsed = bc5cdr.parse(cdr(train=CDR.format(pmid=901).replace("CID\tD1\tD2", "CID\tD1\tD9")))
    assert parsed.documents[0].relations == ()
    assert parsed.report["dropped"] == {"relation: CID without a mention of its concepts": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: "", "CDR_TrainingSet.PubTator.txt:1: found no documents"),
        (lambda t: t.replace("|t|", "|x|"), "CDR_TrainingSet.PubTator.txt:1: found '901|x|Belmab"),
        (
            lambda t: t.split("\n")[0],
            "CDR_TrainingSet.PubTator.txt:1: found '901|t|Belmab and renal failure.'; expected",
        ),
        (lambda t: t.replace("901|a|", "902|a|"), ":2: found PMID '902' within document 901"),
        (lambda t: t.replace("901\t0\t6", "902\t0\t6"), ":3: found PMID '902' within document 901"),
        (lambda t: t.replace("\t0\t6", "\t1\t7"), ":3: characters 1-7 of the document (65 characters) are 'elmab '"),
        (lambda t: t.replace("\t58\t64", "\t58\t640"), ":6: characters 58-640"),
        (lambda t: t.replace("\t58\t64", "\t58\t-64"), ":6: found 6 fields, end '-64'"),
        (lambda t: t.replace("\t0\t6", "\t0x\t6"), ":3: found 6 fields, second '0x'"),
        (
            lambda t: t.replace("Chemical", "Chemicals", 1),
            ":3: found entity type 'Chemicals'; expected Chemical or Dis",
        ),
        (lambda t: t.replace("CID", "CIDX"), ":7: found relation type 'CIDX'; expected CID"),
        (lambda t: t.replace("\tCID\t", "CID"), ":7: found 2 tab-separated fields"),
        (lambda t: t.replace("\n901\t0", "\n\n901\t0"), ":4: found '901\\t0"),
    ],
)
def test_broken_pubtator_is_named_with_file_and_line(change: Callable[[str], str], message: str) -> None:
    files = cdr()
    files[bc5cdr.FILES["train"]] = change(CDR.format(pmid=901))
    with pytest.raises(CorpusFormatError) as raised:
        bc5cdr.parse(files)
    assert message in str(raised.value)


def refused(files: dict[str, str], corpus: ModuleType = bc5cdr) -> CorpusFormatError:
    with pytest.raises(CorpusFormatError) as raised:
        corpus.parse(files)
    assert "fetch" not in raised.value.fix.casefold(), "a fresh copy has this fault as well"
    return raised.value


@pytest.mark.parametrize(
    ("said", "column"),
    [
        ("TNF-α", "TNF-a"),
        ("TNF‐α", "tnf alpha"),
        ("β-carotene", "beta-carotene"),
        ("5-HT₂A", "5-HT2A"),
        ("naïve cells", "naive cells"),
        ("seizures", "seizure"),
        ("high blood pressure", "hypertension"),
        ("TNF-α", "TNF-&alpha;"),
        ("TNF-α", ""),
    ],
)
def test_a_normalised_mention_is_what_stands_at_its_offsets(said: str, column: str) -> None:
    text = f"901|t|We saw {said} here.\n901|a|And then not.\n901\t7\t{7 + len(said)}\t{column}\tChemical\tD1\n"
    parsed = bc5cdr.parse(cdr(train=text))
    assert parsed.documents[0].mentions == (Mention(7, 7 + len(said), said, "Drug", ("D1",)),)
    assert parsed.report["normalised_mentions"] == 1
    assert parsed.report["dropped"] == {}


def test_offsets_that_are_wrong_are_all_named_at_once() -> None:
    files = cdr()
    train, validation = list(files)[:2]
    files[train] = CDR.format(pmid=901).replace("\t0\t6", "\t1\t7").replace("\t11\t24", "\t12\t25")
    files[validation] = files[validation].replace("Chemical", "Gene").replace("58\t64", "58\t640")
    error = refused(files)
    assert str(error).splitlines()[:-1] == [
        f"{train}:3: characters 1-7 of the document (65 characters) are 'elmab '; expected the mention 'Belmab', which "
        "stands at 0-6.",
        f"{train}:4: characters 12-25 of the document (65 characters) are 'enal failure.'; expected the mention 'renal "
        "failure', which stands at 11-24.",
        f"{validation}:6: characters 58-640 of the document (65 characters) are 'belmab.'; expected the mention "
        "'belmab'.",
        f"{validation}:3: found entity type 'Gene'; expected Chemical or Disease.",
    ]
    assert str(error).splitlines()[-1].startswith("4 faults in all. Mend the offsets, or what shifts them")
    assert error.where == f"{train}:3"


def test_a_span_that_cuts_words_is_no_normalised_mention() -> None:
    text = CDR.format(pmid=901).replace("\t0\t6\tBelmab", "\t2\t9\tsomething")
    assert "are 'lmab an'; expected the mention 'something'." in str(refused(cdr(train=text)))


def test_only_a_file_that_is_cut_off_is_to_be_fetched_again() -> None:
    whole = CDR.format(pmid=901) + CDR.format(pmid=904)
    for cut in (whole[: whole.index("904|a")], "\n"):
        with pytest.raises(CorpusFormatError, match="cut off or another one: fetch it"):
            bc5cdr.parse(cdr(train=cut))
    assert "PMID|a|" in refused(cdr(train=whole.replace(f"901|a|{ABSTRACT}\n", ""))).fix


def test_annotations_may_stand_before_their_text() -> None:
    lines = CDR.format(pmid=901).strip().split("\n")
    parsed = bc5cdr.parse(cdr(train="\n".join([*lines[2:], *lines[:2]]) + "\n"))
    assert parsed.documents[0] == bc5cdr.parse(cdr()).documents[0]


def test_an_annotation_of_nothing_is_dropped_and_counted() -> None:
    text = CDR.format(pmid=901).strip() + "\n901\t25\t25\t\tDisease\tD9\n"
    parsed = bc5cdr.parse(cdr(train=text))
    assert len(parsed.documents[0].mentions) == 4
    assert parsed.report["dropped"] == {"mention: of no characters": 1}


def test_bc5cdr_names_missing_files() -> None:
    with pytest.raises(MissingInputError, match=r"missing CDR_DevelopmentSet\.PubTator\.txt"):
        bc5cdr.parse({n: t for n, t in cdr().items() if "Development" not in n})


RED_TEXT = "Belmab cures gout. Lorvapril is no aspirin; TP53 and nephritis."
RED_ENTITIES = [
    (0, 6, "ChemicalEntity", "D1"),
    (13, 17, "DiseaseOrPhenotypicFeature", "D2"),
    (19, 28, "ChemicalEntity", "D3"),
    (35, 42, "ChemicalEntity", "-"),
    (44, 48, "GeneOrGeneProduct", "7157"),
    (53, 62, "DiseaseOrPhenotypicFeature", "D5,D6"),
]


def red(relations: list[tuple[str, str, str]], *, pubtator: bool = False) -> dict[str, str]:
    members = {}
    for number, stem in enumerate(("Train", "Dev", "Test")):
        pmid = str(800 + number)
        if pubtator:
            lines = [f"{pmid}|t|{RED_TEXT[:18]}", f"{pmid}|a|{RED_TEXT[19:]}"]
            lines += [f"{pmid}\t{b}\t{e}\t{RED_TEXT[b:e]}\t{kind}\t{i}" for b, e, kind, i in RED_ENTITIES]
            lines += [f"{pmid}\t{kind}\t{first}\t{second}\tNovel" for kind, first, second in relations]
            members[f"BioRED/{stem}.PubTator"] = "\n".join(lines) + "\n\n"
            continue
        annotations = [
            {
                "id": str(n),
                "infons": {"identifier": i, "type": kind},
                "text": RED_TEXT[b:e],
                "locations": [{"offset": b, "length": e - b}],
            }
            for n, (b, e, kind, i) in enumerate(RED_ENTITIES)
        ]
        document = {
            "id": pmid,
            "passages": [
                {"offset": 0, "text": RED_TEXT[:18], "annotations": annotations[:2]},
                {"offset": 19, "text": RED_TEXT[19:], "annotations": annotations[2:]},
            ],
            "relations": [
                {"id": f"R{n}", "infons": {"entity1": a, "entity2": b, "type": kind, "novel": "No"}}
                for n, (kind, a, b) in enumerate(relations)
            ],
        }
        members[f"BioRED/{stem}.BioC.JSON"] = json.dumps({"documents": [document]}, indent=1)
    return members


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        (("Positive_Correlation", "D1", "D2"), [("causes", "D1", "D2")]),
        (("Positive_Correlation", "D2", "D1"), [("causes", "D1", "D2")]),
        (("Negative_Correlation", "D2", "D1"), [("treats", "D1", "D2")]),
        (("Association", "D1", "D2"), [("associated_with", "D1", "D2")]),
        (("Negative_Correlation", "D1", "D5,D6"), [("treats", "D1", "D5"), ("treats", "D1", "D6")]),
        (("Drug_Interaction", "D3", "D1"), [("interacts_with", "D3", "D1")]),
        (("Positive_Correlation", "D1", "D3"), [("interacts_with", "D1", "D3")]),
        (("Negative_Correlation", "D1", "D3"), [("interacts_with", "D1", "D3")]),
        (("Association", "D1", "D3"), [("associated_with", "D1", "D3")]),
        (("Cotreatment", "D1", "D3"), [("associated_with", "D1", "D3")]),
        (("Comparison", "D1", "D3"), "relation: chemical-chemical Comparison"),
        (("Bind", "D1", "D2"), "relation: chemical-disease Bind"),
        (("Association", "D2", "D5"), "relation: disease-disease Association"),
        (("Association", "D1", "7157"), "relation: with a gene, variant, species or cell line"),
        (("Association", "D1", "D404"), "relation: a concept without a mention"),
        (("Association", "D1", "D1"), "relation: of a concept to itself"),
    ],
)
@pytest.mark.parametrize("pubtator", [False, True])
def test_biored_relations_are_mapped_by_the_types_of_their_ends(
    relation: tuple[str, str, str], expected: list[tuple[str, str, str]] | str, pubtator: bool
) -> None:
    parsed = biored.parse(red([relation], pubtator=pubtator))
    if isinstance(expected, str):
        assert parsed.documents[0].relations == ()
        assert parsed.report["dropped"] == {"mention: GeneOrGeneProduct": 3, expected: 3}
    else:
        assert parsed.documents[0].relations == tuple(Relation(*values) for values in expected)
        assert parsed.report["dropped"] == {"mention: GeneOrGeneProduct": 3}


def test_biored_concepts_and_splits() -> None:
    parsed = biored.parse(red([]))
    assert Counter(d.split for d in parsed.documents) == {"train": 1, "validation": 1, "test": 1}
    assert [m.concepts for m in parsed.documents[0].mentions] == [
        ("D1",),
        ("D2",),
        ("D3",),
        ("text:aspirin",),
        ("D5", "D6"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"offset": 19, "text"', '"offset": 20, "text"', "found passage 1 at offset 20; expected 19"),
        ('"text": "gout"', '"text": "aspirin"', "are 'gout'; expected the mention 'aspirin', which stands at 35-42"),
        ('"length": 9', '"length": -1', "found '-1' under 'length' of annotation"),
        ('"length": 9', '"length": "9"', "under 'length' of annotation"),
        ('"length": 9', '"length": true', "under 'length' of annotation"),
        ('"id": "800"', '"id": "PMC1"', "found document id 'PMC1'"),
        ('"ChemicalEntity"', '"Chemical"', "found entity type 'Chemical'; expected one of"),
        ('"type": "Association"', '"type": "Is_A"', "found relation type 'Is_A'; expected one of"),
        ('"entity2"', '"entity3"', "relation R0 has no 'entity2'"),
        ('"text": "gout"', '"text": "\\ud800"', "which is no character"),
        ('"documents"', '"docs"', "the collection has no 'documents'"),
        ("]", "", "no JSON"),
    ],
)
def test_broken_bioc_is_named_with_file_and_line(old: str, new: str, message: str) -> None:
    files = red([("Association", "D1", "D2")])
    text = json.dumps(json.loads(files["BioRED/Train.BioC.JSON"]))
    assert old in text
    files["BioRED/Train.BioC.JSON"] = text.replace(old, new, 1)
    with pytest.raises(CorpusFormatError) as raised:
        biored.parse(files)
    assert str(raised.value).startswith("BioRED/Train.BioC.JSON:1")
    assert message in str(raised.value)


def test_bioc_errors_name_the_line_of_their_document() -> None:
    files = red([])
    text = files["BioRED/Train.BioC.JSON"].replace('"text": "gout"', '"text": "aspirin"')
    files["BioRED/Train.BioC.JSON"] = "\n\n" + text
    with pytest.raises(CorpusFormatError, match=r"BioRED/Train\.BioC\.JSON:6, document 800, annotation 1: characters"):
        biored.parse(files)


def red_with(**changes: Any) -> ParsedCorpus:
    """Parse BioRED after changing the second annotation ("gout", D2) of the first abstract."""
    files = red([("Association", "D1", "D2")])
    collection = json.loads(files["BioRED/Train.BioC.JSON"])
    annotation = collection["documents"][0]["passages"][0]["annotations"][1]
    annotation["infons"] |= changes.pop("infons", {})
    annotation |= changes
    return biored.parse(files | {"BioRED/Train.BioC.JSON": json.dumps(collection)})


@pytest.mark.parametrize(
    ("locations", "reason"),
    [
        ([(7, 5), (13, 4)], None),  # "cures" and "gout", with a space between them
        ([(13, 4), (13, 2)], None),
        ([(0, 6), (13, 4)], "mention: in several pieces"),
        ([(13, 4), (0, 6)], "mention: in several pieces"),
        ([], "mention: without a place"),
    ],
)
def test_a_mention_of_several_locations_costs_itself_alone(
    locations: list[tuple[int, int]], reason: str | None
) -> None:
    places = [{"offset": begin, "length": length} for begin, length in locations]
    parsed = red_with(locations=places, text="cures gout" if (7, 5) in locations else "gout")
    first = parsed.documents[0]
    assert len(parsed.documents) == 3
    counts = {reason: 1, "relation: a concept without a mention": 1} if reason else {}
    assert parsed.report["dropped"] == {"mention: GeneOrGeneProduct": 3, **counts}
    assert [m.text for m in first.mentions][:2] == [
        "Belmab",
        "Lorvapril" if reason else RED_TEXT[first.mentions[1].begin : 17],
    ]


def test_what_bioc_leaves_open_is_read() -> None:
    assert red_with(infons={"identifier": None}).documents[0].mentions[1].concepts == ("text:gout",)
    normalised = red_with(text="GOUT®")
    assert normalised.documents[0].mentions[1].text == "gout"
    assert normalised.report["normalised_mentions"] == 1
    empty = red_with(locations=[{"offset": 13, "length": 0}], text="")
    assert empty.report["dropped"]["mention: of no characters"] == 1


def test_all_faults_of_a_bioc_file_are_named_at_once() -> None:
    files = red([("Is_A", "D1", "D2")])
    train = "BioRED/Train.BioC.JSON"
    files[train] = files[train].replace('"ChemicalEntity"', '"Chemical"', 1).replace('"offset": 35', '"offset": 36')
    files[train] = files[train].replace('"length": 9', '"length": "9"', 1)
    lines = str(refused(files, biored)).splitlines()
    words = ["'9' under 'length'", "'aspirin', which stands at 35-42", "entity type 'Chemical'", *["type 'Is_A'"] * 3]
    assert [word in line for word, line in zip(words, lines, strict=False)] == [True] * 6


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"documents": []}', "[" * 100_000, "9" * 5000])
def test_json_that_is_no_collection(text: str) -> None:
    with pytest.raises(CorpusFormatError, match=r"BioRED/Train\.BioC\.JSON:1: "):
        biored.parse(red([]) | {"BioRED/Train.BioC.JSON": text})


def test_json_that_is_nested_too_deep_names_the_place() -> None:
    text = '{"documents":\n' + "[" * 300 + "]" * 300 + "}"
    with pytest.raises(CorpusFormatError, match=r"BioC\.JSON:2: no JSON \(Nested more than 200 deep, column 200\)"):
        biored.parse(red([]) | {"BioRED/Train.BioC.JSON": text})


def test_biored_names_missing_members() -> None:
    members = red([])
    del members["BioRED/Dev.BioC.JSON"]
    with pytest.raises(MissingInputError, match=r"missing BioRED/Dev\.BioC\.JSON"):
        biored.parse(members)
