"""BC5CDR and BioRED: official splits, concepts, mapped relations, and errors that name file and line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from odin_slm.core.document import Mention, Relation
from odin_slm.core.errors import CorpusFormatError, MissingInputError
from odin_slm.corpora import bc5cdr, biored

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
        ('"text": "gout"', '"text": "goat"', "expected the mention 'goat'"),
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
    text = files["BioRED/Train.BioC.JSON"].replace('"text": "gout"', '"text": "goat"')
    files["BioRED/Train.BioC.JSON"] = "\n\n" + text
    with pytest.raises(CorpusFormatError, match=r"BioRED/Train\.BioC\.JSON:6, document 800, annotation 1: characters"):
        biored.parse(files)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"documents": []}', "[" * 100_000, "9" * 5000])
def test_json_that_is_no_collection(text: str) -> None:
    with pytest.raises(CorpusFormatError, match=r"BioRED/Train\.BioC\.JSON:1: "):
        biored.parse(red([]) | {"BioRED/Train.BioC.JSON": text})


def test_biored_names_missing_members() -> None:
    members = red([])
    del members["BioRED/Dev.BioC.JSON"]
    with pytest.raises(MissingInputError, match=r"missing BioRED/Dev\.BioC\.JSON"):
        biored.parse(members)
