"""An adapter merged into its base's weights: a 16-bit model that needs neither PEFT nor the base.

The saved model answers the prompts of the evaluation again, and the report shows its scores beside the adapter's.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from odin_slm.core.errors import BackendError, BaseModelError, MissingInputError, ReleaseError
from odin_slm.core.hashing import canonical_json, sha256_of
from odin_slm.core.record import Record
from odin_slm.inference.generation import attach
from odin_slm.inference.reading import Question, ask
from odin_slm.models.base_model import BaseModel, load_model, standing_alone, trained_weights
from odin_slm.models.sources.conversion import Origin, convert
from odin_slm.models.sources.gguf_writer import Kind, write_gguf
from odin_slm.models.tokens import output_budget
from odin_slm.models.tying import settle
from odin_slm.release.facts import ReferenceAnswers
from odin_slm.release.merged_card import GGUF_TYPES, MergedFacts, gguf_instructions, merged_card
from odin_slm.tasks import Task

SHARD = "4GB"
"""Size of a weights file, at most."""
_MERGED_FIX = "Evaluate this adapter again on this machine; where rounding to 16 bit does it, publish the adapter."
_GGUF_FIX = "Set publishing.gguf_type={}, which rounds nothing."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merge:
    """An adapter to merge, and what the merged model is compared with.

    Attributes:
        base: The base.
        adapter: Folder of the adapter and its tokenizer.
        reference: What the adapter answered in evaluation, and how it was asked.
        tolerance: How far a headline figure may be from the adapter's.
        files: File name -> content, or the file to copy; saved beside the weights.
        facts: What the card says besides the scores.
        gguf: Format of a GGUF file to write as well; None for none.
    """

    base: BaseModel
    adapter: Path
    reference: ReferenceAnswers
    tolerance: float
    files: Mapping[str, bytes | Path]
    facts: MergedFacts
    gguf: Kind | None = None


@dataclass(frozen=True)
class MergeRequest:
    """What to merge; None where nothing is."""

    job: Merge | None = None


def export(job: Merge, folder: Path) -> dict[str, Any]:
    """Merge, save, score the saved files, and write the card and the report.

    Returns:
        The report, which is also ``merging.json``: ``dtype``, ``architecture``, ``adapter_sha256``, ``records``,
        ``equal_predictions``, ``decoding``, ``tolerance``, under ``adapter`` and ``merged`` the headline of each, and
        of a GGUF file, under ``gguf``, its ``file`` and ``sha256`` with the same figures; or ``why`` there is none.

    Raises:
        MissingInputError: There are no predictions to compare with.
        ReleaseError: The merged model, or its GGUF file, scores otherwise than its adapter.
        BackendError: A merged weight is not finite, or a quantised base cannot be read here.
    """
    known = {record["id"] for record in job.reference.records}
    rows = [row for row in job.reference.predictions if row["id"] in known]
    if not rows:
        raise MissingInputError(
            "there are no predictions of the test records that the merged weights could be compared with.",
            where="predictions.jsonl",
            fix="Run the evaluation pipeline of this experiment, or set publishing.export=none.",
        )
    model = merge(job.base, job.adapter)
    model.save_pretrained(folder, max_shard_size=SHARD)
    described = {"architecture": type(model).__name__, "dtype": str(model.dtype).removeprefix("torch.")}
    del model
    for name, content in job.files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            shutil.copyfile(content, folder / name)
    _portable_config(folder / "config.json")
    report = {
        **described,
        "adapter_sha256": sha256_of(trained_weights(job.adapter)),
        **compare(BaseModel(job.facts.name, folder), rows, job),
    }
    if job.gguf:
        report["gguf"] = _gguf(folder, job.gguf, rows, job, report["dtype"])
    (folder / "merging.json").write_text(canonical_json(report), encoding="utf-8")
    (folder / "README.md").write_text(merged_card(job.facts, report), encoding="utf-8")
    if job.gguf:
        (folder / "GGUF.md").write_text(gguf_instructions(job.facts, report), encoding="utf-8")
    return report


def merge(base: BaseModel, adapter: Path) -> Any:
    """Return the base with the adapter merged into its weights, or a whole model as it is, in 16 bit.

    A quantised base is dequantised first: those are the weights that the adapter was trained on. Each sum is computed
    in float32 and rounded once; a base in float32 becomes bfloat16. Embeddings and head that an adapter has untied
    are saved separately.

    Raises:
        AdapterError: The adapter does not fit the base.
        BackendError: A merged weight is not finite, or the base is quantised and cannot be read here.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    try:
        base, delta = standing_alone(base, adapter)
        model = load_model(base, dtype="auto")
        if getattr(model, "hf_quantizer", None) is not None:
            model = model.dequantize()
    except (ImportError, NotImplementedError) as error:
        raise BackendError(
            f"the quantised base cannot be read here ({str(error).strip().splitlines()[0]}).",
            where=base.source,
            fix="Export on the machine that trained the adapter, with pip install -e '.[gpu]'.",
        ) from error
    wide = model.dtype == torch.float32
    if delta is None:
        return model.to(torch.bfloat16) if wide else model
    adapted = attach(model, base, delta)
    for name, layer in adapted.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        own = layer.get_base_layer()
        kept = own.weight.dtype
        own.to(torch.float32)
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise BackendError(
                f"the merged weights of {name} are not finite.", where=str(adapter), fix="Train again."
            ) from error
        own.to(kept)
    merged = settle(adapted.unload())
    return merged.to(torch.bfloat16) if wide else merged


