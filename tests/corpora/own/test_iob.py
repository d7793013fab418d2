"""Tokens in columns: schemes of tags, documents, and tags that do not fit."""

from __future__ import annotations

import pytest

from corpora.own.reading import mentions, read

TYPES = {"entities": ["Gene", "Dose"]}


@pytest.mark.parametrize(
    "tags",
    [
        "B-Gene O B-Dose I-Dose O",
        "I-Gene O I-Dose I-Dose O",  # IOB1
        "U-Gene O B-Dose L-Dose O",
        "S-Gene O B-Dose E-Dose O",
    ],
)
def test_the_schemes_say_the_same(tags: str) -> None:
    text = "".join(f"{token}\t{tag}\n" for token, tag in zip("BRAF got 5 mg .".split(), tags.split(), strict=True))
    found, faults, _ = read("iob", {"a.tsv": text}, **TYPES)
    assert faults == []
    assert found.documents[0].text == "BRAF got 5 mg."
    assert mentions(found) == [[("BRAF", "Gene"), ("5 mg", "Dose")]]


def test_two_mentions_side_by_side_are_two() -> None:
    found, _, _ = read("iob", {"a.tsv": "BRAF\tB-Gene\nTP53\tB-Gene\n5\tI-Dose\n"}, **TYPES)
    assert mentions(found) == [[("BRAF", "Gene"), ("TP53", "Gene"), ("5", "Dose")]]


def test_documents_are_marked_or_sentences_are_documents() -> None:
    marked = "-DOCSTART- -X- O O\n\na O\n\nb O\n\n-DOCSTART- (PMID7)\n\nc O\n"
    found, faults, _ = read("iob", {"a.conll": marked}, **TYPES)
    assert (faults, [one.text for one in found.documents]) == ([], ["a b", "c"])
    assert [one.id for one in found.documents] == ["notes-a.conll:3", "notes-(PMID7)"]
    found, _, _ = read("iob", {"a.conll": "# sent_id = 1\na O\n\n\nb O\n"}, **TYPES)
    assert [(one.id, one.text) for one in found.documents] == [("notes-a.conll:2", "a"), ("notes-a.conll:5", "b")]


def test_columns_are_named_by_number() -> None:
    found, faults, _ = read("iob", {"a.tsv": "1\tBRAF\tB-Gene\tNN\n"}, **TYPES, fields={"token": 1, "tag": 2})
    assert (faults, mentions(found)) == ([], [[("BRAF", "Gene")]])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("BRAF\tGene\n", "a.tsv:1: found 'BRAF\\tGene'; expected a token and a tag"),
        ("BRAF\n", "a.tsv:1: found 'BRAF'"),
        ("a\tO\n\tO\n", "a.tsv:2: found '\\tO'"),
        ("a\tU-Gene\nb\tI-Gene\n", "a.tsv:2: I-Gene goes on with nothing."),
        ("a\tU-Gene\nb\tB-Gene\nc\tO\n", "a.tsv:2: B-Gene has no end behind it."),
        ("a\tB-Gene\nb\tL-Dose\n", "a.tsv:1: B-Gene has no end behind it."),
        ("a\tB-Drug\n", "a.tsv:1: found the entity type 'Drug'"),
    ],
)
def test_a_tag_that_does_not_fit_is_named_and_costs_its_mention(text: str, fault: str) -> None:
    found, faults, _ = read("iob", {"a.tsv": text}, **TYPES, on_fault="drop")
    assert faults[0].startswith(fault)
    assert len(found.documents) == 1
    assert not [m for m in found.documents[0].mentions if (m.text, m.type) != ("a", "Gene")]
