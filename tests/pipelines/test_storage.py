"""Documents and shards in object stores: the same files as on this machine, and failures that lose no document."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet
import pytest
from kedro.io import DatasetError

from odin_slm.core.errors import StorageError
from odin_slm.datasets.documents import DocumentsDataset, ExtractionShardsDataset
from odin_slm.datasets.storage import StoreFolder, folder_at
from s3_server import s3_server

TEXTS = [f"Patient {n} took enalapril 😀 and then had a cough, fever and rash." for n in range(7)]


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3 server on loopback; the client finds it by its usual variables."""
    (tmp_path / "s3/bucket").mkdir(parents=True)
    with s3_server(tmp_path / "s3") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        importlib.import_module("s3fs").S3FileSystem.clear_instance_cache()  # else it keeps the last test's endpoint
        yield "s3://bucket"


@pytest.fixture
def memory() -> Iterator[str]:
    """An object store in the memory of this process."""
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def upload(store: str) -> None:
    """Put documents of three forms, a hidden file and one of no known form into a store's folder ``notes``."""
    lines = "".join(json.dumps({"id": f"n{n}", "text": text}) + "\n" for n, text in enumerate(TEXTS))
    folder = StoreFolder(f"{store}/notes")
    folder.write("b.jsonl.gz", gzip.compress(lines.encode()))
    folder.write("a/c.txt", TEXTS[0].encode())
    folder.write(".hidden.txt", b"no")
    folder.write("d.pdf", b"no")
    with fsspec.open(f"{store}/notes/e.parquet", "wb") as stream:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"id": "p", "text": TEXTS[1]}]), stream)


def test_documents_of_a_store_are_read_as_those_of_a_folder(store: str) -> None:
    upload(store)
    found = list(DocumentsDataset(source={"path": f"{store}/notes"}).load()("text", "id"))
    assert [(d.id, d.source, d.text, d.error) for d in found] == [
        ("a/c.txt:1", "a/c.txt", TEXTS[0], None),
        *((f"n{n}", "b.jsonl.gz", text, None) for n, text in enumerate(TEXTS)),
        ("p", "e.parquet", TEXTS[1], None),
    ]
    (one,) = DocumentsDataset(source={"path": f"{store}/notes/a/c.txt"}).load()("text", "id")
    assert (one.id, one.source) == ("c.txt:1", "c.txt")
    with pytest.raises(DatasetError, match="no file of documents"):
        DocumentsDataset(source={"path": f"{store}/nothing"}).load()


def test_a_job_from_store_to_store_is_killed_and_ends_in_the_files_of_a_local_one(
    store: str, run: Callable[..., Any], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(store)
    StoreFolder(f"{store}/notes").write("f.jsonl", b'nonsense\n{"text": " "}\n')
    here = project / "notes"
    for file in folder_at(f"{store}/notes").files():
        (here / file.name).parent.mkdir(parents=True, exist_ok=True)
        with file.open() as stream:
            (here / file.name).write_bytes(stream.read())

    def extract(documents: str, target: str) -> None:
        settings = {"shard_size": 3, "max_new_tokens": 32, "window_tokens": 96, "batch_size": 2}
        params = {"documents": documents, "extractions": target, "extraction": settings}
        run("extraction", params={**params, "model": "data/06_models/odin-nano"})

    extract(str(here), str(project / "out"))
    StoreFolder(f"{store}/out").write("shard-00000-0123456789abcdef.parquet", b"")
    original = StoreFolder.write

    def fails(folder: StoreFolder, name: str, content: bytes) -> None:
        if name.startswith("shard-00002"):
            raise KeyboardInterrupt
        original(folder, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(StoreFolder, "write", fails)
        with pytest.raises(KeyboardInterrupt):
            extract(f"{store}/notes", f"{store}/out")
    assert len(ExtractionShardsDataset(filepath=f"{store}/out").load()) == 2 + 1
    extract(f"{store}/notes", f"{store}/out")
    written = StoreFolder(f"{store}/out")
    assert {name: written.open(name).read() for name in written.names()} == {
        file.name: file.read_bytes() for file in (project / "out").iterdir()
    }
    with pyarrow.parquet.ParquetFile(written.open(sorted(written.names())[1])) as shard:
        assert shard.metadata.num_rows == 3


def test_a_storage_that_fails_ends_the_job_where_a_broken_file_would_be_set_aside(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(memory)
    read = DocumentsDataset(source={"path": f"{memory}/notes"}).load()
    opened = fsspec.filesystem("memory").open

    def breaks(path: str, mode: str) -> Any:
        stream = opened(path, mode)
        if path.endswith("b.jsonl.gz"):
            stream.read = lambda *_: (_ for _ in ()).throw(ConnectionResetError("connection reset by peer"))
        return stream

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "open", staticmethod(breaks))
    with pytest.raises(StorageError, match=r"b\.jsonl\.gz: the storage fails .*reset by peer.*run again"):
        list(read("text", "id"))


def test_a_store_without_its_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    found = importlib.import_module("fsspec.registry")._registry  # where it keeps the clients that it has imported
    monkeypatch.delitem(found, "s3", raising=False)
    with pytest.raises(DatasetError, match=r'no client for s3:// here .*-e "\.\[s3\]"'):
        DocumentsDataset(source={"path": "s3://bucket/notes"}).load()
    with pytest.raises(DatasetError, match=r"no client for nowhere:// here"):
        ExtractionShardsDataset(filepath="nowhere://bucket").load()
