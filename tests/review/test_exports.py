"""What the annotation tools are given, against files made by hand."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

from odin_slm.review.exports import FORMATS
from review_values import META, TEXT, TYPES, tasks


def test_brat_gets_texts_annotations_and_its_configuration() -> None:
    files = FORMATS["brat"](tasks(), TYPES)
    assert files["note-1.txt"] == TEXT
    assert files["note-1.ann"].splitlines() == [
        "T1\tDrug 2 9\tAspirin",
        "#1\tAnnotatorNotes T1\tconfidence 0.90",
        "T2\tSymptom 19 23\trash",
        "#2\tAnnotatorNotes T2\tconfidence 0.50",
        "T3\tSymptom 29 33\trash",
        "#3\tAnnotatorNotes T3\tconfidence 0.50",
        "T4\tSymptom 29 37;38 43\trash and fever",
        "#4\tAnnotatorNotes T4\tconfidence 0.40",
        "T5\tDrug 51 58\taspirin",
        "#5\tAnnotatorNotes T5\tconfidence 0.90",
        "R1\tcauses Arg1:T1 Arg2:T2",
        "R2\tcauses Arg1:T5 Arg2:T4",
    ]
    assert (files["note-2.txt"], files["note-2.ann"]) == ("Nothing was found.", "")
    known = files["annotation.conf"].split("\n")
    assert known[:5] == ["[entities]", "Drug", "Symptom", "[relations]", "causes\tArg1:Drug, Arg2:Symptom"]


def test_label_studio_gets_predictions_and_a_labelling_configuration() -> None:
    files = FORMATS["label_studio"](tasks(), TYPES)
    first, second = json.loads(files["tasks.json"])
    assert first["data"] == {"id": "note-1", "text": TEXT, "meta": META}
    (prediction,) = first["predictions"]
    assert prediction["model_version"] == "sha256:0"
    assert prediction["score"] == 0.75
    marks = [one for one in prediction["result"] if one["type"] == "labels"]
    units = TEXT.encode("utf-16-le")
    places = [(2 * one["value"]["start"], 2 * one["value"]["end"]) for one in marks]
    assert [units[begin:end].decode("utf-16-le") for begin, end in places] == [m["value"]["text"] for m in marks]
    assert [one["value"]["labels"] for one in marks] == [["Drug"], *[["Symptom"]] * 3, ["Drug"]]
    links = [(o["from_id"], o["to_id"], o["labels"]) for o in prediction["result"] if o["type"] == "relation"]
    assert links == [("T1", "T2", ["causes"]), ("T5", "T4", ["causes"])]
    assert second["predictions"][0]["result"] == []
    view = ElementTree.fromstring(files["label-studio.xml"])
    names = {(one.tag, one.get("value")) for one in view.iter() if one.tag in ("Label", "Relation")}
    assert names == {("Label", "Drug"), ("Label", "Symptom"), ("Relation", "causes")}
    controls = {one.get("name"): one.get("toName") for one in view.iter() if one.get("name")}
    assert controls == {"label": "text", "text": None}, "the names that the predictions are from and to"


def test_prodigy_gets_tokens_that_every_span_is_made_of() -> None:
    first = json.loads(FORMATS["prodigy"](tasks(), TYPES)["tasks.jsonl"].splitlines()[0])
    assert "".join(t["text"] + " " * t["ws"] for t in first["tokens"]) == re.sub(r"\n", " ", TEXT)
    assert [token["id"] for token in first["tokens"]] == list(range(len(first["tokens"])))
    for span in (*first["spans"], *(r[side] for r in first["relations"] for side in ("head_span", "child_span"))):
        assert first["tokens"][span["token_start"]]["start"] == span["start"]
        assert first["tokens"][span["token_end"]]["end"] == span["end"]
    assert [(r["head"], r["child"]) for r in first["relations"]] == [
        (r["head_span"]["token_end"], r["child_span"]["token_end"]) for r in first["relations"]
    ]
    assert "answer" not in first


def test_a_span_within_a_word_cuts_the_token() -> None:
    task = {**tasks()[1], "text": "antirash", "spans": [{"start": 4, "end": 8, "label": "Symptom", "confidence": None}]}
    found = json.loads(FORMATS["prodigy"]([task], TYPES)["tasks.jsonl"])
    assert [token["text"] for token in found["tokens"]] == ["anti", "rash"]


def test_every_file_says_which_model_and_when() -> None:
    for form, write in FORMATS.items():
        files = write(tasks(), TYPES)
        if form != "brat":  # its folder has review.json beside it
            text = "".join(files.values())
            assert META["model"] in text
            assert META["made"] in text
