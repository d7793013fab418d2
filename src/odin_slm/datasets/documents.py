"""Documents that somebody wants read, in the forms that people have them in, and the shards that are made of them."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from odin_slm.core.document import GivenDocument
from odin_slm.core.errors import MissingInputError, StorageError
from odin_slm.core.hashing import canonical_json, canonical_jsonl
from odin_slm.datasets import ReadOnlyDataset
from odin_slm.datasets.sources.document_files import FORMS, form_of, read_file
from odin_slm.datasets.storage import LocalFolder, StoreFolder, folder_at, is_address

Read = Callable[[str, str], Iterator[GivenDocument]]
Shards = Callable[[Collection[str]], Iterator[dict[str, Any]]]
_NAMED = 10
_AT_ONCE = 16
_OWN = re.compile(r"(shard-\d{5,}-[0-9a-f]{16})\.(parquet|failed\.jsonl)")
"""Names of what a job writes (``inference/batch.py``); everything else in the folder is somebody else's."""
_MANIFEST = "manifest.json"
_REPLACES = (
    "%s holds the results of an earlier job; what this one does not share with it is removed when this one ends. To "
    "keep it, stop, and run with --params extractions=DIR."
)
_log = logging.getLogger(__name__)


class DocumentsDataset(ReadOnlyDataset[Read | None]):
    """A file of documents, or a folder of such files, read record by record; on this machine or in an object store.

    The form goes by the suffix: ``.jsonl``/``.ndjson`` (one object a line), ``.csv``/``.tsv`` (with a header),
    ``.parquet``, ``.txt`` (one document a file), ``.xml`` (PubMed citations,
    https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/250101/); all but Parquet also with ``.gz``. In a folder, files with
    other suffixes are left alone, and so is what is hidden (``.ipynb_checkpoints`` holds every notebook user's files
    twice), and what an earlier run has written of these documents.

    Args:
        source: Holds ``path``: the file or folder, or the address of one, or None where the user names none.
        results: Holds the ``path`` where the run writes: what is in a folder below the documents, or the shards among
            them, are no documents.
        optional: Whether None is loaded then.
    """

    REFUSAL = "documents are read-only."

    def __init__(
        self,
        *,
        source: dict[str, str | None],
        results: dict[str, str] | None = None,
        optional: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        place = source["path"]
        self._place = place if not place or is_address(place) else str(Path(place).absolute())
        self._results = results["path"] if results else ""
        self._optional = optional
        self.metadata = metadata

    def load(self) -> Read | None:
        """Return a function of the names of the text's and the id's fields, which iterates over the documents.

        A record that cannot be read comes with its error in place of its text.

        Raises:
            MissingInputError: Nothing is named, or there is no file of a known form, or no client for the address.
            StorageError: The object store cannot be reached, or does not let this user in.
        """
        fix = f"Name a file or folder with --params documents=FILE_OR_DIR; known forms: {', '.join(FORMS)}."
        if not self._place and self._optional:
            return None
        if not self._place:
            raise MissingInputError("no documents are named.", where="documents", fix=fix)
        own = _own_results(self._place, self._results) if self._results else None
        found = (file for file in folder_at(self._place).files() if form_of(file.name) and not _hidden(file.name))
        files = [file for file in found if own is None or not own.match(file.name)]
        if not files:
            raise MissingInputError("there is no file of documents.", where=self._place, fix=fix)

        def read(text_field: str, id_field: str) -> Iterator[GivenDocument]:
            for file in files:
                yield from read_file(file, text_field, id_field)

        return read

    def _exists(self) -> bool:
        return bool(self._place) and (is_address(str(self._place)) or Path(str(self._place)).exists())

    def _describe(self) -> dict[str, Any]:
        return {"path": self._place}


class ExtractionShardsDataset(AbstractDataset[Shards, list[str]]):
    """A folder of Parquet shards, written one by one as they are made, and ``manifest.json``, written at the end.

    A save is lazy: it asks for the shards that an earlier attempt has not left there. A shard's failed documents stand
    beside it in ``NAME.failed.jsonl``. The manifest says which shards are the job's; with it those of other jobs go, of
    which a job warns as soon as it has a shard of its own.

    Args:
        filepath: The folder, on this machine or in an object store.
        metadata: For hooks and Kedro-Viz.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._place = filepath.rstrip("/")
        self.metadata = metadata

    def load(self) -> list[str]:
        """Return the shards' places, in order."""
        return [f"{self._place}/{name}" for name in sorted(self._shards())]

    def save(self, data: Shards) -> None:
        """Write what is not there; see :func:`odin_slm.pipelines.extraction.nodes.extract_documents`.

        Raises:
            MissingInputError: The job has read nothing; manifest and reasons are written.
            StorageError: The object store cannot be reached, or does not let this user in; or another job has removed
                shards of this one.
        """
        earlier = self._listed()
        for part in data(frozenset(name.removesuffix(".parquet") for name in self._shards())):
            if earlier and part.get("name") not in (None, *earlier):
                _log.warning(_REPLACES, self._place)
                earlier = []
            self._write(part)

    def _write(self, data: dict[str, Any]) -> None:
        if "manifest" in data:
            self._finish(data["manifest"])
            return
        folder = folder_at(self._place)
        if data["failed"]:
            folder.write(_failed(data["name"]), canonical_jsonl(data["failed"]).encode())
        folder.write(f"{data['name']}.parquet", _parquet(data["rows"]))  # last: it says that the shard is done

    def _finish(self, manifest: dict[str, Any]) -> None:
        import pyarrow.parquet

        folder, names = folder_at(self._place), manifest["shards"]
        there = folder.names()
        if gone := [name for name in names if f"{name}.parquet" not in there]:
            raise StorageError(
                f"{len(gone)} of {len(names)} shards are gone since this job wrote them ({gone[0]}.parquet, …); "
                "another job that ends in this folder removes them.",
                where=self._place,
                fix="Run again, which makes them anew; give jobs at the same time a folder each: extractions=DIR.",
            )
        others = [name for name in there if (own := _OWN.fullmatch(name)) and own[1] not in names]
        for name in others:
            folder.remove(name)
        if others:
            _log.info("%d files of other jobs were removed from %s.", len(others), self._place)

        def described(name: str) -> dict[str, Any]:
            failed = len(_lines(folder, _failed(name))) if _failed(name) in there else 0
            with folder.open(f"{name}.parquet") as shard:
                rows = pyarrow.parquet.read_metadata(shard).num_rows
            return {"name": name, "rows": rows, "failed": failed}

        with ThreadPoolExecutor(_AT_ONCE) as pool:  # an object store answers many as fast as one
            shards = list(pool.map(described, names))
        totals = {key: sum(shard[key] for shard in shards) for key in ("rows", "failed")}
        folder.write(_MANIFEST, canonical_json({**manifest, **totals, "shards": shards}).encode())
        if not totals["failed"]:
            return
        aside = _set_aside(folder, [shard["name"] for shard in shards if shard["failed"]], totals["failed"])
        if not totals["rows"]:
            raise MissingInputError(
                f"no document could be read. {aside}",
                where=self._place,
                fix="Mend the documents, or name others with --params documents=FILE_OR_DIR.",
            )
        _log.warning("%d documents were read. %s", totals["rows"], aside)

    def _listed(self) -> list[str]:
        """Return the names of the shards that a manifest lists here; one that cannot be read lists none."""
        folder = folder_at(self._place)
        if _MANIFEST not in folder.names():
            return []
        try:
            return [str(shard["name"]) for shard in json.loads(b"".join(_lines(folder, _MANIFEST)))["shards"]]
        except (ValueError, KeyError, TypeError):
            return []

    def _shards(self) -> list[str]:
        found = map(_OWN.fullmatch, folder_at(self._place).names())
        return [own[0] for own in found if own and own[2] == "parquet"]

    def _exists(self) -> bool:
        return bool(self._shards())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._place}


