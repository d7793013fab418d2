"""The project's own records, read back to documents that make the same records."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corpora.own.reading import mentions, read
from odin_slm.config.parameters import TaskParams
from odin_slm.corpora.synthetic.generator import generate
from odin_slm.tasks.extraction.records import make_record
from own_corpora_files import BLOCK

OUTPUT = "### Entities:\n1. [Gene] BRAF\n2. [Dose] 5 mg\n\n### Relations:\n1. BRAF --[given_at]--> 5 mg"


def record(**changes: Any) -> dict[str, str]:
    row = {"instruction": "x", "input": "BRAF at 5 mg, BRAF again.", "output": OUTPUT, **changes}
    return {"a.json": json.dumps([row], indent=1)}


def test_a_mention_stands_wherever_its_text_does() -> None:
    found, faults, _ = read("records", record())
    assert (faults, mentions(found)) == ([], [[("BRAF", "Gene"), ("5 mg", "Dose"), ("BRAF", "Gene")]])
    task = TaskParams.model_validate({"own_corpora": {"notes": {"folder": "x", "format": "records", **BLOCK}}}).task()
    assert task.records(found.documents[0], "x")[0]["output"] == OUTPUT


def test_windows_of_one_document_stay_together() -> None:
    found, _, _ = read("records", record(id="d7#w0", document_id="d7"))
    assert (found.documents[0].id, found.documents[0].pmid) == ("notes-d7#w0", "notes-d7")


def test_the_sample_is_read_back_to_its_records() -> None:
    documents = generate(40, 5)
    rows = [dict(make_record(document, instruction="x")) for document in documents]
    pairs = {"head": ["Drug"], "tail": ["Disease", "Symptom", "Drug"]}
    relations = dict.fromkeys(("causes", "treats", "associated_with", "interacts_with"), pairs)
    found, faults, _ = read(
        "records", {"a.json": json.dumps(rows)}, entities=["Drug", "Disease", "Symptom"], relations=relations
    )
    assert faults == []
    back = [make_record(document, instruction="x")["output"] for document in found.documents]
    assert [set(output.split("\n")) for output in back] == [set(row["output"].split("\n")) for row in rows]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"input": "Nothing."}, "a.json:2: the output names 'BRAF', which the input does not say."),
        ({"output": OUTPUT.replace("1. [Gene]", "1 [Gene]")}, "a.json:2: the output says '1 [Gene] BRAF'"),
        ({"output": ""}, "a.json:2: the output says '<headers: none>'"),
        ({"output": None}, "a.json:2: found NoneType under 'output' of a record"),
        ({"output": OUTPUT.replace("--> 5 mg", "--> 6 mg")}, "a.json:2: given_at relates the concept 'text:6 mg'"),
        ({"output": OUTPUT.replace("[Gene]", "[Drug]")}, "a.json:2: found the entity type 'Drug'"),
    ],
)
def test_an_output_that_is_none_is_named(changes: dict[str, Any], fault: str) -> None:
    _, faults, _ = read("records", record(**changes))
    assert [one for one in faults if one.startswith(fault)], faults
