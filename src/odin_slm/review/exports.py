"""A queue as files for annotation tools, with the model's predictions in them.

Offsets count Unicode code points; in Label Studio's file UTF-16 units, as its page does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any
from xml.sax.saxutils import quoteattr

from odin_slm.core.hashing import canonical_json, canonical_jsonl
from odin_slm.review.queue import span_key

Tasks = Sequence[Mapping[str, Any]]
Types = Mapping[str, Any]
_TOKEN = re.compile(r"\w+|[^\w\s]")


def queue(tasks: Tasks, types: Types) -> dict[str, str]:
    """Return the project's own file, which the page ``/review`` corrects."""
    return {"queue.jsonl": canonical_jsonl([dict(task) for task in tasks])}


def prodigy(tasks: Tasks, types: Types) -> dict[str, str]:
    """Return tasks for Prodigy's ``rel.manual`` and ``spans.manual`` (https://prodi.gy/docs/api-interfaces).

    Tokens are words and signs, and end wherever a span begins or ends, so that every span is made of whole tokens.
    """
    return {"tasks.jsonl": canonical_jsonl([_prodigy(task) for task in tasks])}


def _prodigy(task: Mapping[str, Any]) -> dict[str, Any]:
    text = task["text"]
    cuts = {place for span in task["spans"] for place in (span["start"], span["end"])}
    tokens: list[dict[str, Any]] = []
    for match in _TOKEN.finditer(text):
        ends = [match.start(), *sorted(cut for cut in cuts if match.start() < cut < match.end()), match.end()]
        for begin, end in pairwise(ends):
            one = {"text": text[begin:end], "start": begin, "end": end, "id": len(tokens)}
            tokens.append({**one, "ws": text[end : end + 1].isspace()})
    first = {token["start"]: token["id"] for token in tokens}
    last = {token["end"]: token["id"] for token in tokens}

    def aligned(span: Mapping[str, Any]) -> dict[str, Any]:
        return {**span, "token_start": first[span["start"]], "token_end": last[span["end"]]}

    relations = []
    for relation in task["relations"]:
        head, child = aligned(relation["head_span"]), aligned(relation["child_span"])
        places = {"head": head["token_end"], "child": child["token_end"]}
        relations.append({**relation, **places, "head_span": head, "child_span": child})
    made = {"tokens": tokens, "spans": [aligned(span) for span in task["spans"]], "relations": relations}
    return {key: value for key, value in {**task, **made}.items() if key != "answer"}


def label_studio(tasks: Tasks, types: Types) -> dict[str, str]:
    """Return tasks with predictions for Label Studio, and the labelling configuration of its project.

    Offsets are those of its page, JavaScript's, so UTF-16 units. Source: https://labelstud.io/guide/predictions
    """
    kinds = sorted({kind for kind, _, _ in types["relations"]})
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in types["entities"])
    relations = "".join(f"    <Relation value={quoteattr(name)}/>\n" for name in kinds)
    config = f'<View>\n  <Relations>\n{relations}  </Relations>\n  <Labels name="label" toName="text">\n{labels}'
    config += '  </Labels>\n  <Text name="text" value="$text"/>\n</View>\n'
    return {"tasks.json": canonical_json([_label_studio(task) for task in tasks]), "label-studio.xml": config}


def _label_studio(task: Mapping[str, Any]) -> dict[str, Any]:
    names = {span_key(span): f"T{number}" for number, span in enumerate(task["spans"], start=1)}
    place = {"from_name": "label", "to_name": "text", "type": "labels"}
    result: list[dict[str, Any]] = []
    for span in task["spans"]:
        start, end = (len(task["text"][: span[key]].encode("utf-16-le")) // 2 for key in ("start", "end"))
        value = {"start": start, "end": end, "text": task["text"][span["start"] : span["end"]]}
        one = {"id": names[span_key(span)], **place, "value": {**value, "labels": [span["label"]]}}
        result.append({**one, "score": span["confidence"]})
    for relation in task["relations"]:
        ends = {f"{end}_id": names[span_key(relation[f"{side}_span"])] for end, side in _ENDS}
        result.append({"type": "relation", **ends, "direction": "right", "labels": [relation["label"]]})
    meta = task["meta"]
    prediction = {"model_version": meta["model"], "score": 1.0 - meta["uncertainty"], "result": result}
    return {"data": {"id": task["id"], "text": task["text"], "meta": meta}, "predictions": [prediction]}


_ENDS = (("from", "head"), ("to", "child"))


def brat(tasks: Tasks, types: Types) -> dict[str, str]:
    """Return a folder for brat: text, annotations, and its configuration (https://brat.nlplab.org/standoff.html).

    Confidences are notes. A mention over several lines is given in pieces, as brat has it.
    """
    files = {"annotation.conf": _brat_types(types)}
    for task in tasks:
        text, lines = task["text"], []
        names = {span_key(span): f"T{number}" for number, span in enumerate(task["spans"], start=1)}
        for number, span in enumerate(task["spans"], start=1):
            pieces = _lines_of(text, span["start"], span["end"])
            places = ";".join(f"{begin} {end}" for begin, end in pieces)
            covered = " ".join(text[begin:end] for begin, end in pieces)
            lines.append(f"T{number}\t{span['label']} {places}\t{covered}")
            if span["confidence"] is not None:
                lines.append(f"#{number}\tAnnotatorNotes T{number}\tconfidence {span['confidence']:.2f}")
        for number, relation in enumerate(task["relations"], start=1):
            head, tail = (names[span_key(relation[side])] for side in ("head_span", "child_span"))
            lines.append(f"R{number}\t{relation['label']} Arg1:{head} Arg2:{tail}")
        files[f"{task['id']}.txt"] = text
        files[f"{task['id']}.ann"] = "".join(f"{line}\n" for line in lines)
    return files


def _lines_of(text: str, begin: int, end: int) -> list[tuple[int, int]]:
    """Cut a span at line breaks, without the space around the cuts."""
    matches = re.finditer(r"[^\n]+", text[begin:end])
    found = [(begin + m.start(), begin + m.end()) for m in matches if m[0].strip()]
    return [
        (b + len(text[b:e]) - len(text[b:e].lstrip()), e - len(text[b:e]) + len(text[b:e].rstrip())) for b, e in found
    ]


def _brat_types(types: Types) -> str:
    ends: dict[tuple[str, str], list[str]] = {}
    for kind, head, tail in types["relations"]:
        ends.setdefault((kind, head), []).append(tail)
    relations = [f"{kind}\tArg1:{head}, Arg2:{'|'.join(tails)}" for (kind, head), tails in ends.items()]
    overlaps = "<OVERLAP>\tArg1:<ENTITY>, Arg2:<ENTITY>, <OVL-TYPE>:<ANY>"
    lines = ["[entities]", *types["entities"], "[relations]", *relations, overlaps, "[events]", "[attributes]"]
    return "".join(f"{line}\n" for line in lines)


FORMATS: Mapping[str, Callable[[Tasks, Types], dict[str, str]]] = MappingProxyType(
    {"queue": queue, "label_studio": label_studio, "prodigy": prodigy, "brat": brat}
)
"""``review.format`` -> function of a queue and its types: file name -> text."""
