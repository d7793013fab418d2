"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from odin_slm.core.files import files_below, new_file, new_folder, replace_folder, write_text


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "report.json"
    write_text(target, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "new \ud800")
    with pytest.raises(UnicodeEncodeError), new_file(target) as fresh:
        fresh.write_text("half \ud800")
    assert target.read_text() == "old\n"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_takes_the_place_of_the_old_one_when_it_is_full(tmp_path: Path) -> None:
    target = tmp_path / "release"
    with new_folder(target) as fresh:
        write_text(fresh / "a.txt", "a")
    with pytest.raises(UnicodeEncodeError), new_folder(target) as fresh:
        write_text(fresh / "b.txt", "\ud800")
    assert [file.name for file in target.iterdir()] == ["a.txt"]
    with new_folder(target) as fresh:
        write_text(fresh / "c.txt", "c")
    replace_folder(tmp_path / "copy", target)
    assert [file.name for file in (tmp_path / "copy").iterdir()] == ["c.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "release"]


def test_links_are_followed_and_modes_stay(tmp_path: Path) -> None:
    real = tmp_path / "disk"
    write_text(real / "queue.jsonl", "old")
    (real / "queue.jsonl").chmod(0o664)
    (real / "folder").mkdir(mode=0o770)
    (real / "folder").chmod(0o770)
    (tmp_path / "queue.jsonl").symlink_to(real / "queue.jsonl")
    (tmp_path / "folder").symlink_to("disk/folder")
    (tmp_path / "none.txt").symlink_to(real / "later/none.txt")
    write_text(tmp_path / "queue.jsonl", "new")
    write_text(tmp_path / "none.txt", "new")
    with new_folder(tmp_path / "folder") as fresh:
        write_text(fresh / "a.txt", "a")
    links = [path for path in tmp_path.iterdir() if path.is_symlink()]
    assert sorted(path.name for path in links) == ["folder", "none.txt", "queue.jsonl"]
    assert (real / "queue.jsonl").read_text() == (real / "later/none.txt").read_text() == "new"
    assert oct((real / "queue.jsonl").stat().st_mode)[-3:] == "664"
    assert oct((real / "folder").stat().st_mode)[-3:] == "770"
    assert sorted(path.name for path in real.iterdir()) == ["folder", "later", "queue.jsonl"]
    assert (tmp_path / "folder/a.txt").read_text() == "a"


def test_files_are_found_by_links_too_and_not_in_circles(tmp_path: Path) -> None:
    notes, disk = tmp_path / "notes", tmp_path / "disk"
    for name in ("notes/b.txt", "notes/.hidden/c.txt", "notes/a/d.txt", "notes/a.txt", "disk/e.txt"):
        write_text(tmp_path / name, "")
    (notes / "linked").symlink_to(disk)
    (disk / "back").symlink_to(notes)
    (notes / "lost.txt").symlink_to(tmp_path / "nowhere")
    (notes / "itself").symlink_to("itself")
    os.mkfifo(notes / "pipe.txt")
    found = [path.relative_to(notes).as_posix() for path in files_below(notes)]
    assert found == ["a/d.txt", "a.txt", "b.txt", "itself", "linked/e.txt", "lost.txt"]
    assert files_below(tmp_path / "nowhere") == files_below(notes / "a.txt") == []