def _gguf(folder: Path, kind: Kind, rows: Sequence[Mapping[str, Any]], job: Merge, dtype: str) -> dict[str, Any]:
    """Write the GGUF file of merged weights, read it back, and compare its answers with the adapter's too."""
    merged, file = BaseModel(job.facts.name, folder), folder / f"model-{kind}.gguf"
    try:
        write_gguf(merged, file, kind, name=job.facts.name, license_id=job.facts.license)
        with tempfile.TemporaryDirectory(prefix="odin-slm-") as work:
            back = convert(file, Path(work) / "base", Origin("a local file"))
            exact = GGUF_TYPES[dtype]
            fix = _MERGED_FIX if kind == exact else _GGUF_FIX.format(exact)
            found = compare(BaseModel(job.facts.name, back), rows, job, f"the GGUF file ({kind})", fix)
    except BaseModelError as error:  # it cannot be written, or reads back differently
        file.unlink(missing_ok=True)
        logger.warning("There is no GGUF file: %s GGUF.md has the commands of llama.cpp.", error.what)
        return {"why": error.what}
    return {"file": file.name, "sha256": sha256_of(file), **found}


def compare(
    merged: BaseModel,
    rows: Sequence[Mapping[str, Any]],
    job: Merge,
    what: str = "the merged weights",
    fix: str = _MERGED_FIX,
) -> dict[str, Any]:
    """Let a merged model answer its adapter's prompts, decoded in the same way, and score both.

    Args:
        merged: The saved model.
        rows: The adapter's predictions.
        job: How the adapter was asked, what reads the answers, and how far the scores may differ.
        what: Name of the model in the error.
        fix: Advice of the error.

    Raises:
        ReleaseError: A headline figure differs by more than the tolerance.
    """
    again = _asked_again(merged, rows, job)
    adapter, own = _headline(job.facts.task, rows), _headline(job.facts.task, again)
    apart = [name for name, value in own.items() if abs(value - adapter[name]) > job.tolerance]
    if apart:
        listed = ", ".join(f"{name} {own[name]:.4f} in place of {adapter[name]:.4f}" for name in apart)
        raise ReleaseError(
            f"{what} score otherwise than the adapter on {len(rows)} test records: {listed}.",
            where=f"publishing.export_tolerance={job.tolerance}",
            fix=fix,
        )
    return {
        "records": len(rows),
        "decoding": rows[0]["decoding"],
        "equal_predictions": sum(a["prediction"] == b["prediction"] for a, b in zip(rows, again, strict=True)),
        "tolerance": job.tolerance,
        "adapter": adapter,
        "merged": own,
    }


def _asked_again(merged: BaseModel, rows: Sequence[Mapping[str, Any]], job: Merge) -> list[dict[str, Any]]:
    """Return the rows with the merged model's outputs in place of the adapter's."""
    reference = job.reference
    by_id = {record["id"]: record for record in reference.records}
    task = job.facts.task.with_calibrator(reference.calibrator) if rows[0]["decoding"] == "constrained" else None
    budget = reference.max_new_tokens
    if budget == "auto":
        taught = job.facts.task.taught
        budget = output_budget(job.base, [taught(cast(Record, one))["output"] for one in reference.records])
    outputs = ask(
        merged,
        None,
        [
            Question(r["input"], r["instruction"], task, reference.calibrator)
            for r in (by_id[row["id"]] for row in rows)
        ],
        names=[row["id"] for row in rows],
        batch_size=reference.batch_size,
        max_new_tokens=int(budget),
        precision=rows[0].get("precision", "fp32"),
    )
    return [
        {**row, "prediction": output.text, "finished": output.finished, "tokens": output.tokens}
        for row, output in zip(rows, outputs, strict=True)
    ]


def _headline(task: Task, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in task.headline_values(rows).items()}


def _portable_config(file: Path) -> None:
    """Remove the base's local path from ``config.json``."""
    config = json.loads(file.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
