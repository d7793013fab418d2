"""BioC in XML and JSON: passages and sentences, relations of annotations and of concepts, and what is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from corpora.own.reading import mentions, read, relations
from own_corpora_files import NOTES, bioc_json, bioc_xml


def annotation(key: str, begin: int, text: str, kind: str, **infons: str) -> dict[str, Any]:
    place = [{"offset": begin, "length": len(text)}]
    return {"id": key, "infons": {"type": kind, **infons}, "text": text, "locations": place}


def document(*passages: dict[str, Any], relations: Any = ()) -> dict[str, str]:
    held = [{"annotations": [], "infons": {}, **passage} for passage in passages]
    one = {"id": "7", "passages": held, "relations": list(relations)}
    return {"a.json": json.dumps({"documents": [one]}, ensure_ascii=False, indent=1)}


def test_gaps_between_passages_shift_their_mentions() -> None:
    files = document(
        {"offset": 10, "text": "Naïve BRAF.", "annotations": [annotation("1", 16, "BRAF", "Gene")]},
        {"offset": 500, "text": "Then 5 mg.", "annotations": [annotation("2", 505, "5 mg", "Dose")]},
    )
    found, faults, _ = read("bioc_json", files)
    assert faults == []
    assert found.documents[0].text == "Naïve BRAF. Then 5 mg."
    assert mentions(found) == [[("BRAF", "Gene"), ("5 mg", "Dose")]]


def test_passages_that_count_bytes_are_read_as_bytes() -> None:
    files = document(
        {"offset": 0, "text": "Naïve β BRAF.", "annotations": [annotation("1", 10, "BRAF", "Gene")]},
        {"offset": 16, "text": "Then 5 mg.", "annotations": [annotation("2", 21, "5 mg", "Dose")]},
    )
    found, faults, _ = read("bioc_json", files)
    assert faults == []
    assert mentions(found) == [[("BRAF", "Gene"), ("5 mg", "Dose")]]
    assert found.choice
    assert found.choice.reading.unit == "bytes"


def test_sentences_hold_text_and_annotations_in_place_of_their_passage() -> None:
    sentences = [
        {"offset": 0, "infons": {}, "text": "BRAF.", "annotations": [annotation("1", 0, "BRAF", "Gene")]},
        {"offset": 6, "infons": {}, "text": "5 mg.", "annotations": [annotation("2", 6, "5 mg", "Dose")]},
    ]
    related = [{"id": "R", "infons": {"type": "given_at"}, "nodes": [{"refid": "1"}, {"refid": "2"}]}]
    for text in (None, "BRAF. 5 mg."):
        passage = {"offset": 0, "sentences": sentences, "relations": related, **({"text": text} if text else {})}
        found, faults, _ = read("bioc_json", document(passage))
        assert faults == []
        assert found.documents[0].text.strip() == "BRAF. 5 mg."
        assert relations(found) == [[("braf", "given_at", "5 mg")]]


def test_relations_of_concepts_hold_between_their_ids() -> None:
    marked = [annotation("1", 0, "BRAF", "Gene", identifier="673"), annotation("2", 5, "5 mg", "Dose", identifier="D1")]
    infons = {"type": "given_at", "entity1": "673", "entity2": "D1", "novel": "No"}
    found, faults, _ = read(
        "bioc_json",
        document({"offset": 0, "text": "BRAF 5 mg", "annotations": marked}, relations=[{"id": "R0", "infons": infons}]),
    )
    assert (faults, relations(found)) == ([], [[("673", "given_at", "D1")]])


def test_what_has_no_place_or_more_than_two_arguments_is_counted() -> None:
    nowhere = {**annotation("1", 0, "BRAF", "Gene"), "locations": []}
    related = [
        {"id": "R1", "infons": {"type": "given_at"}, "nodes": [{"refid": "1"}, {"refid": "2"}]},
        {"id": "R2", "infons": {"type": "given_at"}, "nodes": [{"refid": "2"}]},
        {"id": "R3", "infons": {"type": "given_at"}, "nodes": [{"refid": "R2"}, {"refid": "2"}]},
    ]
    passage = {"offset": 0, "text": "BRAF 5 mg", "annotations": [nowhere, annotation("2", 5, "5 mg", "Dose")]}
    found, faults, _ = read("bioc_json", document(passage, relations=related))
    assert faults == []
    assert found.dropped == {
        "mention: without a place": 1,
        "relation: of other than two mentions": 1,
        "relation: with a mention that was dropped": 2,
    }


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('offset="20"', 'offset="21"', "notes.xml:16: characters 21-25"),
        ('<node refid="T1"', '<node refid="T9"', "notes.xml:12: given_at relates the mention 'T9'"),
        ("</collection>", "", "notes.xml:30: no XML (no element found, column 1)"),
        ("<collection>", "<set>", "notes.xml:29: no XML (mismatched tag"),
        ("<offset>0</offset>", "<offset>x</offset>", "notes.xml:5: document 11: found 'x' under 'offset'"),
        ("<id>11</id>", "<id> </id>", "notes.xml:4: found the document id ' '"),
    ],
)
def test_a_fault_in_xml_is_named_with_its_line(old: str, new: str, fault: str) -> None:
    text = bioc_xml(NOTES)["notes.xml"].decode()
    assert old in text
    _, faults, _ = read("bioc_xml", {"notes.xml": text.replace(old, new)})
    assert [one for one in faults if one.startswith(fault)], faults


def test_a_fault_in_json_is_named_with_its_line() -> None:
    text = bioc_json(NOTES)["notes.json"].decode()
    line = text[: text.index('"text": "TP53"')].count("\n") + 1
    _, (fault,), _ = read("bioc_json", {"notes.json": text.replace('"offset": 20', '"offset": 21')})
    place, _, what = fault.partition(": ")
    assert what.startswith("characters 21-25")
    assert abs(int(place.partition(":")[2]) - line) < 6, "the line where its object begins"


@pytest.mark.parametrize(
    "definition",
    ["<!ENTITY a 'b'>", "<!ENTITY a 'b'><!ENTITY c '&a;&a;'>", "<!ENTITY a SYSTEM 'file:///etc/passwd'>"],
)
def test_xml_that_defines_entities_is_refused(definition: str) -> None:
    text = bioc_xml(NOTES)["notes.xml"].decode().replace("SYSTEM 'BioC.dtd'", f"[{definition}]").replace("BRAF", "&a;")
    found, faults, _ = read("bioc_xml", {"notes.xml": text})
    assert found.documents == []
    assert faults == ["notes.xml:1: found EntitiesForbidden; expected no definitions of entities."]


def test_json_that_is_nested_without_end_is_refused() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000):
        found, faults, _ = read("bioc_json", {"a.json": text})
        assert found.documents == []
        assert faults[0].startswith("a.json:1: no ")


@pytest.mark.parametrize("roles", [lambda kind, key: {"type": kind, "identifier": key}, "{}|{}".format])
def test_relations_of_pubtator_3_name_concepts_beside_a_node_of_their_own(roles: Callable[[str, str], Any]) -> None:
    held = [
        annotation("2", 0, "BRAF", "Gene", identifier="673"),
        annotation("9", 8, "5 mg", "Dose", identifier="MESH:D1"),
    ]
    infons = {"score": "0.99", "type": "given_at", "role1": roles("Dose", "MESH:D1")}
    related = {
        "id": "R1",
        "infons": {**infons, "role2": roles("Gene", "673")},
        "nodes": [{"refid": "0", "role": "1,0"}],
    }
    found, faults, _ = read(
        "bioc_json", document({"offset": 0, "text": "BRAF at 5 mg.", "annotations": held}, relations=[related])
    )
    assert faults == []
    assert relations(found) == [[("673", "given_at", "MESH:D1")]], "in the order that its type has"


def test_one_document_and_pubtators_answer_are_collections_as_well() -> None:
    whole = json.loads(bioc_json(NOTES)["notes.json"])["documents"]
    for value in (whole[0], {"PubTator3": whole[:1]}):
        found, faults, _ = read("bioc_json", {"a.json": json.dumps(value)})
        assert (faults, [one.id for one in found.documents]) == ([], ["notes-11"])
