"""Nodes of the extraction pipeline."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Any

from odin_slm.engines.served_model import ServedModel
from odin_slm.errors import OdinError
from odin_slm.grounding import GivenDocument
from odin_slm.parameters import ExtractionParams

_LAYOUT = 1
"""Changes with the columns of a shard, so that no job goes on with shards of another layout."""


def extract_documents(
    extraction_documents: Callable[[str, str], Iterator[GivenDocument]],
    extraction_model: ServedModel,
    finished_extractions: Collection[str],
    params: ExtractionParams,
) -> Iterator[dict[str, Any]]:
    """Read documents shard by shard.

    A shard is named by a digest of everything that decides what is in it: model, prompt, decoding, documents. A shard
    that is there already is not made again, so that a job that was killed goes on where it stopped.

    Args:
        extraction_documents: Reads the documents, given the names of the fields that hold text and id; called twice,
            once to count. They are never held together.
        extraction_model: The model.
        finished_extractions: Names of the shards that are there.
        params: Schema, decoding, sizes.

    Yields:
        Shards: ``name``, ``rows`` (one per document: provenance, entities and relations with offsets, windows with raw
        outputs) and ``failed`` (documents that could not be read, each with its error); at the end ``manifest``, what
        the job consists of.
    """
    from odin_slm.engines.extraction import Extractor, instruction_of
    from odin_slm.engines.generation import progress
    from odin_slm.prompt import render_prompt

    prompt = render_prompt(instruction_of(extraction_model.instructions, params.schema_name), "")
    settings = {
        "layout": _LAYOUT,
        "model": extraction_model.digest,
        "calibrator": hashlib.sha256(json.dumps(extraction_model.calibrator, sort_keys=True).encode()).hexdigest(),
        "prompt": hashlib.sha256(prompt.encode()).hexdigest(),
        **params.model_dump(mode="json", by_alias=True, exclude={"shard_size", "batch_size"}),
    }
    extractor: Extractor | None = None
    shards = []
    total, done = sum(1 for _ in extraction_documents(params.text_field, params.id_field)), 0
    documents = extraction_documents(params.text_field, params.id_field)
    with progress("Extracting", total) as on_progress:
        for number, shard in enumerate(iter(lambda: list(islice(documents, params.shard_size)), [])):
            name = f"shard-{number:05d}-{_digest(settings, shard)[:16]}"
            shards.append(name)
            if name not in finished_extractions:
                if extractor is None:  # a job that is done already needs no model in memory
                    extractor = Extractor(
                        extraction_model.base,
                        extraction_model.adapter,
                        schema=params.schema_name,
                        constrained=params.constrained,
                        batch_size=params.batch_size,
                        max_new_tokens=params.max_new_tokens,
                        window_tokens=params.window_tokens,
                        overlap=params.overlap,
                        calibrator=extraction_model.calibrator,
                        instructions=extraction_model.instructions,
                    )
                readable = [document for document in shard if document.error is None]
                begun = done
                found = extractor.extract(
                    [document.text for document in readable],
                    lambda ready, begun=begun: on_progress(begun + ready, total),  # type: ignore[misc]
                )
                failed = [_failure(document, document.error) for document in shard if document.error is not None]
                rows = []
                for document, one in zip(readable, found, strict=True):
                    if isinstance(one, OdinError):
                        failed.append(_failure(document, str(one)))
                    else:
                        rows.append(_row(document, one, settings, params))
                yield {"name": name, "rows": rows, "failed": sorted(failed, key=lambda one: one["record"])}
            done += len(shard)
            on_progress(done, total)
    source = {"model_source": extraction_model.source, "documents": total}
    yield {"manifest": {**source, "settings": settings, "shard_size": params.shard_size, "shards": shards}}


def _digest(settings: dict[str, Any], shard: list[GivenDocument]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for document in shard:
        known = [document.id, document.source, document.record, document.error]
        digest.update(json.dumps(known).encode() + document.text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _row(document: GivenDocument, found: Any, settings: dict[str, Any], params: ExtractionParams) -> dict[str, Any]:
    grounded = found.grounded.to_dict()
    return {
        "id": document.id,
        "source": document.source,
        "record": document.record,
        "text_sha256": hashlib.sha256(document.text.encode()).hexdigest(),
        "text": document.text if params.keep_text else None,
        "entities": grounded["entities"],
        "relations": grounded["relations"],
        "malformed_lines": grounded["malformed"],
        "windows": [
            {"begin": w.begin, "end": w.end, "output": w.output, "finished": w.finished} for w in found.windows
        ],
        "constrained": params.constrained,
        "schema": params.schema_name,
        "model": settings["model"],
        "prompt": settings["prompt"],
    }


def _failure(document: GivenDocument, error: str | None) -> dict[str, Any]:
    return {"id": document.id, "source": document.source, "record": document.record, "error": error}
