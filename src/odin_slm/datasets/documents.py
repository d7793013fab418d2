"""Documents that somebody wants read, in the forms that people have them in, and the shards that are made of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from odin_slm.core.document import GivenDocument
from odin_slm.core.errors import MissingInputError
from odin_slm.core.files import new_file, write_text
from odin_slm.core.hashing import canonical_json, canonical_jsonl
from odin_slm.datasets import PathDataset, ReadOnlyDataset
from odin_slm.datasets.sources.document_files import FORMS, form_of, read_file

Read = Callable[[str, str], Iterator[GivenDocument]]
Shards = Callable[[Collection[str]], Iterator[dict[str, Any]]]
_NAMED = 10
_log = logging.getLogger(__name__)


class DocumentsDataset(ReadOnlyDataset[Read | None]):
    """A file of documents, or a folder of such files, read record by record.

    The form goes by the suffix: ``.jsonl``/``.ndjson`` (one object a line), ``.csv``/``.tsv`` (with a header),
    ``.parquet``, ``.txt`` (one document a file), ``.xml`` (PubMed citations,
    https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/250101/); all but Parquet also with ``.gz``. In a folder, files with
    other suffixes are left alone, and so is what is hidden (``.ipynb_checkpoints`` holds every notebook user's files
    twice).

    Args:
        source: Holds ``path``: the file or folder, or None where the user names none.
        optional: Whether None is loaded then.
    """

    REFUSAL = "documents are read-only."

    def __init__(
        self, *, source: dict[str, str | None], optional: bool = False, metadata: dict[str, Any] | None = None
    ) -> None:
        self._path = Path(source["path"]).absolute() if source["path"] else None  # workers of Ray start elsewhere
        self._optional = optional
        self.metadata = metadata

    def load(self) -> Read | None:
        """Return a function of the names of the text's and the id's fields, which iterates over the documents.

        A record that cannot be read comes with its error in place of its text.

        Raises:
            MissingInputError: Nothing is named, or there is no file of a known form.
        """
        fix = f"Name a file or folder with --params documents=FILE_OR_DIR; known forms: {', '.join(FORMS)}."
        if self._path is None and self._optional:
            return None
        if self._path is None:
            raise MissingInputError("no documents are named.", where="documents", fix=fix)
        if self._path.is_dir():
            root = self._path
            files = [f for f in sorted(root.rglob("*")) if f.is_file() and form_of(f) and not _hidden(f, root)]
        else:
            root = self._path.parent
            files = [self._path] if self._path.is_file() and form_of(self._path) else []
        if not files:
            raise MissingInputError("there is no file of documents.", where=str(self._path), fix=fix)

        def read(text_field: str, id_field: str) -> Iterator[GivenDocument]:
            for file in files:
                yield from read_file(file, file.relative_to(root).as_posix(), text_field, id_field)

        return read

    def _exists(self) -> bool:
        return self._path is not None and self._path.exists()

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path) if self._path else None}


class ExtractionShardsDataset(PathDataset[Shards, list[Path]]):
    """A folder of Parquet shards, written one by one as they are made, and ``manifest.json``, written at the end.

    A save is lazy: it asks for the shards that an earlier attempt has not left there. A shard's failed documents stand
    beside it in ``NAME.failed.jsonl``. The manifest says which shards are the job's; writing it removes those of other
    jobs.
    """

    def load(self) -> list[Path]:
        """Return the shards' files, in order."""
        return _shards(self._filepath)

    def save(self, data: Shards) -> None:
        """Write what is not there; see :func:`odin_slm.pipelines.extraction.nodes.extract_documents`.

        Raises:
            MissingInputError: The job has read nothing; manifest and reasons are written.
        """
        self._filepath.mkdir(parents=True, exist_ok=True)
        for part in data(frozenset(file.stem for file in _shards(self._filepath))):
            self._write(part)

    def _write(self, data: dict[str, Any]) -> None:
        if "manifest" in data:
            self._finish(data["manifest"])
            return
        failed = self._filepath / f"{data['name']}.failed.jsonl"
        if data["failed"]:
            write_text(failed, canonical_jsonl(data["failed"]))
        _write_parquet(self._filepath / f"{data['name']}.parquet", data["rows"])  # last: it says that the shard is done

    def _finish(self, manifest: dict[str, Any]) -> None:
        import pyarrow.parquet

        names = manifest["shards"]
        for file in self._filepath.glob("shard-*"):
            if file.name.split(".")[0] not in set(names):
                file.unlink()
        shards = []
        for name in names:
            failed = self._filepath / f"{name}.failed.jsonl"
            shards.append(
                {
                    "name": name,
                    "rows": pyarrow.parquet.read_metadata(self._filepath / f"{name}.parquet").num_rows,
                    "failed": failed.read_text(encoding="utf-8").count("\n") if failed.is_file() else 0,
                }
            )
        totals = {key: sum(shard[key] for shard in shards) for key in ("rows", "failed")}
        write_text(self._filepath / "manifest.json", canonical_json({**manifest, **totals, "shards": shards}))
        if not totals["failed"]:
            return
        aside = self._set_aside(names, totals["failed"])
        if not totals["rows"]:
            raise MissingInputError(
                f"no document could be read. {aside}",
                where=str(self._filepath),
                fix="Mend the documents, or name others with --params documents=FILE_OR_DIR.",
            )
        _log.warning("%d documents were read. %s", totals["rows"], aside)

    def _set_aside(self, names: list[str], count: int) -> str:
        """Say how many documents were set aside, with the reasons of the first ones."""
        files = (self._filepath / f"{name}.failed.jsonl" for name in names)
        failed = (json.loads(line) for file in files if file.is_file() for line in file.open(encoding="utf-8"))
        reasons = [f"{one['id']}: {one['error']}" for one in islice(failed, _NAMED)]
        more = [f"and {count - _NAMED} more, in shard-*.failed.jsonl."] if count > _NAMED else []
        return "\n".join([f"{count} were set aside:", *reasons, *more])

    def _exists(self) -> bool:
        return bool(_shards(self._filepath))


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.parquet"))


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
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
        "malformed_lines": place,
        "windows": pyarrow.list_(pyarrow.struct(window)),
        **{"constrained": flag, "schema": text, "model": text, "prompt": text},
    }
    table = pyarrow.Table.from_pylist(rows, pyarrow.schema(columns))
    with new_file(path) as new:
        pyarrow.parquet.write_table(table, new, compression="zstd")


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)