def _own_results(documents: str, results: str) -> re.Pattern[str] | None:
    """Return what the names of a run's own results begin with, among those below its documents' folder."""
    for normal in (os.path.abspath, os.path.realpath):  # either may be named by a link
        source, own = (place.rstrip("/") if is_address(place) else normal(place) for place in (documents, results))
        if source == own:
            return re.compile(rf"{_OWN.pattern}\Z")
        if own.startswith(f"{source}/"):
            return re.compile(re.escape(own[len(source) + 1 :]) + "/")
    return None


def _failed(shard: str) -> str:
    return f"{shard}.failed.jsonl"


def _set_aside(folder: LocalFolder | StoreFolder, shards: Iterable[str], count: int) -> str:
    """Say how many documents were set aside, with the reasons of the first ones."""
    failed = (json.loads(line) for name in shards for line in _lines(folder, _failed(name)))
    reasons = [f"{one['id']}: {one['error']}" for one in islice(failed, _NAMED)]
    more = [f"and {count - _NAMED} more, in shard-*.failed.jsonl."] if count > _NAMED else []
    return "\n".join([f"{count} were set aside:", *reasons, *more])


def _lines(folder: LocalFolder | StoreFolder, name: str) -> list[bytes]:
    with folder.open(name) as stream:
        return stream.read().splitlines()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    text, place, flag = pyarrow.string(), pyarrow.int64(), pyarrow.bool_()
    occurrences = pyarrow.list_(pyarrow.struct({"begin": place, "end": place, "text": text}))
    argument = pyarrow.struct({"text": text, "type": text, "occurrences": occurrences})
    confidence = pyarrow.float64()
    entity = {"type": text, "text": text, "occurrences": occurrences, "confidence": confidence}
    relation = {"type": text, "head": argument, "tail": argument, "confidence": confidence}
    window = {"begin": place, "end": place, "output": text, "finished": flag}
    columns = {
        **{"id": text, "source": text, "record": place, "text_sha256": text, "text": text},
        "entities": pyarrow.list_(pyarrow.struct(entity)),
        "relations": pyarrow.list_(pyarrow.struct(relation)),
        "answer": text,
        "malformed_lines": place,
        "windows": pyarrow.list_(pyarrow.struct(window)),
        **{"constrained": flag, "schema": text, "model": text, "prompt": text},
    }
    table = pyarrow.Table.from_pylist(rows, pyarrow.schema(columns))
    written = io.BytesIO()
    pyarrow.parquet.write_table(table, written, compression="zstd")
    return written.getvalue()


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
