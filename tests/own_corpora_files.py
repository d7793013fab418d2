"""Three invented documents in the layouts that annotation tools write, and what they hold.

The tests read them back, and ``benchmarks/fuzz.py`` damages them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from odin_slm.corpora.own.block import OwnCorpus


class Note(NamedTuple):
    """A document: its id, title and abstract, mentions (begin, end, type) of both, and relations (head, tail)."""

    id: str
    title: str
    rest: str
    mentions: tuple[tuple[int, int, str], ...]
    relations: tuple[tuple[int, int], ...]

    @property
    def text(self) -> str:
        return f"{self.title} {self.rest}"

    def surface(self, number: int) -> str:
        begin, end, _ = self.mentions[number]
        return self.text[begin:end]


def _note(identifier: str, title: str, rest: str, marked: Sequence[tuple[str, str]], *related: tuple[int, int]) -> Note:
    text = f"{title} {rest}"
    places = [(text.index(surface), text.index(surface) + len(surface), kind) for surface, kind in marked]
    return Note(identifier, title, rest, tuple(places), related)


NOTES = (
    _note(
        *("11", "BRAF was given at 5 mg orally.", "It helped."),
        [("BRAF", "Gene"), ("5 mg", "Dose"), ("orally", "Route")],
        (0, 1),
    ),
    _note("12", "Naïve β-cells 😀 got TP53.", "Then 2 g came.", [("TP53", "Gene"), ("2 g", "Dose")], (0, 1)),
    _note("13", "Nothing was given.", "We waited.", []),
)

Files = dict[str, bytes]
BLOCK = {
    "entities": ["Gene", "Dose", "Route"],
    "relations": {"given_at": {"head": ["Gene"], "tail": ["Dose"]}},
}


class Layout(NamedTuple):
    """A layout: its format, what writes it, and whether it has relations."""

    format: str
    write: Callable[[Sequence[Note]], Files]
    relations: bool = True
    changes: Mapping[str, Any] = {}

    def block(self, **changes: Any) -> OwnCorpus:
        """Return the block that reads it."""
        return OwnCorpus.model_validate({"folder": "notes", "format": self.format, **BLOCK, **self.changes, **changes})


def _json(value: Any, **options: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, **options).encode()


def _lines(rows: Sequence[Any]) -> bytes:
    return b"".join(_json(row) + b"\n" for row in rows)


def brat(notes: Sequence[Note]) -> Files:
    files = {}
    for note in notes:
        lines = [
            f"T{n}\t{kind} {begin} {end}\t{note.text[begin:end]}\n"
            for n, (begin, end, kind) in enumerate(note.mentions, 1)
        ]
        lines += [f"R{n}\tgiven_at Arg1:T{a + 1} Arg2:T{b + 1}\t\n" for n, (a, b) in enumerate(note.relations, 1)]
        lines += ["A1\tSure T1\n", "#1\tAnnotatorNotes T1\tlooked up\n"] if note.mentions else []
        files |= {f"{note.id}.txt": note.text.encode(), f"{note.id}.ann": "".join(lines).encode()}
    return files


def _passages(note: Note) -> list[dict[str, Any]]:
    cut = len(note.title) + 1
    parts = [(0, note.title), (cut, note.rest)]
    return [
        {
            "infons": {},
            "offset": offset,
            "text": text,
            "sentences": [],
            "annotations": [
                {
                    "id": f"T{n}",
                    "infons": {"type": kind},
                    "text": note.text[begin:end],
                    "locations": [{"offset": begin, "length": end - begin}],
                }
                for n, (begin, end, kind) in enumerate(note.mentions)
                if (begin < cut) == (offset == 0)
            ],
            "relations": [],
        }
        for offset, text in parts
    ]


def _bioc(note: Note) -> dict[str, Any]:
    relations = [
        {
            "id": f"R{n}",
            "infons": {"type": "given_at"},
            "nodes": [{"refid": f"T{a}", "role": "gene"}, {"refid": f"T{b}", "role": "dose"}],
        }
        for n, (a, b) in enumerate(note.relations)
    ]
    return {"id": note.id, "infons": {}, "passages": _passages(note), "annotations": [], "relations": relations}


def bioc_json(notes: Sequence[Note]) -> Files:
    collection = {"source": "notes", "date": "", "key": "", "infons": {}, "documents": [_bioc(note) for note in notes]}
    return {"notes.json": _json(collection, indent=1)}


def bioc_xml(notes: Sequence[Note]) -> Files:
    def infons(value: dict[str, Any]) -> str:
        return "".join(f'<infon key="{key}">{escape(text)}</infon>' for key, text in value["infons"].items())

    documents = []
    for document in map(_bioc, notes):
        passages = []
        for passage in document["passages"]:
            annotations = "".join(
                f'<annotation id="{one["id"]}">{infons(one)}<location offset="{one["locations"][0]["offset"]}" '
                f'length="{one["locations"][0]["length"]}"/><text>{escape(one["text"])}</text></annotation>\n'
                for one in passage["annotations"]
            )
            head = f"<offset>{passage['offset']}</offset><text>{escape(passage['text'])}</text>\n"
            passages.append(f"<passage>{head}{annotations}</passage>\n")
        relations = "".join(
            f'<relation id="{one["id"]}">{infons(one)}'
            + "".join(f'<node refid="{node["refid"]}" role="{node["role"]}"/>' for node in one["nodes"])
            + "</relation>\n"
            for one in document["relations"]
        )
        documents.append(f"<document><id>{document['id']}</id>\n{''.join(passages)}{relations}</document>\n")
    head = "<?xml version='1.0' encoding='UTF-8'?>\n<!DOCTYPE collection SYSTEM 'BioC.dtd'>\n"
    rest = "<source>notes</source><date/><key/>\n"
    return {"notes.xml": f"{head}<collection>{rest}{''.join(documents)}</collection>\n".encode()}


def pubtator(notes: Sequence[Note]) -> Files:
    return {"notes.txt": "".join(map(_pubtator, notes)).encode()}


def _pubtator(note: Note, *, relations: bool = True) -> str:
    lines = [f"{note.id}|t|{note.title}", f"{note.id}|a|{note.rest}"]
    lines += [
        f"{note.id}\t{begin}\t{end}\t{note.text[begin:end]}\t{kind}\tC{n}"
        for n, (begin, end, kind) in enumerate(note.mentions)
    ]
    lines += [f"{note.id}\tgiven_at\tC{a}\tC{b}" for a, b in note.relations if relations]
    return "\n".join([*lines, "", ""])


def pubtator_mentions(notes: Sequence[Note]) -> Files:
    return {"notes.txt": "".join(_pubtator(note, relations=False) for note in notes).encode()}


_TOKEN = re.compile(r"[.,]|[^\s.,]+")


def _tags(note: Note, *, ends: bool) -> list[tuple[str, str]]:
    """Return the tokens of a note with their tags."""
    found = []
    for match in _TOKEN.finditer(note.text):
        tag = "O"
        for begin, end, kind in note.mentions:
            if begin <= match.start() < end:
                first, last = match.start() == begin, match.end() == end
                tag = ("U" if first and last else "B" if first else "L" if last else "I") if ends else "IB"[first]
                tag = f"{tag}-{kind}"
        found.append((match[0], tag))
    return found


def iob(notes: Sequence[Note]) -> Files:
    rows = []
    for note in notes:
        rows.append("-DOCSTART- -X- O O\n\n")
        for token, tag in _tags(note, ends=False):
            rows.append(f"{token} NN I-NP {tag}\n" + "\n" * (token == "."))
    return {"notes.conll": "".join(rows).encode()}


def bilou(notes: Sequence[Note]) -> Files:
    texts = [
        f"# newdoc id = {note.id}\n" + "".join(f"{token}\t{tag}\n" for token, tag in _tags(note, ends=True))
        for note in notes
    ]
    return {"notes.tsv": "\n".join(texts).encode()}


def prodigy(notes: Sequence[Note]) -> Files:
    rows = []
    for number, note in enumerate(notes):
        tokens = [
            {"text": match[0], "start": match.start(), "end": match.end(), "id": n, "ws": True}
            for n, match in enumerate(_TOKEN.finditer(note.text))
        ]
        spans = []
        for begin, end, kind in note.mentions:
            held = [token["id"] for token in tokens if begin <= token["start"] < end]
            place = {"start": begin, "end": end, "token_start": held[0], "token_end": held[-1]}
            spans.append({**place, "label": kind})
        relations = [
            {
                "head": spans[a]["token_end"],
                "child": spans[b]["token_end"],
                "head_span": spans[a],
                "child_span": spans[b],
                "color": "#c5bdf4",
                "label": "given_at",
            }
            for a, b in note.relations
        ]
        row = {"text": note.text, "_input_hash": -number, "_task_hash": number, "tokens": tokens, "spans": spans}
        rows.append(
            {**row, "relations": relations, "_view_id": "relations", "answer": "accept", "meta": {"id": note.id}}
        )
    rejected = {"text": "Not this one.", "_input_hash": 1, "_task_hash": 2, "spans": [], "answer": "reject"}
    return {"notes.jsonl": _lines([*rows, rejected])}


def doccano(notes: Sequence[Note]) -> Files:
    rows = []
    for note in notes:
        entities = [
            {"id": 100 + n, "label": kind, "start_offset": begin, "end_offset": end}
            for n, (begin, end, kind) in enumerate(note.mentions)
        ]
        relations = [
            {"id": n, "from_id": 100 + a, "to_id": 100 + b, "type": "given_at"}
            for n, (a, b) in enumerate(note.relations)
        ]
        rows.append(
            {"id": int(note.id), "text": note.text, "entities": entities, "relations": relations, "Comments": []}
        )
    return {"all.jsonl": _lines(rows)}


def doccano_labels(notes: Sequence[Note]) -> Files:
    rows = [
        {"id": int(note.id), "text": note.text, "label": [list(m) for m in note.mentions], "Comments": []}
        for note in notes
    ]
    return {"all.jsonl": _lines(rows)}


def spacy_pairs(notes: Sequence[Note]) -> Files:
    return {"train.jsonl": _lines([[note.text, {"entities": [list(m) for m in note.mentions]}] for note in notes])}


def spacy_docs(notes: Sequence[Note]) -> Files:
    rows = [
        {
            "text": note.text,
            "ents": [{"start": begin, "end": end, "label": kind} for begin, end, kind in note.mentions],
            "sents": [{"start": 0, "end": len(note.text)}],
            "tokens": [{"id": n, "start": m.start(), "end": m.end()} for n, m in enumerate(_TOKEN.finditer(note.text))],
            "spans": {},
        }
        for note in notes
    ]
    return {"docs.json": _json(rows)}


def _utf16(text: str, place: int) -> int:
    return len(text[:place].encode("utf-16-le")) // 2


def label_studio(notes: Sequence[Note]) -> Files:
    tasks = []
    for note in notes:
        result: list[dict[str, Any]] = []
        for n, (begin, end, kind) in enumerate(note.mentions):
            place = {"start": _utf16(note.text, begin), "end": _utf16(note.text, end), "text": note.text[begin:end]}
            named = {"id": f"r{n}", "from_name": "label", "to_name": "text", "type": "labels", "origin": "manual"}
            result.append({**named, "value": {**place, "labels": [kind]}})
        for a, b in note.relations:
            ends = {"from_id": f"r{a}", "to_id": f"r{b}"}
            result.append({**ends, "type": "relation", "direction": "right", "labels": ["given_at"]})
        done = {"id": 1, "completed_by": 1, "result": result, "was_cancelled": False, "ground_truth": False}
        tasks.append(
            {"id": int(note.id), "annotations": [done], "predictions": [], "data": {"text": note.text}, "meta": {}}
        )
    return {"project-1.json": _json(tasks, indent=1)}


def label_studio_min(notes: Sequence[Note]) -> Files:
    rows = []
    for note in notes:
        regions = [
            {
                "start": _utf16(note.text, begin),
                "end": _utf16(note.text, end),
                "text": note.text[begin:end],
                "labels": [kind],
            }
            for begin, end, kind in note.mentions
        ]
        row = {"text": note.text, "id": int(note.id), "annotator": 1, "annotation_id": 1}
        rows.append({**row, "label": regions} if regions else row)
    return {"project-1.json": _json(rows)}


def _spans(note: Note) -> list[dict[str, Any]]:
    return [
        {"start": begin, "end": end, "label": kind, "text": note.text[begin:end]} for begin, end, kind in note.mentions
    ]


def _related(note: Note) -> list[dict[str, Any]]:
    return [{"head": a, "tail": b, "label": "given_at"} for a, b in note.relations]


def tables(notes: Sequence[Note]) -> Files:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["id", "text", "spans", "relations"])
    for note in notes:
        writer.writerow([note.id, note.text, json.dumps(_spans(note), ensure_ascii=False), _related(note)])
    return {"notes.csv": stream.getvalue().encode()}


def parquet(notes: Sequence[Note]) -> Files:
    import pyarrow
    import pyarrow.parquet

    rows = [{"id": note.id, "text": note.text, "spans": _spans(note), "relations": _related(note)} for note in notes]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return {"notes.parquet": buffer.getvalue()}


def records(notes: Sequence[Note]) -> Files:
    rows = []
    for note in notes:
        entities = [f"{n}. [{kind}] {note.text[b:e]}" for n, (b, e, kind) in enumerate(note.mentions, 1)]
        relations = [
            f"{n}. {note.surface(a)} --[given_at]--> {note.surface(b)}" for n, (a, b) in enumerate(note.relations, 1)
        ]
        output = ["### Entities:", *(entities or ["None"]), "", "### Relations:", *(relations or ["None"])]
        asked = "Extract entities: Gene, Dose, Route. Relations: given_at."
        rows.append({"instruction": asked, "input": note.text, "output": "\n".join(output), "id": note.id})
    return {"train.json": _json(rows, indent=1)}


LAYOUTS: dict[str, Layout] = {
    "brat": Layout("brat", brat),
    "BioC XML": Layout("bioc_xml", bioc_xml),
    "BioC JSON, own": Layout("bioc_json", bioc_json),
    "PubTator, own": Layout("pubtator", pubtator),
    "PubTator without relations": Layout("pubtator", pubtator_mentions, relations=False),
    "IOB, own": Layout("iob", iob, relations=False),
    "BILOU": Layout("iob", bilou, relations=False),
    "Prodigy": Layout("jsonl", prodigy),
    "doccano": Layout("jsonl", doccano),
    "doccano without relations": Layout("jsonl", doccano_labels, relations=False),
    "spaCy pairs": Layout("jsonl", spacy_pairs, relations=False),
    "spaCy documents": Layout("jsonl", spacy_docs, relations=False),
    "Label Studio": Layout("jsonl", label_studio),
    "Label Studio, JSON-MIN": Layout("jsonl", label_studio_min, relations=False),
    "CSV, own": Layout("csv", tables),
    "Parquet, own": Layout("parquet", parquet),
    "records": Layout("records", records),
}
"""Name -> layout."""
