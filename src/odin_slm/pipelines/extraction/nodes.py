"""Nodes of the extraction pipeline."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from odin_slm.config.parameters import ExtractionParams
from odin_slm.core.document import GivenDocument
from odin_slm.inference.served_model import ServedModel


def extract_documents(
    extraction_documents: Callable[[str, str], Iterator[GivenDocument]],
    extraction_model: ServedModel,
    finished_extractions: Collection[str],
    params: ExtractionParams,
) -> Iterator[dict[str, Any]]:
    """Read documents shard by shard, here or with Ray.

    A shard is named by a digest of everything that decides what is in it: model, prompt, decoding, documents. A shard
    that is there already is not made again, so that a job that was killed goes on where it stopped.

    Args:
        extraction_documents: Reads the documents, given the names of the fields that hold text and id; called twice,
            once to count. They are never held together.
        extraction_model: The model.
        finished_extractions: Names of the shards that are there.
        params: Engine, schema, decoding, sizes.

    Yields:
        Shards: ``name``, ``rows`` (one per document: provenance, entities and relations with offsets, windows with raw
        outputs) and ``failed`` (documents that could not be read, each with its error); at the end ``manifest``, what
        the job consists of.
    """
    from odin_slm.inference.batch import Job, extract_here, extract_with_ray
    from odin_slm.inference.generation import progress

    job = Job(extraction_model, params)
    extract = extract_with_ray if params.engine == "ray" else extract_here
    total = sum(1 for _ in extraction_documents(params.text_field, params.id_field))
    names = []
    with progress("Extracting", total) as on_progress:
        for name, result in extract(job, extraction_documents, total, finished_extractions, on_progress):
            names.append(name)
            if result is not None:
                yield {"name": name, **result}
    manifest = {"model_source": extraction_model.source, "documents": total, "settings": job.settings}
    shards = sorted(names, key=lambda name: int(name.split("-")[1]))
    yield {"manifest": {**manifest, "shard_size": params.shard_size, "shards": shards}}
