"""Nodes of the extraction pipeline."""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from odin_slm.config.parameters import ExtractionParams
from odin_slm.core.document import GivenDocument
from odin_slm.inference.served_model import ServedModel

Documents = Callable[[str, str], Iterator[GivenDocument]]


def extract_documents(
    extraction_documents: Documents, extraction_model: ServedModel, params: ExtractionParams
) -> Callable[[Collection[str]], Iterator[dict[str, Any]]]:
    """Return what reads documents shard by shard, here or with Ray, once it is told which shards are there already.

    A shard is named by a digest of everything that decides what is in it: model, prompt, decoding, documents. One that
    is there is not made again, so that a job that was killed goes on where it stopped.

    Args:
        extraction_documents: Reads the documents, given the names of the fields that hold text and id; called twice,
            once to count. They are never held together.
        extraction_model: The model.
        params: Engine, schema, decoding, sizes.

    Returns:
        A function of the names that are there. It yields shards: ``name``, ``rows`` (one per document: provenance,
        entities and relations with offsets, windows with raw outputs) and ``failed`` (documents that could not be read,
        each with its error); at the end ``manifest``, what the job consists of.
    """
    return partial(_shards, extraction_documents, extraction_model, params)


def _shards(
    documents: Documents, model: ServedModel, params: ExtractionParams, finished: Collection[str]
) -> Iterator[dict[str, Any]]:
    from odin_slm.inference.batch import Job, extract_here
    from odin_slm.inference.batch_ray import extract_with_ray
    from odin_slm.inference.generation import progress

    job = Job(model, params)
    extract = extract_with_ray if params.engine == "ray" else extract_here
    total = sum(1 for _ in documents(params.text_field, params.id_field))
    names = []
    with progress("Extracting", total) as on_progress:
        for name, result in extract(job, documents, total, finished, on_progress):
            names.append(name)
            if result is not None:
                yield {"name": name, **result}
    manifest = {"model_source": model.source, "documents": total, "settings": job.settings}
    shards = sorted(names, key=lambda name: int(name.split("-")[1]))
    yield {"manifest": {**manifest, "shard_size": params.shard_size, "shards": shards}}
