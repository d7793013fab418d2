"""The queue: documents with their mentions and relations, on the way to an annotator and back, one JSON object a line.

A line is a task in the layout of Prodigy (https://prodi.gy/docs/api-interfaces), with what the project adds to it::

    {"id": "…", "text": "…", "spans": [{"start": 0, "end": 5, "label": "Drug", "confidence": 0.9}, …],
     "relations": [{"label": "causes", "head_span": {…}, "child_span": {…}, "confidence": 0.8}, …],
     "meta": {"reason": "uncertain", …}, "answer": null}

Offsets count Unicode code points. ``answer`` is null until somebody has looked: ``accept`` then, or ``ignore``. What a
person has added or changed has no ``confidence``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from odin_slm.core import json_text
from odin_slm.core.errors import CorpusFormatError
from odin_slm.core.hashing import canonical_jsonl

ANSWERS = (None, "accept", "ignore")
MANIFEST = "review.json"
"""File beside a queue: model, moment, types, and what was chosen."""


def task_of(row: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's extraction as a line of the queue.

    An entity becomes a span wherever it stands. A relation holds between entities; here it joins the two places that
    are nearest to each other. What is not in the text is left out: nobody could point at it.

    Args:
        row: What the extraction pipeline writes of a document.
        meta: Further facts about it.
    """
    spans = {
        (place["begin"], place["end"], entity["type"]): entity["confidence"]
        for entity in row["entities"]
        for place in entity["occurrences"]
    }
    relations: dict[tuple[Any, ...], dict[str, Any]] = {}
    for relation in row["relations"]:
        heads, tails = (_places(spans, relation[side]) for side in ("head", "tail"))
        pairs = ((head, tail) for head in heads for tail in tails if head != tail)
        if nearest := min(pairs, key=lambda pair: (abs(pair[0][0] - pair[1][0]), pair), default=None):
            head, tail = nearest
            made = {"label": relation["type"], "head_span": _span(*head), "child_span": _span(*tail)}
            relations.setdefault((head, relation["type"], tail), {**made, "confidence": relation["confidence"]})
    return {
        "id": row["id"],
        "text": row["text"],
        "spans": [{**_span(*key), "confidence": spans[key]} for key in sorted(spans)],
        "relations": [relations[key] for key in sorted(relations)],
        "meta": dict(meta),
        "answer": None,
    }


def _places(spans: Iterable[tuple[int, int, str]], argument: Mapping[str, Any]) -> list[tuple[int, int, str]]:
    """Return the spans that an argument of a relation stands for."""
    there = {(place["begin"], place["end"]) for place in argument["occurrences"]}
    return [span for span in spans if span[:2] in there and argument["type"] in (None, span[2])]


def _span(begin: int, end: int, kind: str) -> dict[str, Any]:
    return {"start": begin, "end": end, "label": kind}


def span_key(span: Mapping[str, Any]) -> tuple[int, int, str]:
    """Return what tells the spans of a document apart."""
    return span["start"], span["end"], span["label"]


def read_queue(name: str, text: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a queue.

    Raises:
        CorpusFormatError: A line is no task; the error names the line.
    """
    taken: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                task = json_text.loads(line)
                canonical_jsonl([task]).encode()  # what cannot be written would stop every save of the page
                fault = task_fault(task)
            except UnicodeEncodeError:
                fault = "it holds half a character (a lone surrogate)"
            except ValueError as error:
                fault = f"it is no JSON ({error})"
            if not fault and task["id"] in taken:
                fault = f"the id {task['id'][:60]!r} is there twice"
            if fault:
                raise CorpusFormatError(
                    f"{fault}.", where=f"{name}:{number}", fix="Mend the line, or write the queue anew."
                )
            taken.add(task["id"])
            yield task


def task_fault(task: Any, types: Mapping[str, Any] | None = None, text: str | None = None) -> str:
    """Return what is wrong with a line of the queue, without a full stop; empty if nothing is.

    Args:
        task: The decoded line.
        types: The types that it may name, as a review's manifest has them; None for any.
        text: What its text must be; None for any.
    """
    if not isinstance(task, dict) or not all(isinstance(task.get(key), str) for key in ("id", "text")):
        return "expected an object with the texts 'id' and 'text'"
    if text is not None and task["text"] != text:
        return "its text was changed; a review corrects annotations alone"
    if task.get("answer") not in ANSWERS:
        return f"its answer is {str(task['answer'])[:40]!r}; expected accept, ignore or null"
    spans, relations = task.get("spans", []), task.get("relations", [])
    if not isinstance(spans, list) or not isinstance(relations, list):
        return "expected lists under 'spans' and 'relations'"
    for span in spans:
        if fault := _span_fault(span, len(task["text"]), types):
            return fault
    keys = [span_key(span) for span in spans]
    if len(set(keys)) < len(keys):
        return "a span is there twice"
    for relation in relations:
        if fault := _relation_fault(relation, set(keys), types):
            return fault
    return ""


def _span_fault(span: Any, length: int, types: Mapping[str, Any] | None) -> str:
    if not isinstance(span, dict) or not isinstance(span.get("label"), str):
        return "expected spans with a 'label'"
    begin, end = span.get("start"), span.get("end")
    if type(begin) is not int or type(end) is not int or not 0 <= begin < end <= length:
        return f"a span is from {str(begin)[:20]} to {str(end)[:20]}; the text has {length} characters"
    if types and span["label"] not in types["entities"]:
        return f"a span is a {span['label'][:40]!r}; expected one of {', '.join(types['entities'])}"
    return ""


def _relation_fault(relation: Any, keys: set[tuple[int, int, str]], types: Mapping[str, Any] | None) -> str:
    try:
        kind, head, tail = relation["label"], span_key(relation["head_span"]), span_key(relation["child_span"])
        if not isinstance(kind, str) or head not in keys or tail not in keys or head == tail:
            return "a relation does not join two of the spans"
    except (KeyError, TypeError):
        return "expected relations with 'label', 'head_span' and 'child_span'"
    if types and [kind, head[2], tail[2]] not in types["relations"]:
        return f"found {head[2][:40]} {kind[:40]} {tail[2][:40]}, which no relation is"
    return ""
