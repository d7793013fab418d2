"""Documents that somebody wants read, in the forms that people have them in, and the shards that are made of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

from odin_slm.core.document import GivenDocument
from odin_slm.core.errors import MissingInputError
from odin_slm.core.hashing import canonical_json, canonical_jsonl
from odin_slm.datasets.base import PathDataset, ReadOnlyDataset
from odin_slm.datasets.files import write_text

Read = Callable[[str, str], Iterator[GivenDocument]]
Shards = Callable[[Collection[str]], Iterator[dict[str, Any]]]
_Record = tuple[str | None, str, str | None]  # id, text, error
_CELL = 2**31 - 1


class DocumentsDataset(ReadOnlyDataset[Read]):
    """A file of documents, or a folder of such files, read record by record.

    The form goes by the suffix: ``.jsonl``/``.ndjson`` (one object a line), ``.csv``/``.tsv`` (with a header),
    ``.parquet``, ``.txt`` (one document a file), ``.xml`` (PubMed citations,
    https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/250101/); all but Parquet also with ``.gz``. In a folder, files with
    other suffixes are left alone, and so is what is hidden (``.ipynb_checkpoints`` holds every notebook user's files
    twice).

    Args:
        source: Holds ``path``: the file or folder, or None where the user names none.
    """

    REFUSAL = "documents are read-only."

    def __init__(self, *, source: dict[str, str | None], metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(source["path"]).absolute() if source["path"] else None  # workers of Ray start elsewhere
        self.metadata = metadata

    def load(self) -> Read:
        """Return a function of the names of the text's and the id's fields, which iterates over the documents.

        A record that cannot be read comes with its error in place of its text.

        Raises:
            MissingInputError: Nothing is named, or there is no file of a known form.
        """
        fix = f"Name a file or folder with --params documents=FILE_OR_DIR; known forms: {', '.join(_READERS)}."
        if self._path is None:
            raise MissingInputError("no documents are named.", where="documents", fix=fix)
        if self._path.is_dir():
            root = self._path
            files = [f for f in sorted(root.rglob("*")) if f.is_file() and _form(f) and not _hidden(f, root)]
        else:
            root = self._path.parent
            files = [self._path] if self._path.is_file() and _form(self._path) else []
        if not files:
            raise MissingInputError("there is no file of documents.", where=str(self._path), fix=fix)

        def read(text_field: str, id_field: str) -> Iterator[GivenDocument]:
            for file in files:
                yield from _read(file, file.relative_to(root).as_posix(), text_field, id_field)

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
        """Write what is not there; see :func:`odin_slm.pipelines.extraction.nodes.extract_documents`."""
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
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        pyarrow.parquet.write_table(table, new, compression="zstd")
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _form(file: Path) -> str | None:
    name = file.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in _READERS and not (suffix == ".parquet" and name.endswith(".gz")) else None


def _read(file: Path, source: str, text_field: str, id_field: str) -> Iterator[GivenDocument]:
    number, source = 0, _encodable(source)
    try:
        opened: Any = gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb")  # noqa: SIM115
        with opened as stream:
            for name, text, error in _READERS[_form(file) or ""](stream, text_field, id_field):
                number += 1
                if error is None and not text.strip():
                    error = "the text is blank."
                name = _encodable(name) if name else f"{source}:{number}"
                yield GivenDocument(name, source, number, text if error is None else "", error)
    except Exception as error:  # parsers of five formats; whatever they raise costs the rest of this file, not the job
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        fault = f"the file cannot be read from here on ({type(error).__name__}: {reason})."
        yield GivenDocument(f"{source}:{number + 1}", source, number + 1, "", fault)


def _encodable(name: str) -> str:
    """Return a name that can be written as UTF-8; a lone surrogate (a file name in Latin-1) becomes its escape."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _json_lines(stream: IO[bytes], text_field: str, id_field: str) -> Iterator[_Record]:
    for line in stream:
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            yield None, "", f"not JSON ({error})."
            continue
        yield _fields(values, text_field, id_field)


def _table(delimiter: str) -> Callable[[IO[bytes], str, str], Iterator[_Record]]:
    def read(stream: IO[bytes], text_field: str, id_field: str) -> Iterator[_Record]:
        csv.field_size_limit(_CELL)
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        if text_field not in (reader.fieldnames or ()):
            raise ValueError(f"there is no column {text_field!r}, but {', '.join(reader.fieldnames or ()) or 'none'}")
        for row in reader:
            name, text, error = _fields(row, text_field, id_field)
            if any(row.pop(None, ())):  # an unquoted delimiter has cut a cell, perhaps the text
                error = (
                    f"more cells than the {len(reader.fieldnames or ())} columns: quote cells that hold {delimiter!r}."
                )
            yield name, text, error

    return read


def _parquet(stream: IO[bytes], text_field: str, id_field: str) -> Iterator[_Record]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(stream)
    known = file.schema_arrow.names
    if text_field not in known:
        raise ValueError(f"there is no column {text_field!r}, but {', '.join(known)}")
    columns = [name for name in (text_field, id_field) if name in known]
    for part in file.iter_batches(batch_size=512, columns=columns):
        for row in part.to_pylist():
            yield _fields(row, text_field, id_field)


def _plain(stream: IO[bytes], text_field: str, id_field: str) -> Iterator[_Record]:
    yield None, stream.read().decode("utf-8-sig"), None


def _pubmed(stream: IO[bytes], text_field: str, id_field: str) -> Iterator[_Record]:
    """Yield title and abstract, joined by a space as the corpora join them; entities in the XML are refused."""
    from defusedxml.ElementTree import iterparse

    root: Any = None
    for event, element in iterparse(stream, events=("start", "end")):
        root = element if root is None else root
        if event == "end" and element.tag in ("PubmedArticle", "PubmedBookArticle"):
            title = _content(next(element.iter("ArticleTitle"), None))
            parts = []
            for abstract in element.iter("Abstract"):
                for part in abstract.iter("AbstractText"):
                    label, content = part.get("Label"), _content(part)
                    parts.append(f"{label}: {content}" if label and content else content)
            text = " ".join(part for part in (title, *parts) if part)
            yield _content(next(element.iter("PMID"), None)) or None, text, None
            root.clear()  # what has been read is not needed any more, in a file of 30,000 articles


def _content(element: Any) -> str:
    return " ".join("".join(element.itertext()).split()) if element is not None else ""


def _fields(values: Any, text_field: str, id_field: str) -> _Record:
    if not isinstance(values, dict):
        return None, "", "expected an object."
    name = values.get(id_field)
    name = str(name) if name not in (None, "") else None
    text = values.get(text_field)
    if not isinstance(text, str):
        return name, "", f"expected a text in the field {text_field!r}."
    return name, text, None


_READERS: dict[str, Callable[[IO[bytes], str, str], Iterator[_Record]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
    ".txt": _plain,
    ".xml": _pubmed,
}
