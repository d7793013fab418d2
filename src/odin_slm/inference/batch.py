"""Documents cut into shards, and the shards read here or by Ray on several cores, machines or GPUs.

Both engines read a shard by the same code, one thread to a batch, so that a shard holds the same bytes whoever read it,
on however many cores. Ray (https://docs.ray.io/en/latest/data/data.html) streams: one task reads the documents, an
actor per core or GPU holds the model, and no more than a few shards are under way at a time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from odin_slm.config.parameters import ExtractionParams
from odin_slm.core.document import GivenDocument
from odin_slm.core.errors import BackendError, OdinError
from odin_slm.core.record import render_prompt
from odin_slm.inference.reading import DocumentExtraction, Reader, instruction_of
from odin_slm.inference.served_model import ServedModel

_LAYOUT = 1
"""Changes with the columns of a shard, so that no job goes on with shards of another layout."""
_IN_STORE = 256 * 2**20
"""Bytes of documents and results that Ray holds between its tasks; it reads no further until some are gone."""

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
        return {
            "id": document.id,
            "source": document.source,
            "record": document.record,
            "text_sha256": hashlib.sha256(document.text.encode()).hexdigest(),
            "text": document.text if self.params.keep_text else None,
            **found.reading.to_dict(),
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


# Ray


def extract_with_ray(
    job: Job, read: Read, total: int, finished: Collection[str], on_progress: OnProgress
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Read the shards on all cores or GPUs of a Ray cluster; see :func:`extract_here`. They come as they end.

    The cluster is that of ``RAY_ADDRESS``, else one on this machine that ends with the job. A worker that dies is
    replaced and its shard is read again.

    Raises:
        BackendError: Ray is not installed, its cluster cannot be reached, or its workers fail.
        OdinError: What a worker says of the model or the texts.
    """
    with _cluster() as ray:
        from ray.data import ActorPoolStrategy, DataContext, ExecutionResources, read_datasource

        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        room = gpus or max(int(resources.get("CPU", 1)), 1)
        shards = max(-(-total // job.params.shard_size), 1)
        workers = min(job.params.workers or room, room, shards)  # more than there is room for would be waited for
        context = DataContext.get_current().copy()
        context.target_max_block_size = 1  # a shard is a block of its own: what is handed from task to task
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=_IN_STORE)
        with DataContext.current(context):
            here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}  # where the documents are
            source = _source(job, read, finished)
            stream = read_datasource(source, num_cpus=0, override_num_blocks=1, label_selector=here).map_batches(
                _Worker,
                fn_constructor_args=(job,),
                batch_size=1,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=workers),
                num_cpus=0 if gpus else 1,
                num_gpus=1 if gpus else 0,
            )
            done = 0
            for row in stream.iter_rows():
                given = json.loads(row["result"])
                if given and "fault" in given:
                    raise _fault(*given["fault"])
                done += row["count"]
                yield row["name"], given and given["result"]
                on_progress(done, total)


@contextmanager
def _cluster() -> Iterator[Any]:
    """Yield ``ray`` with its cluster: the one that is there, or one that ends with the job.

    Raises:
        BackendError: Ray is not installed, does not start, or fails on the way.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import: nobody is told that Ray is used
    try:
        import pyarrow  # noqa: F401
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise BackendError(
            f"Ray cannot be imported ({error}).",
            where="extraction.engine",
            fix='Set extraction.engine=local, or pip install -c requirements/constraints.txt -e ".[ray]"',
        ) from None
    fix = "Run again: shards that are written are kept. Check the cluster of RAY_ADDRESS and the memory for "
    fix += "extraction.workers models, or set extraction.engine=local."
    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises its own, ConnectionError, ValueError and plain Exception
            ray.shutdown()
            raise BackendError(f"Ray does not start ({error}).", where="extraction.engine", fix=fix) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    except RayError as error:
        reason = str(error).strip().split("\n")[-1]
        raise BackendError(
            f"Ray fails ({type(error).__name__}: {reason}).", where="extraction.engine", fix=fix
        ) from None
    finally:
        if mine:
            ray.shutdown()


class _Worker:
    """A process of Ray with the model."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._reader: Reader | None = None

    def __call__(self, table: Any) -> Any:
        import pyarrow

        shard = table.to_pylist()[0]
        result: dict[str, Any] | None = None
        if shard["documents"] is not None:
            documents = [GivenDocument(**values) for values in json.loads(shard["documents"])]
            try:
                self._reader = self._reader or _alone(self._job.reader)
                result = {"result": self._job.extract(self._reader, documents)}
            except OdinError as error:
                result = {"fault": [type(error).__name__, error.what, error.where, error.fix]}
        row = {"name": shard["name"], "count": shard["count"], "result": json.dumps(result)}
        return pyarrow.Table.from_pylist([row])


def _source(job: Job, read: Read, finished: Collection[str]) -> Any:
    """Return a data source of one task, which reads the documents shard by shard."""
    import pyarrow
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    layout = pyarrow.schema({"name": pyarrow.string(), "count": pyarrow.int64(), "documents": pyarrow.string()})

    def tables() -> Iterator[Any]:
        for shard in job.shards(read):
            left = None if shard.name in finished else json.dumps([asdict(document) for document in shard.documents])
            row = {"name": shard.name, "count": len(shard.documents), "documents": left}
            yield pyarrow.Table.from_pylist([row], layout)

    class Documents(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(tables, unknown)]

    return Documents()


def _alone(load: Callable[[], Reader]) -> Reader:
    """Load a model for one core; Ray has a worker for each."""
    import torch

    torch.set_num_threads(1)
    return load()


def _fault(kind: str, what: str, where: str, fix: str) -> OdinError:
    from odin_slm.core import errors

    found: OdinError = getattr(errors, kind)(what, where=where, fix=fix)
    return found
