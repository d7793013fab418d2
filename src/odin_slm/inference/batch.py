"""Documents cut into shards, and the shards read here; :mod:`odin_slm.inference.batch_ray` has a cluster read them.

Both engines read a shard by the same code, one thread to a batch, so that a shard holds the same bytes whoever read it,
on however many cores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from odin_slm.config.parameters import ExtractionParams
from odin_slm.core.document import GivenDocument
from odin_slm.core.errors import OdinError
from odin_slm.core.record import render_prompt
from odin_slm.inference.reading import DocumentExtraction, Reader, instruction_of
from odin_slm.inference.served_model import ServedModel

_COLUMNS = ("entities", "relations")
"""What of a reading has a column of its own; what other tasks read is JSON in ``answer``."""
_LAYOUT = 2
"""Changes with the columns of a shard, so that no job goes on with shards of another layout."""

Read = Callable[[str, str], Iterator[GivenDocument]]
"""Iterates over the documents, given the names of the fields that hold text and id."""
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Shard:
    """Neighbouring documents, under a name that changes with everything that decides what is read from them."""

    name: str
    documents: list[GivenDocument]


@dataclass(frozen=True)
class Job:
    """A model and how it is to read; it travels to Ray's workers.

    Attributes:
        model: The model.
        params: Schema, decoding, sizes.
    """

    model: ServedModel
    params: ExtractionParams

    def __post_init__(self) -> None:
        """Let this process decide on ``auto``, for all that read: no shard is computed otherwise than its neighbour."""
        if self.params.precision == "auto":
            from odin_slm.models.backends import reading_precision

            decided = self.params.model_copy(update={"precision": reading_precision("auto")})
            object.__setattr__(self, "params", decided)

    @property
    def source(self) -> str:
        """What the documents are asked for: what the parameters name, or what the model asks by default."""
        return self.params.schema_name or self.model.default_source

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides, beside the documents, what is in a shard."""
        prompt = render_prompt(instruction_of(self.model.task, self.model.instructions, self.source), "")
        beside = {"engine", "workers", "shard_size", "batch_size"}
        return {
            "layout": _LAYOUT,
            "model": self.model.digest,
            "calibrator": hashlib.sha256(json.dumps(self.model.calibrator, sort_keys=True).encode()).hexdigest(),
            "prompt": hashlib.sha256(prompt.encode()).hexdigest(),
            **self.params.model_dump(mode="json", by_alias=True, exclude=beside),
            "schema": self.source,
        }

    def shards(self, read: Read) -> Iterator[Shard]:
        """Cut the documents into shards; they are never held together."""
        documents = read(self.params.text_field, self.params.id_field)
        for number, shard in enumerate(iter(lambda: list(islice(documents, self.params.shard_size)), [])):
            digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode())
            for document in shard:
                known = [document.id, document.source, document.record, document.error]
                digest.update(json.dumps(known).encode() + document.text.encode("utf-8", "surrogatepass") + b"\0")
            yield Shard(f"shard-{number:05d}-{digest.hexdigest()[:16]}", shard)

    def reader(self) -> Reader:
        """Load the model."""
        params = self.params
        return Reader(
            self.model.base,
            self.model.adapter,
            task=self.model.task,
            source=self.source,
            constrained=params.constrained,
            batch_size=params.batch_size,
            precision=params.precision,
            max_new_tokens=params.max_new_tokens,
            window_tokens=params.window_tokens,
            overlap=params.overlap,
            calibrator=self.model.calibrator,
            instructions=self.model.instructions,
        )

    def extract(
        self, reader: Reader, documents: list[GivenDocument], on_progress: Callable[[int], None] | None = None
    ) -> dict[str, Any]:
        """Read the documents of a shard.

        Returns:
            ``rows``, one per document that could be read, and ``failed``, the others with their errors.
        """
        readable = [document for document in documents if document.error is None]
        found = reader.extract([document.text for document in readable], on_progress)
        failed = [_failure(document, document.error) for document in documents if document.error is not None]
        rows = []
        for document, one in zip(readable, found, strict=True):
            if isinstance(one, OdinError):
                failed.append(_failure(document, str(one)))
            else:
                rows.append(self._row(document, one))
        return {"rows": rows, "failed": sorted(failed, key=lambda one: one["record"])}

    def _row(self, document: GivenDocument, found: DocumentExtraction) -> dict[str, Any]:
        reading = found.reading.to_dict()
        others = {name: value for name, value in reading.items() if name not in _COLUMNS}
        return {
            "id": document.id,
            "source": document.source,
            "record": document.record,
            "text_sha256": hashlib.sha256(document.text.encode()).hexdigest(),
            "text": document.text if self.params.keep_text else None,
            **{name: reading.get(name) for name in _COLUMNS},
            "answer": json.dumps(others, ensure_ascii=False) if others else None,
            "malformed_lines": found.reading.malformed,
            "windows": [
                {"begin": w.begin, "end": w.end, "output": w.output, "finished": w.finished} for w in found.windows
            ],
            "constrained": self.params.constrained,
            "schema": self.source,
            "model": self.settings["model"],
            "prompt": self.settings["prompt"],
        }


def _failure(document: GivenDocument, error: str | None) -> dict[str, Any]:
    return {"id": document.id, "source": document.source, "record": document.record, "error": error}


def extract_here(
    job: Job, read: Read, total: int, finished: Collection[str], on_progress: OnProgress
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Read the shards one after the other in this process; on a CPU every core decodes batches of its own.

    Args:
        job: The job.
        read: Iterates over the documents.
        total: How many there are.
        finished: Names of shards that are there already.
        on_progress: Called with (documents done, documents).

    Yields:
        The name of every shard, with what :meth:`Job.extract` returns, or None where it is there already.
    """
    reader: Reader | None = None
    done = 0
    for shard in job.shards(read):
        result = None
        if shard.name not in finished:
            reader = reader or job.reader()  # a job that is done already needs no model in memory
            begun = done
            result = job.extract(
                reader,
                shard.documents,
                lambda ready, begun=begun: on_progress(begun + ready, total),  # type: ignore[misc]
            )
        done += len(shard.documents)
        yield shard.name, result
        on_progress(done, total)
