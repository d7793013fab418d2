"""Documents of every form in, Parquet shards out; killed, resumed and faulty jobs."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from kedro.io import DatasetError

from odin_slm.core.document import GivenDocument
from odin_slm.datasets.documents import DocumentsDataset, ExtractionShardsDataset
from odin_slm.inference.reading import Reader

TEXTS = [f"Patient {n} took enalapril 😀 and then had a cough, fever and rash." for n in range(7)]
PUBMED = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2025//EN" "https://dtd.nlm.nih.gov/x.dtd">
<PubmedArticleSet>
<PubmedArticle><MedlineCitation><PMID Version="1">990000001</PMID><Article><ArticleTitle>Cough after <i>enalapril</i>.
</ArticleTitle><Abstract><AbstractText Label="METHODS">One patient.</AbstractText><AbstractText>A rash &lt; 2 cm.
</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>990000002</PMID><Article><ArticleTitle>No abstract.</ArticleTitle></Article>
</MedlineCitation></PubmedArticle>
</PubmedArticleSet>"""


def read(path: Path, text_field: str = "text", id_field: str = "id") -> list[GivenDocument]:
    return list(DocumentsDataset(source={"path": str(path)}).load()(text_field, id_field))


def jsonl(path: Path, texts: list[str] = TEXTS) -> Path:
    path.write_text("".join(json.dumps({"id": f"n{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


def test_every_form_gives_the_same_documents(tmp_path: Path) -> None:
    rows = [{"id": f"n{n}", "text": text, "more": "x,\ny"} for n, text in enumerate(TEXTS)]
    jsonl(tmp_path / "a.jsonl")
    for name, delimiter in (("b.csv", ","), ("c.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, ["id", "text", "more"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    (tmp_path / "e.JSONL.GZ").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    for file in sorted(tmp_path.iterdir()):
        found = read(file)
        assert [(d.id, d.source, d.record, d.text) for d in found] == [
            (f"n{n}", file.name, n + 1, text) for n, text in enumerate(TEXTS)
        ]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/f.txt").write_text(TEXTS[0])
    (tmp_path / "ignored.pdf").write_bytes(b"%PDF")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    jsonl(tmp_path / ".ipynb_checkpoints/a-checkpoint.jsonl")
    folder = read(tmp_path)
    assert len(folder) == 5 * len(TEXTS) + 1
    assert folder[-1] == GivenDocument("notes/f.txt:1", "notes/f.txt", 1, TEXTS[0])


def test_pubmed_citations_are_title_and_abstract(tmp_path: Path) -> None:
    (tmp_path / "p.xml.gz").write_bytes(gzip.compress(PUBMED.encode()))
    assert [(d.id, d.text) for d in read(tmp_path)] == [
        ("990000001", "Cough after enalapril. METHODS: One patient. A rash < 2 cm."),
        ("990000002", "No abstract."),
    ]


@pytest.mark.parametrize(
    ("name", "content", "errors"),
    [
        (
            "a.jsonl",
            b'{"text": "fine"}\n{"text": 3}\n[1]\n{"text"\n{"text": " "}\n{"body": 1, "id": 2}\n{"text": "caf\xe9"}\n',
            ["", "expected a text", "object", "JSON", "blank", "'text', but body, id; extraction.text_field=", "utf-8"],
        ),
        ("a.jsonl", b'{"text": "fine"}\n' + b"[" * 100_000 + b'\n{"text": "fine"}\n', ["", "200 deep", ""]),
        ("a.jsonl", b"\xff\xfe{\x00", ["UTF-16, not UTF-8: convert it with iconv -f utf-16"]),
        ("a.jsonl", b" \n\n", ["no document in this file"]),
        ("a.csv", b"id,text\n", ["no document in this file"]),
        ("a.csv", b"id,text\n1,caf\xe9\n2,fine\n", ["not UTF-8", ""]),
        ("a.csv", b"id,abstract\n1,x\n", ["no column 'text', but id, abstract"]),
        ("a.csv", b'text\nfine\n"open', ["", "from here on"]),
        ("a.csv", b"id,text\n1,Rash, then fever.\n2,fine,,\n3\n", ["quote cells", "", "expected a text"]),
        ("a.txt", b"caf\xe9", ["UnicodeDecodeError"]),
        ("a.parquet", b"PAR1 not", ["from here on"]),
        ("a.jsonl.gz", b"not gzip", ["BadGzipFile"]),
        ("a.xml", PUBMED[:-60].encode(), ["", "ParseError"]),
        ("a.xml", b"<PubmedArticleSet/>", ["no PubMed citation in this file; it is empty"]),
        *((name, b"", ["the file is empty"]) for name in ("a.jsonl", "a.csv", "a.txt", "a.xml")),
        ("a.txt.gz", gzip.compress(b"x" * 10**6)[:500], ["EOFError"]),
        ("a.txt.gz", gzip.compress(b"x" * 33 * 2**20), ["more than 32 MiB"]),
        ("a.jsonl.gz", gzip.compress(b'{"text": "fine"}\n' + b" \n" * 17 * 2**20), ["", "more than 32 MiB"]),
        ("a.xml", b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>', ["EntitiesForbidden"]),
    ],
)
def test_a_fault_costs_a_record_or_the_rest_of_its_file(
    tmp_path: Path, name: str, content: bytes, errors: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    jsonl(tmp_path / "z.jsonl")
    found = read(tmp_path)
    assert [d.record for d in found] == [*range(1, len(errors) + 1), *range(1, len(TEXTS) + 1)]
    for document, error in zip(found, errors, strict=False):
        assert (document.error is None) == (error == "")
        assert error in str(document.error or "")


def test_names_that_are_no_unicode_can_be_written(tmp_path: Path) -> None:
    latin, text = os.fsdecode(b"caf\xe9.jsonl"), TEXTS[0]
    try:
        (tmp_path / latin).write_text(json.dumps({"text": text}) + "\n")
        names = [("caf\\udce9.jsonl:1", "caf\\udce9.jsonl")]
    except OSError:  # this file system takes Unicode alone
        names = []
    (tmp_path / "z.jsonl").write_text(json.dumps({"id": "half \ud800", "text": text}) + "\n")
    found = read(tmp_path)
    assert [(d.id, d.source) for d in found] == [*names, ("half \\ud800", "z.jsonl")]
    rows = [{"id": d.id, "source": d.source, "record": d.record, "text": d.text} for d in found]
    shards = ExtractionShardsDataset(filepath=str(tmp_path / "out"))
    shards.save(lambda _: iter([{"name": "shard-00000-0123456789abcdef", "rows": rows, "failed": rows}]))
    (shard,) = shards.load()
    assert pyarrow.parquet.read_table(shard, columns=["id"]).to_pylist() == [{"id": d.id} for d in found]


def test_only_shards_of_another_job_are_removed(tmp_path: Path) -> None:
    kept = {"shard-0001.jsonl", "shard-list.txt", "shard-00001-notes.parquet"}
    old = [f"shard-00001-fedcba9876543210.{ending}" for ending in ("parquet", "failed.jsonl")]
    for name in (*kept, *old):
        (tmp_path / name).write_text("somebody's")
    name = "shard-00000-0123456789abcdef"
    shard = {"name": name, "rows": [{"id": "1", "text": TEXTS[0]}], "failed": []}
    dataset = ExtractionShardsDataset(filepath=str(tmp_path))
    dataset.save(lambda there: iter([{**shard, "there": there}, {"manifest": {"shards": [name]}}]))
    assert {file.name for file in tmp_path.iterdir()} == {*kept, f"{name}.parquet", "manifest.json"}
    assert dataset.load() == [f"{tmp_path}/{name}.parquet"]


def test_nothing_to_read_is_named(tmp_path: Path) -> None:
    for path in (None, str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(DatasetError, match="documents=FILE_OR_DIR"):
            DocumentsDataset(source={"path": path}).load()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_folder_that_cannot_be_looked_into_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    (tmp_path / "closed").mkdir()
    jsonl(tmp_path / "a.jsonl")
    listed = Path.iterdir

    def refuses(path: Path) -> Any:
        if path.name == "closed":
            raise OSError(error.errno, error.strerror, str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuses)
    with pytest.raises(DatasetError, match=rf"closed: the folder cannot be looked into \({error.strerror}\)"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("results", "found"), [("", 1), ("out", 1), ("../notes/out/", 1), ("elsewhere", 2), ("..", 2), (None, 2)]
)
def test_what_a_run_has_written_is_no_document_of_the_next(tmp_path: Path, results: str | None, found: int) -> None:
    notes = tmp_path / "notes"
    (notes / "out").mkdir(parents=True)
    jsonl(notes / "a.jsonl", TEXTS[:1])
    shard = "shard-00000-0123456789abcdef.parquet"
    target = notes / ("" if results == "" else "out") / shard
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"id": "1", "text": TEXTS[1]}]), target)
    own = None if results is None else {"path": str(notes / results)}
    documents = DocumentsDataset(source={"path": str(notes)}, results=own).load()
    assert len(list(documents("text", "id"))) == found


def test_results_that_a_link_leads_to_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "out").symlink_to(tmp_path / "disk")
    jsonl(notes / "a.jsonl", TEXTS[:1])
    jsonl(tmp_path / "disk/shard-00000-0123456789abcdef.failed.jsonl", TEXTS[1:2])
    documents = DocumentsDataset(source={"path": str(notes)}, results={"path": str(notes / "out")}).load()
    assert len(list(documents("text", "id"))) == 1


def test_a_job_warns_before_the_results_of_another_one_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def job(name: str, rows: int = 1) -> None:
        shard = {"name": name, "rows": [{"id": "1", "text": TEXTS[0]}] * rows, "failed": []}
        ExtractionShardsDataset(filepath=str(tmp_path)).save(lambda _: iter([shard, {"manifest": {"shards": [name]}}]))

    job(first := "shard-00000-0123456789abcdef")
    job(first)
    assert not caplog.messages
    job("shard-00000-fedcba9876543210")
    assert "the results of an earlier job" in caplog.text
    assert "extractions=DIR" in caplog.text
    assert not list(tmp_path.glob(f"{first}*"))


def test_a_job_whose_shards_another_one_has_removed_says_so(tmp_path: Path) -> None:
    own, other = "shard-00000-0123456789abcdef", "shard-00000-fedcba9876543210"
    rows = [{"id": "1", "text": TEXTS[0]}]

    def parts(_: Any) -> Any:
        yield {"name": own, "rows": rows, "failed": []}
        last = [{"name": other, "rows": rows, "failed": []}, {"manifest": {"shards": [other]}}]
        ExtractionShardsDataset(filepath=str(tmp_path)).save(lambda _: iter(last))
        yield {"manifest": {"shards": [own]}}

    with pytest.raises(DatasetError, match="1 of 1 shards are gone"):
        ExtractionShardsDataset(filepath=str(tmp_path)).save(parts)
    assert json.loads((tmp_path / "manifest.json").read_text())["shards"][0]["name"] == other


# Jobs


@pytest.fixture
def extract(run: Callable[..., Any], project: Path) -> Callable[..., Path]:
    """Run a job over seven documents in shards of two on the tiny base; return the folder of its shards."""

    def job(documents: Path, target: str = "out", **extraction: Any) -> Path:
        settings = {"shard_size": 2, "max_new_tokens": 32, "window_tokens": 96, "batch_size": 4, **extraction}
        params = {"documents": str(documents), "extractions": str(project / target), "extraction": settings}
        run("extraction", params={**params, "model": "data/06_models/odin-nano"})
        return project / target

    return job


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_shards_hold_offsets_and_provenance(extract: Callable[..., Path], tmp_path: Path) -> None:
    folder = extract(jsonl(tmp_path / "notes.jsonl"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["documents"], manifest["rows"], manifest["failed"]) == (7, 7, 0)
    assert [shard["rows"] for shard in manifest["shards"]] == [2, 2, 2, 1]
    rows = [row for file in sorted(folder.glob("*.parquet")) for row in pyarrow.parquet.read_table(file).to_pylist()]
    assert [(row["id"], row["source"], row["record"], row["text"]) for row in rows] == [
        (f"n{n}", "notes.jsonl", n + 1, text) for n, text in enumerate(TEXTS)
    ]
    assert {row["model"] for row in rows} == {manifest["settings"]["model"]}
    places = [(row["text"], place) for row in rows for entity in row["entities"] for place in entity["occurrences"]]
    assert places
    assert all(text[place["begin"] : place["end"]] == place["text"] for text, place in places)


def test_a_job_that_was_killed_goes_on_and_ends_in_the_same_files(
    extract: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = jsonl(tmp_path / "notes.jsonl")
    whole = contents(extract(documents, "whole"))
    original, calls = Reader.extract, 0

    def dies(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(Reader, "extract", dies)
    with pytest.raises(KeyboardInterrupt):
        extract(documents, "killed")
    assert calls == 3
    killed = extract(documents, "killed")
    assert calls == 5, "two of four shards were there already"
    assert contents(killed) == whole


def test_another_model_setting_or_text_makes_its_shards_anew(extract: Callable[..., Path], tmp_path: Path) -> None:
    documents = jsonl(tmp_path / "notes.jsonl")
    first = contents(extract(documents))
    second = contents(extract(documents, constrained=False))
    assert not {name for name in first if name in second} - {"manifest.json"}
    third = contents(extract(jsonl(documents, [*TEXTS[:5], "Another.", TEXTS[6]]), constrained=False))
    assert len(set(second) & set(third) - {"manifest.json"}) == 3


def test_a_job_that_read_nothing_says_so_and_fails(extract: Callable[..., Path], tmp_path: Path, project: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given/jats.xml").write_text("<article><front/></article>")
    (tmp_path / "given/deleted.xml").write_text(
        "<PubmedArticleSet><DeleteCitation><PMID>1</PMID></DeleteCitation></PubmedArticleSet>"
    )
    for _ in range(2):  # a second attempt finds the shard, and fails as well
        with pytest.raises(DatasetError, match="no document could be read") as raised:
            extract(tmp_path / "given")
        assert "deleted.xml:1: no PubMed citation in this file; it names 1 deleted citation." in str(raised.value)
        assert "jats.xml:1: no PubMed citation in this file; it is JATS full text." in str(raised.value)
    manifest = json.loads((project / "out/manifest.json").read_text())
    assert (manifest["rows"], manifest["failed"]) == (0, 2)


def test_failing_records_are_set_aside(
    extract: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = jsonl(tmp_path / "notes.jsonl", [TEXTS[0], " ", TEXTS[1]])
    with documents.open("a") as stream:
        stream.write('{"id": "half", "text": "half \\ud800"}\nnonsense\n')
    folder = extract(documents, keep_text=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["documents"], manifest["rows"], manifest["failed"]) == (5, 2, 3)
    failed = [json.loads(line) for file in sorted(folder.glob("*.failed.jsonl")) for line in file.open()]
    assert [(one["record"], one["error"].split()[1]) for one in failed] == [(2, "text"), (4, "text"), (5, "JSON")]
    rows = pyarrow.parquet.read_table(next(iter(sorted(folder.glob("*.parquet"))))).to_pylist()
    assert rows[0]["text"] is None
