"""Every layout is read back to what was written in it, from files on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from odin_slm.core.document import Document, canonical_mentions
from odin_slm.corpora import own
from odin_slm.datasets.own_corpora import RawOwnCorpus
from own_corpora_files import LAYOUTS, NOTES, Layout


def parsed(layout: Layout, folder: Path) -> own.ParsedCorpus:
    for name, content in layout.write(NOTES).items():
        (folder / name).write_bytes(content)
    block = layout.block(folder=str(folder))
    raw = RawOwnCorpus("notes", block, folder)
    return own.parse("notes", block, raw, raw.digests)


def related(document: Document) -> list[tuple[str, str, str]]:
    named = {concept: mention.text for concept, mention in canonical_mentions(document).items()}
    return [(named[relation.head], relation.type, named[relation.tail]) for relation in document.relations]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_back(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    found = parsed(layout, tmp_path)
    assert [document.text for document in found.documents] == [note.text for note in NOTES]
    for document, note in zip(found.documents, NOTES, strict=True):
        assert document.source == "notes"
        assert [(m.begin, m.end, m.type) for m in document.mentions] == list(note.mentions)
        wanted = [(note.surface(a), "given_at", note.surface(b)) for a, b in note.relations if layout.relations]
        assert related(document) == wanted
    assert sum(found.report["mentions"].values()) == 5
    assert found.report["offsets"] == ("utf-16" if name.startswith("Label Studio") else "characters")
    assert set(found.report["inputs"]) == set(layout.write(NOTES))


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("brat", ["11", "12", "13"]),
        ("BioC XML", ["11", "12", "13"]),
        ("BILOU", ["11", "12", "13"]),
        ("Prodigy", ["11", "12", "13"]),
        ("Label Studio", ["11", "12", "13"]),
        ("CSV, own", ["11", "12", "13"]),
        ("records", ["11", "12", "13"]),
        ("spaCy pairs", ["train.jsonl:1", "train.jsonl:2", "train.jsonl:3"]),
        ("IOB, own", ["notes.conll:3", "notes.conll:18", "notes.conll:33"]),
    ],
)
def test_documents_are_called_as_their_files_call_them(name: str, ids: list[str], tmp_path: Path) -> None:
    found = parsed(LAYOUTS[name], tmp_path)
    assert [document.id for document in found.documents] == [f"notes-{one}" for one in ids]


def test_what_a_format_holds_beyond_is_counted(tmp_path: Path) -> None:
    assert parsed(LAYOUTS["brat"], tmp_path).report["dropped"] == {"attribute: not read": 2, "note: not read": 2}
    folder = tmp_path / "prodigy"
    folder.mkdir()
    assert parsed(LAYOUTS["Prodigy"], folder).report["dropped"] == {"document: answered reject": 1}
