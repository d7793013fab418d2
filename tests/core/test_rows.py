"""Rows of a file: a sequence like a list, which neither copies nor replaced files change."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from odin_slm.core.errors import PredictionsError
from odin_slm.core.rows import Joined, Mapped, Rows, chosen, stored
from odin_slm.datasets.json_files import JSONLinesDataset, RecordsDataset

ROWS = [{"id": f"r{number}", "text": f"Sjögren {number}\u2028\n", "n": number} for number in range(50)]


def kept(kind: str, folder: Path) -> Any:
    if kind == "stored":
        return stored(iter(ROWS))
    file = str(folder / "rows")
    dataset = RecordsDataset(filepath=file) if kind == "json" else JSONLinesDataset(filepath=file, lazy=True)
    dataset.save(ROWS)
    return dataset.load()


@pytest.mark.parametrize("kind", ["stored", "json", "jsonl"])
def test_they_are_read_like_a_list(kind: str, tmp_path: Path) -> None:
    rows = kept(kind, tmp_path)
    assert isinstance(rows, Rows)
    assert rows == ROWS
    assert [rows[0], rows[-1], len(rows), bool(rows[:0])] == [ROWS[0], ROWS[-1], 50, False]
    assert list(rows[5:20:3]) == ROWS[5:20:3]
    assert list(chosen(rows, [7, 3, 3])[1:]) == [ROWS[3], ROWS[3]] == list(chosen(ROWS, [3, 3]))
    assert rows != ROWS[1:]
    with pytest.raises(IndexError):
        rows[50]
    assert copy.deepcopy(rows) is rows
    assert pickle.loads(pickle.dumps(rows[10:])) == ROWS[10:]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_replaced_file_does_not_change_them(kind: str, tmp_path: Path) -> None:
    rows = kept(kind, tmp_path)
    JSONLinesDataset(filepath=str(tmp_path / "rows")).save([{"other": 1}])
    assert rows == ROWS


def test_what_is_made_of_them_and_joined_is_one_sequence() -> None:
    joined = Joined(stored(ROWS[:3]), [], ROWS[3:5])
    assert joined == ROWS[:5]
    assert [joined[3], joined[-5], len(joined)] == [ROWS[3], ROWS[0], 5]
    assert Mapped(lambda row: row["n"], joined) == [0, 1, 2, 3, 4]
    assert Mapped(lambda row: row["n"], joined)[1:3] == [1, 2]
    assert stored([]) == []
    assert len(Joined()) == 0


@pytest.mark.parametrize("text", ["[]\n", '[{"id": "a"}]', '[\n {\n  "id": "a"\n }\n]', ' [\n {\n  "id": "a"\n }\n]\n'])
def test_records_that_are_not_in_canonical_form_are_a_list(text: str, tmp_path: Path) -> None:
    (tmp_path / "rows").write_text(text, encoding="utf-8")
    assert RecordsDataset(filepath=str(tmp_path / "rows")).load() == ([] if text == "[]\n" else [{"id": "a"}])


def test_a_damaged_row_is_named_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('{"a": 1}\n{"a": \n', encoding="utf-8")
    rows = JSONLinesDataset(filepath=str(tmp_path / "rows"), lazy=True).load()
    assert rows[0] == {"a": 1}
    with pytest.raises(PredictionsError, match=r"rows:2: expected one JSON object .* Make it again"):
        list(rows)
    (tmp_path / "rows").write_text('[\n {\n  "a": 1\n },\n {\n  "a": \n }\n]\n', encoding="utf-8")
    with pytest.raises(PredictionsError, match=r"rows, item 2: expected one JSON object .* Make it again"):
        list(RecordsDataset(filepath=str(tmp_path / "rows")).load())
