"""From a model's predictions to every tool's file and back through the readers: the same documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from odin_slm.core.document import Document, Mention, Relation, surface_concept
from odin_slm.core.hashing import canonical_jsonl, sha256_text
from odin_slm.corpora import own
from odin_slm.corpora.own.block import OwnCorpus
from odin_slm.corpora.synthetic.generator import generate
from odin_slm.review.exports import FORMATS
from odin_slm.review.queue import task_of
from odin_slm.review.returned import take_back
from odin_slm.tasks.extraction.schema import MEDICAL
from review_values import META, tasks

RELATIONS = [[kind, head, tail] for kind, pairs in MEDICAL.signatures for head, tail in pairs]
TYPES = {"entities": list(MEDICAL.entities), "relations": RELATIONS}
KNOWN = {
    "entities": list(MEDICAL.entities),
    "relations": {
        kind: {"head": sorted({head for head, _ in pairs}), "tail": sorted({tail for _, tail in pairs})}
        for kind, pairs in MEDICAL.signatures
    },
}


def accepted_lines(text: str) -> str:
    return canonical_jsonl([{**json.loads(line), "answer": "accept"} for line in text.splitlines()])


def accepted_in_label_studio(text: str) -> str:
    """What Label Studio exports where every prediction was taken over: tasks with numbers of its own."""
    exported = [
        {"id": number, "data": task["data"], "annotations": [{"id": 1, "result": task["predictions"][0]["result"]}]}
        for number, task in enumerate(json.loads(text), start=900)
    ]
    return json.dumps(exported, ensure_ascii=False)


TOOLS: dict[str, tuple[str, Callable[[dict[str, str]], dict[str, str]]]] = {
    "queue": ("jsonl", lambda files: {"queue.jsonl": accepted_lines(files["queue.jsonl"])}),
    "prodigy": ("jsonl", lambda files: {"out.jsonl": accepted_lines(files["tasks.jsonl"])}),
    "label_studio": ("jsonl", lambda files: {"out.json": accepted_in_label_studio(files["tasks.json"])}),
    "brat": ("brat", lambda files: {name: text for name, text in files.items() if name != "annotation.conf"}),
}


def predicted(document: Document) -> dict[str, Any]:
    """A document's own annotations, as if a model had predicted them; places in text order, surfaces as they stand."""
    entities: dict[tuple[str, str], dict[str, Any]] = {}
    for m in document.mentions:
        one = {"type": m.type, "text": m.text, "occurrences": [], "confidence": 0.75}
        place = {"begin": m.begin, "end": m.end, "text": m.text}
        entities.setdefault((m.type, m.text), one)["occurrences"].append(place)
    named = {concept: entities[m.type, m.text] for m in reversed(document.mentions) for concept in m.concepts}
    relations = [
        {"type": r.type, "head": named[r.head], "tail": named[r.tail], "confidence": 0.5} for r in document.relations
    ]
    return {"id": document.id, "text": document.text, "entities": list(entities.values()), "relations": relations}


def as_document(task: dict[str, Any]) -> Document:
    """What a line of the queue says, by hand: one concept for a surface of one type."""
    text = task["text"]

    def concept(span: dict[str, Any]) -> str:
        return f"{surface_concept(text[span['start'] : span['end']])}|{span['label']}"

    mentions = [
        Mention(s["start"], s["end"], text[s["start"] : s["end"]], s["label"], (concept(s),)) for s in task["spans"]
    ]
    relations = [Relation(r["label"], concept(r["head_span"]), concept(r["child_span"])) for r in task["relations"]]
    name = f"back-{task['id']}"
    return Document(name, text, "back", f"pmid-{task['id']}", "train", tuple(mentions), tuple(dict.fromkeys(relations)))


@pytest.mark.parametrize("tool", FORMATS)
def test_all_documents_come_back_as_they_were(tool: str) -> None:
    given = tasks() + [task_of(predicted(one), META) for one in generate(80, seed=11, corpus="biored")]
    assert sum(len(task["relations"]) for task in given) > 80
    known = {
        task["id"]: {"text_sha256": sha256_text(task["text"]), "pmid": f"pmid-{task['id']}", "split": "train"}
        for task in given
    }
    form, accept = TOOLS[tool]
    block = OwnCorpus.model_validate({"folder": ".", "format": form, **KNOWN})
    read = own.parse("back", block, accept(FORMATS[tool](given, TYPES)), {}).documents
    found = {document.id: document for document in take_back(read, {"documents": known})}
    identical = [task["id"] for task in given if found.get(f"back-{task['id']}") == as_document(task)]
    assert len(identical) == len(found) == len(given) == 82


def test_what_nobody_has_accepted_does_not_come_back() -> None:
    given = [{**task, "answer": answer} for task, answer in zip(tasks(), ("accept", None), strict=True)]
    block = OwnCorpus.model_validate({"folder": ".", "format": "jsonl", **KNOWN})
    parsed = own.parse("back", block, FORMATS["queue"](given, TYPES), {})
    assert [document.id for document in parsed.documents] == ["back-note-1"]
    assert parsed.report["dropped"] == {"document: answered None": 1}
