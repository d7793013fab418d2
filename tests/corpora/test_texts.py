"""Texts that are not UTF-8, and JSON that is none: named, with advice that fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import DatasetError

from odin_slm.core.errors import CorpusFormatError
from odin_slm.datasets.folders import TextFolderDataset
from odin_slm.datasets.json_files import GivenRecordsDataset, JSONLinesDataset
from odin_slm.datasets.sources.texts import decode


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"a\ncaf\xe9\n",
            "a.txt:2: found byte 0xe9, which is not UTF-8; expected UTF-8 text. Convert it: iconv -f latin1",
        ),
        (b"caf\xe9\ncaf\xe9\n\xff", "expected UTF-8 text. 2 more lines are not either. Convert it"),
        ("café".encode("utf-16"), "Convert it: iconv -f utf-16 -t utf-8"),
        ("café".encode("utf-32"), "Convert it: iconv -f utf-32 -t utf-8"),
    ],
)
def test_a_text_that_is_not_utf_8_is_to_be_converted(content: bytes, message: str) -> None:
    with pytest.raises(CorpusFormatError) as raised:
        decode("a.txt", "a.txt", content)
    assert message in str(raised.value)


def test_texts_for_pretraining(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    dataset = TextFolderDataset(filepath=str(tmp_path))
    assert dataset.load() == {"a.txt": "one\ntwo\nthree\n"}
    (tmp_path / "b.iob.tsv").write_bytes(b"caf\xe9\tO\n")
    with pytest.raises(DatasetError, match=r"b\.iob\.tsv:1: found byte 0xe9"):
        dataset.load()


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"caf\xe9", b'{"a"'])
def test_json_that_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "test.json"
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"not JSON .* Mend it, or name another one"):
        GivenRecordsDataset(override={"path": str(file)}).load()
    if content:
        with pytest.raises(DatasetError, match=r"test\.json:1: expected one JSON object"):
            JSONLinesDataset(filepath=str(file)).load()
