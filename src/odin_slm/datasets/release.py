"""Release folders: staged whole and checked, or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from kedro_datasets._typing import JSONPreview, TablePreview

from odin_slm.core import json_text
from odin_slm.core.errors import MissingInputError, ReleaseError
from odin_slm.core.files import new_folder
from odin_slm.core.hashing import canonical_json, checksum_lines, file_hashes
from odin_slm.core.redaction import text_problems
from odin_slm.datasets import PathDataset
from odin_slm.datasets.json_files import CanonicalJSONDataset
from odin_slm.release.cards import OVERRIDDEN, read_front_matter
from odin_slm.release.checks import (
    CHECKSUMS,
    ReleaseKind,
    adapter_config_problems,
    file_problems,
    path_problems,
    tensor_problems,
    validate_card,
)
from odin_slm.release.merging import MergeRequest, export

_BINARY = frozenset({".safetensors", ".parquet", ".model"})


class ReleaseDataset(PathDataset[Any, Any]):
    """A folder that holds exactly the files of a release, checked before it replaces the one before; values are paths.

    A save fills a temporary folder beside the target, writes ``SHA256SUMS``, checks the result with
    :func:`check_release` and only then takes the target's place, so that a refused release leaves the old one alone.

    Args:
        filepath: The folder.
        kind: ``model`` or ``dataset``: which files it may hold and how they are checked.
        metadata: For hooks and Kedro-Viz.
    """

    def __init__(self, *, filepath: str, kind: ReleaseKind, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._kind = kind

    def load(self) -> Path:
        """Return the folder.

        Raises:
            MissingInputError: Nothing is staged.
        """
        if not self._exists():
            raise MissingInputError(
                "no release is staged here.", where=str(self._filepath), fix="Run kedro run --pipelines publishing."
            )
        return self._filepath

    def save(self, data: dict[str, bytes | Path]) -> None:
        """Stage a release.

        Args:
            data: Relative POSIX file name -> content, or the file to copy.

        Raises:
            ReleaseError: Something may not be released; the old folder stays.
        """
        with new_folder(self._filepath) as folder:
            _fill(folder, data, self._kind)

    def _exists(self) -> bool:
        return (self._filepath / CHECKSUMS).is_file()

    def preview(self) -> TablePreview:
        """Return the files with size and checksum."""
        rows = [
            [name, (self._filepath / name).stat().st_size, digest[:16]]
            for name, digest in sorted(release_hashes(self.load()).items())
        ]
        return TablePreview(
            {"index": list(range(len(rows))), "columns": ["file", "bytes", "sha256 (first 16)"], "data": rows}
        )


class MergedModelDataset(PathDataset[MergeRequest, dict[str, Any]]):
    """An adapter merged into its base's weights: a save merges, scores and checks the files, a load gives the report.

    Without a job a save writes nothing; what an earlier run exported stays, and ``merging.json`` in it says of which
    adapter it is.
    """

    def load(self) -> dict[str, Any]:
        """Return the report of :func:`odin_slm.release.merging.export`; empty where nothing was exported."""
        file = self._filepath / "merging.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def save(self, data: MergeRequest) -> None:
        """Merge, where that is asked for.

        Raises:
            ReleaseError: The merged weights score otherwise, or may not be released; the old folder stays.
        """
        if data.job is None:
            return
        with new_folder(self._filepath) as folder:
            export(data.job, folder)
            _seal(folder, "merged")

    def _exists(self) -> bool:
        return True

    def preview(self) -> JSONPreview:
        """Return the report."""
        return JSONPreview(canonical_json(self.load()))


class ReleaseCheckDataset(CanonicalJSONDataset):
    """A dry run: a save checks a release as if it were staged, and keeps no more than the list of its files.

    A load returns ``kind`` and ``files`` (name -> sha256) of the release that was checked.

    Args:
        filepath: The list.
        kind: See :class:`ReleaseDataset`.
        metadata: For hooks and Kedro-Viz.
    """

    def __init__(self, *, filepath: str, kind: ReleaseKind, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._kind = kind

    def save(self, data: dict[str, bytes | Path]) -> None:
        """Check a release.

        Raises:
            ReleaseError: Something may not be released; the list is then gone.
        """
        self._filepath.unlink(missing_ok=True)
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dry-run-", dir=self._filepath.parent) as scratch:
            hashes = _fill(Path(scratch), data, self._kind)
        super().save({"kind": self._kind, "files": hashes})


def check_release(folder: Path, kind: ReleaseKind) -> None:
    """Check a staged folder: names, text, configuration, weights, card.

    Raises:
        ReleaseError: Lists every problem by file.
    """
    problems = list(_problems(folder, kind))
    if problems:
        raise ReleaseError(
            "the release is refused:\n" + "\n".join(f"  - {problem}" for problem in problems) + "\n",
            where=f"{kind} release",
            fix="Mend what is listed and run kedro run --pipelines publishing again.",
        )


def release_hashes(folder: Path) -> dict[str, str]:
    """Return name -> hexadecimal SHA-256 of every file of a release but its checksum file."""
    return {name: digest for name, digest in file_hashes(folder).items() if name != CHECKSUMS}


def _fill(folder: Path, files: Mapping[str, bytes | Path], kind: ReleaseKind) -> dict[str, str]:
    """Put a release into a folder and check it; return the hashes."""
    for name, content in files.items():
        _put(folder, name, content)
    return _seal(folder, kind)


def _seal(folder: Path, kind: ReleaseKind) -> dict[str, str]:
    """Write ``SHA256SUMS`` and check the folder; return the hashes."""
    hashes = release_hashes(folder)
    (folder / CHECKSUMS).write_text(checksum_lines(hashes), encoding="utf-8", newline="\n")
    check_release(folder, kind)
    return hashes


def _put(folder: Path, name: str, content: bytes | Path) -> None:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ReleaseError(f"{name!r} is no name inside the release.", where=name, fix="Name files relative to it.")
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        target.write_bytes(content)
    else:
        shutil.copyfile(content, target)


def _problems(folder: Path, kind: ReleaseKind) -> Iterator[str]:
    entries = sorted(folder.rglob("*"))
    names = [entry.relative_to(folder).as_posix() for entry in entries if not entry.is_dir() or entry.is_symlink()]
    yield from file_problems(names, kind)
    for name in names:
        file = folder / name
        if file.is_symlink():
            yield f"{name}: is a symbolic link"
        elif file.suffix == ".safetensors":
            yield from (f"{name}: {problem}" for problem in _safetensors_problems(folder, name))
        elif file.suffix == ".parquet":
            yield from _parquet_problems(file, name)
        elif file.suffix == ".gguf":
            yield from (f"{name}: {problem}" for problem in _gguf_problems(file))
        elif file.suffix not in _BINARY:
            yield from _text_file_problems(file, name, kind)
    sums = folder / CHECKSUMS
    if sums.is_file() and sums.read_text(encoding="utf-8") != checksum_lines(release_hashes(folder)):
        yield f"{CHECKSUMS}: a file has changed since the release was staged, or was added, or is gone"


def _text_file_problems(file: Path, name: str, kind: ReleaseKind) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8")
        value = json_text.loads(text) if file.suffix == ".json" else None
    except ValueError as error:
        yield f"{name}: cannot be read ({error})"
        return
    yield from text_problems(name, text)
    yield from path_problems(name, value)
    if name == "adapter_config.json":
        yield from adapter_config_problems(value if isinstance(value, Mapping) else {})
    if name == "README.md":
        card = read_front_matter(text)
        if "card" not in (card.get(OVERRIDDEN) or {}):
            yield from (f"{name}: {problem}" for problem in validate_card(card, kind))


def _safetensors_problems(folder: Path, name: str) -> Iterator[str]:
    import torch
    from safetensors import SafetensorError, safe_open

    adapter = name == "adapter_model.safetensors"
    try:
        with safe_open(folder / name, framework="pt") as tensors:
            yield from text_problems("its metadata", json.dumps(tensors.metadata() or {}))
            yield from tensor_problems(
                ((key, bool(torch.isfinite(tensors.get_tensor(key)).all())) for key in tensors.keys()),  # noqa: SIM118
                adapter=adapter,
                saved_modules=_saved_modules(folder) if adapter else (),
            )
    except SafetensorError as error:
        yield f"is not a whole safetensors file ({error})"


def _saved_modules(folder: Path) -> list[str]:
    try:
        config = json_text.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # reported on its own
        return []
    return (config.get("modules_to_save") or []) if isinstance(config, dict) else []


def _gguf_problems(file: Path) -> Iterator[str]:
    from odin_slm.core.errors import BaseModelError
    from odin_slm.models.sources.gguf_file import open_gguf

    try:
        metadata = open_gguf(file).metadata
    except BaseModelError as error:
        yield error.what
        return
    texts = {key: value for key, value in metadata.items() if isinstance(value, str)}
    yield from text_problems("its metadata", json.dumps(texts))


def _parquet_problems(file: Path, name: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except pyarrow.ArrowInvalid as error:
        yield f"{name}: is not a whole Parquet file ({error})"
        return
    if table.num_rows == 0:
        yield f"{name}: holds no rows"
    values = (value for row in table.to_pylist() for value in row.values() if value)
    yield from sorted({problem for value in values for problem in text_problems(name, value)})
