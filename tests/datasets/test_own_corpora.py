"""The files of corpora by configuration: which are read, and that none lies outside of its folder."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from odin_slm.core.errors import CorpusFormatError, MissingInputError, OdinError, StorageError
from odin_slm.corpora.own.block import OwnCorpus
from odin_slm.datasets.own_corpora import OwnCorporaDataset, RawOwnCorpus
from own_corpora_files import LAYOUTS, NOTES


def raw(folder: Path, **changes: object) -> RawOwnCorpus:
    return RawOwnCorpus("notes", OwnCorpus(**{"folder": "notes", "format": "brat", **changes}), folder)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    for name in ("a.ann", "a.txt", "x/b.ann", "x/b.txt", "x/b.log", ".c.ann", ".ipynb_checkpoints/a.ann"):
        file = tmp_path / "notes" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path


def test_files_go_by_their_names_and_hidden_ones_are_left_alone(notes: Path) -> None:
    found = raw(notes)
    assert dict(found) == {name: name for name in ("a.ann", "a.txt", "x/b.ann", "x/b.txt")}
    assert found.digests["a.ann"] == hashlib.sha256(b"a.ann").hexdigest()
    assert set(raw(notes, files=["x/*.ann"])) == {"x/b.ann", "x/b.txt"}


def test_nothing_is_read_before_a_text_is_asked_for(tmp_path: Path) -> None:
    block = {"folder": "nowhere", "format": "brat"}
    loaded = OwnCorporaDataset(corpora={"notes": block}, root=str(tmp_path)).load()
    with pytest.raises(MissingInputError, match="there is no such folder"):
        len(loaded["notes"])
    (tmp_path / "nowhere").write_text("a file")
    with pytest.raises(MissingInputError, match="it is a file; a corpus is a folder"):
        len(loaded["notes"])


def test_a_link_that_leads_out_of_the_folder_is_refused(notes: Path) -> None:
    secret = notes / "secret.txt"
    secret.write_text("secret")
    (notes / "notes/c.txt").symlink_to(secret)
    with pytest.raises(CorpusFormatError, match="a link that leads out of the folder"):
        len(raw(notes))
    (notes / "notes/c.txt").unlink()
    (notes / "notes/c.txt").symlink_to(notes / "notes/a.txt")
    assert raw(notes)["c.txt"] == "a.txt"
    (notes / "others").mkdir()
    (notes / "others/d.txt").write_text("d")
    (notes / "notes/more").symlink_to(notes / "others")
    with pytest.raises(CorpusFormatError, match=r"more/d\.txt: it is a link that leads out of the folder"):
        len(raw(notes))
    (notes / "notes/more").unlink()
    (notes / "notes/lost.txt").symlink_to("nowhere.txt")
    with pytest.raises(CorpusFormatError, match=r"lost\.txt: it is a link that leads nowhere"):
        len(raw(notes))


def test_a_folder_that_may_not_be_looked_into_ends_the_run(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (notes / "notes/closed").mkdir()
    listed = Path.iterdir

    def refuses(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuses)
    with pytest.raises(StorageError, match=r"closed: the folder cannot be looked into \(Permission denied\)"):
        len(raw(notes))


def test_a_link_to_itself_does_not_end_the_search(notes: Path) -> None:
    os.symlink(".", notes / "notes/again")
    assert "a.ann" in raw(notes)


def test_what_is_no_utf_8_is_named_with_its_line(notes: Path) -> None:
    (notes / "notes/a.txt").write_bytes(b"a\nb\xff")
    with pytest.raises(CorpusFormatError, match=r"a\.txt:2: found byte 0xff"):
        len(raw(notes))


def test_parquet_comes_as_lines_and_keeps_the_digest_of_the_file(tmp_path: Path) -> None:
    (name, content), *_ = LAYOUTS["Parquet, own"].write(NOTES).items()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / name).write_bytes(content)
    found = raw(tmp_path, format="parquet")
    assert found[name].count("\n") == 3
    assert found.digests == {name: hashlib.sha256(content).hexdigest()}
    rows = [{"text": "Rash.", "made": datetime(2024, 5, 3, tzinfo=UTC), "scan": b"x"}]  # which JSON does not know
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "notes" / name)
    assert raw(tmp_path, format="parquet")[name].startswith('{"text": "Rash.", "made": "2024-05-03')
    (tmp_path / "notes" / name).write_bytes(content[:-9])
    with pytest.raises(OdinError, match="no readable Parquet"):
        len(raw(tmp_path, format="parquet"))
