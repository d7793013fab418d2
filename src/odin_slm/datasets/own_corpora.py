"""The files of corpora by configuration, as texts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from odin_slm.core import json_text
from odin_slm.core.errors import CorpusFormatError, MissingInputError, ReviewError
from odin_slm.core.files import files_below
from odin_slm.core.hashing import sha256_of
from odin_slm.corpora.own.block import OwnCorpus
from odin_slm.datasets import ReadOnlyDataset
from odin_slm.datasets.corpus_files import RawCorpus
from odin_slm.datasets.sources.texts import decode

_LARGEST = 512 * 2**20
"""Bytes of one file: an annotated corpus of that size is a mistake."""


class RawOwnCorpus(RawCorpus):
    """File name -> text of a corpus by configuration; the files are read once, when the first text is asked for.

    Args:
        name: The corpus.
        block: Its configuration.
        root: Folder that its own folder is relative to.
    """

    def __init__(self, name: str, block: OwnCorpus, root: Path) -> None:
        self.digests: dict[str, str] = {}
        self._review = root / block.review if block.review else None
        super().__init__(name, lambda: self._all(root / block.folder, block))

    def review(self) -> dict[str, Any] | None:
        """Return the manifest of the review that the documents come back from; None where they are of none.

        Raises:
            MissingInputError: There is no such file.
            ReviewError: It is no manifest.
        """
        if self._review is None:
            return None
        where, fix = str(self._review), f"Mend own_corpora.{self.name}.review: it names a review.json."
        if not self._review.is_file():
            raise MissingInputError("there is no such file.", where=where, fix=fix)
        try:
            manifest: dict[str, Any] = json_text.loads(self._review.read_text(encoding="utf-8"))
            if {"documents", "model", "made", "parameters"} <= set(manifest):
                self.digests[self._review.name] = sha256_of(self._review)
                return manifest
        except (ValueError, TypeError):
            pass
        raise ReviewError("it is no manifest of a review.", where=where, fix=fix)

    def _all(self, folder: Path, block: OwnCorpus) -> dict[str, str]:
        texts = {}
        for file in files_of(folder, block):
            content = file.read_bytes()
            name = file.relative_to(folder).as_posix()
            self.digests[name] = sha256_of(file)
            texts[name] = _lines(file, content) if block.format == "parquet" else decode(str(file), file.name, content)
        return texts


class OwnCorporaDataset(ReadOnlyDataset[dict[str, RawOwnCorpus]]):
    """The corpora that a configuration describes; read-only.

    Args:
        corpora: Name -> block, see :class:`odin_slm.corpora.own.block.OwnCorpus`.
        root: The project's folder.
        metadata: For Kedro-Viz.
    """

    REFUSAL = "annotated files are read-only."

    def __init__(self, *, corpora: Mapping[str, Any], root: str, metadata: dict[str, Any] | None = None) -> None:
        self._corpora = dict(corpora)
        self._root = root
        self.metadata = metadata

    def load(self) -> dict[str, RawOwnCorpus]:
        """Return the corpora by name; their files are read when they are asked for."""
        return {
            name: RawOwnCorpus(name, OwnCorpus.model_validate(block), Path(self._root))
            for name, block in self._corpora.items()
        }

    def _describe(self) -> dict[str, Any]:
        return {"corpora": sorted(self._corpora)}


def files_of(folder: Path, block: OwnCorpus) -> Iterator[Path]:
    """Yield the files of a corpus, in the order of their names; what is hidden is none.

    Raises:
        MissingInputError: There is no such folder, or no such file in it.
        CorpusFormatError: One lies outside the folder, or is too large.
        StorageError: A folder in it may not be looked into.
    """
    if folder.is_file():
        raise MissingInputError(
            "it is a file; a corpus is a folder.",
            where=str(folder),
            fix=f"Name {folder.parent}, and the file by files.",
        )
    if not folder.is_dir():
        raise MissingInputError("there is no such folder.", where=str(folder), fix="Mend own_corpora.….folder.")
    root = folder.resolve()
    found = 0
    for file in files_below(folder):
        if not block.holds(file.relative_to(folder).as_posix()):
            continue
        if not file.is_file():
            raise CorpusFormatError(
                "it is a link that leads nowhere.", where=str(file), fix="Put the file itself there."
            )
        if not file.resolve().is_relative_to(root):
            raise CorpusFormatError(
                "it is a link that leads out of the folder.", where=str(file), fix="Put the file itself there."
            )
        if file.stat().st_size > _LARGEST:
            raise CorpusFormatError(
                f"it is larger than {_LARGEST // 2**20} MiB.", where=str(file), fix="Cut it into several files."
            )
        found += 1
        yield file
    if not found:
        raise MissingInputError(
            f"there is no file called {', '.join(block.patterns)} in it.",
            where=str(folder),
            fix="Put the files there, or name them by files.",
        )


def _lines(file: Path, content: bytes) -> str:
    """Return the rows of a Parquet file as JSON Lines."""
    import pyarrow
    import pyarrow.parquet

    try:
        opened = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        groups = map(opened.metadata.row_group, range(opened.metadata.num_row_groups))
        if sum(group.total_byte_size for group in groups) > _LARGEST:
            raise ValueError(f"it unpacks to more than {_LARGEST // 2**20} MiB")
        rows = opened.read().to_pylist()  # dates and bytes, which JSON does not know, may stand beside the text
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        reason = str(error).split("\n")[0][:200]
        raise CorpusFormatError(
            f"no readable Parquet ({type(error).__name__}: {reason}).", where=str(file), fix="Write it anew."
        ) from None
