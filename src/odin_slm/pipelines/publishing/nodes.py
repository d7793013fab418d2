"""Nodes of the publishing pipeline."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import EvaluationParams, PublishingParams, TaskParams
from odin_slm.core.errors import MissingInputError, ReleaseError, required
from odin_slm.core.hashing import canonical_json, sha256_of, sha256_text
from odin_slm.hub.client import RepositoryType
from odin_slm.hub.licensing import (
    OPEN_LICENSES,
    BaseTerms,
    base_terms,
    publishable_rows,
    require_base_license,
    require_base_terms,
)
from odin_slm.hub.upload import Plan, Request
from odin_slm.inference.served_model import instructions
from odin_slm.models.base_model import BaseModel
from odin_slm.models.conversion import provenance_of
from odin_slm.release.cards import (
    DatasetFacts,
    ModelFacts,
    SplitFile,
    dataset_card,
    dataset_license_text,
    failure_examples,
    model_card,
    read_front_matter,
)
from odin_slm.release.checks import BASE_FILES, TOKENIZER_FILES, ReleaseKind, validate_card
from odin_slm.release.gates import card_gate, data_gate, model_gate, pass_gates
from odin_slm.release.merged_card import MergedFacts
from odin_slm.release.merging import Merge, MergeRequest
from odin_slm.release.provenance import is_of, lineage_problems

logger = logging.getLogger(__name__)

_COLUMNS = ("id", "source", "document_id", "instruction", "input", "output", "input_sha256", "output_sha256")


def replay_predictions(
    base_model: BaseModel,
    adapter: Path,
    training_work: Path,
    test_data: list[dict[str, Any]],
    predictions: list[dict[str, Any]],
    task: TaskParams,
    params: PublishingParams,
) -> list[dict[str, Any]]:
    """Ask the adapter once more for some of its predictions: do the figures belong to these weights?

    Args:
        base_model: The base.
        adapter: Folder of the final adapter.
        training_work: Training's folder, with the checkpoints.
        test_data: Test records.
        predictions: What the adapter answered when it was evaluated.
        task: What reads the answers.
        params: How many predictions, which checkpoint.

    Returns:
        The questions of :func:`odin_slm.inference.reproducibility.choose_questions`, with ``answer`` and
        ``reproduced``, which is None for a checkpoint: the predictions are the final adapter's.
    """
    from odin_slm.inference.reproducibility import choose_questions, replay

    questions = choose_questions(predictions, test_data, params.replayed_predictions)
    answers = replay(base_model, _released_adapter(adapter, training_work, params), questions, task.task())
    return [
        {
            **question,
            "answer": answer,
            "reproduced": None if params.checkpoint else answer == question["prediction"],
        }
        for question, answer in zip(questions, answers, strict=True)
    ]


def stage_model_release(
    adapter: Path,
    training_work: Path,
    base_model: BaseModel,
    evaluation_results: dict[str, Any],
    predictions: list[dict[str, Any]],
    promotion: dict[str, Any] | None,
    replayed_predictions: list[dict[str, Any]],
    training_state: dict[str, Any] | None,
    manifest: dict[str, Any],
    leakage: dict[str, Any],
    quality: dict[str, Any],
    dataset_publication: dict[str, Any],
    task: TaskParams,
    params: PublishingParams,
) -> dict[str, bytes | Path]:
    """Gather what a stranger needs to use the adapter and to judge it.

    Args:
        adapter: Folder that PEFT and the tokenizer saved.
        training_work: Training's folder, with the checkpoints.
        base_model: The base it was trained on; a base in a local folder becomes part of the release.
        evaluation_results: Measured figures.
        predictions: The outputs behind them, for examples of what goes wrong.
        promotion: The comparison with the champion, where there was one.
        replayed_predictions: Predictions that the adapter was asked for again.
        training_state: How it was trained.
        manifest: What it was trained on.
        leakage: What the splits share.
        quality: Quality of the data.
        dataset_publication: Where the data was published, if it was.
        task: What it was taught.
        params: Names and terms.

    Returns:
        File name -> content, or the file to copy.

    Raises:
        ReleaseError: A gate or a licence refuses the model, a file is missing, or nobody knows how it was trained.
    """
    if training_state is None:
        raise ReleaseError(
            "there is no training_state.json: the card could not say how the adapter was trained.",
            where=f"experiment {params.experiment}",
            fix="Run the training pipeline in this experiment; adapters from elsewhere are evaluated, not staged.",
        )
    manifest = required(manifest, "manifest.json")
    results = None if params.checkpoint else evaluation_results
    what = task.task()
    if not params.checkpoint and not is_of(training_state, sha256_of(_existing(adapter / "adapter_model.safetensors"))):
        raise ReleaseError(
            "training_state.json tells of another adapter than this one.",
            where=f"experiment {params.experiment}",
            fix="Leave --params adapter=… away, or train again; adapters from elsewhere are evaluated, not staged.",
        )
    gates = [
        data_gate(leakage, quality),
        model_gate(
            results,
            minimum_entity_f1=params.minimum_entity_f1,
            maximum_parse_failure_rate=params.maximum_parse_failure_rate,
            promotion=promotion,
            replayed=[] if params.checkpoint else replayed_predictions,
            lineage=lineage_problems(training_state, results, manifest),
            task=what,
        ),
    ]
    overridden = pass_gates(gates, params.override)
    base_id = _base_id(base_model, params)
    names = {"publishing.model_name": params.model_name, "publishing.model_repo": params.model_repo}
    terms = require_base_terms(
        base_id, names={key: name for key, name in names.items() if name}, license_id=params.license
    )
    if terms is None:
        from odin_slm.models.preflight import stated_license

        stated = stated_license(base_model) or params.base_license
        require_base_license(base_id, stated=stated, license_id=params.license)
    base_files = _base_files(base_model) if params.include_base == "auto" else {}
    released = _released_adapter(adapter, training_work, params)
    tokenizer = {name: released / name for name in TOKENIZER_FILES if (released / name).is_file()}
    files: dict[str, bytes | Path] = {
        "adapter_config.json": _portable_config(released, base_id, base_model.revision),
        "adapter_model.safetensors": _existing(released / "adapter_model.safetensors"),
        **(tokenizer or {name: adapter / name for name in TOKENIZER_FILES if (adapter / name).is_file()}),
        "LICENSE": _license(base_model, terms, params),
        "task.json": canonical_json({**what.to_dict(), "instructions": instructions(what, manifest)}).encode("utf-8"),
        **({"evaluation_results.json": canonical_json(results).encode("utf-8")} if results else {}),
        **base_files,
    }
    if terms:
        files["NOTICE"] = terms.notice.encode("utf-8")
    published = dataset_publication.get("repo_id") == params.dataset_repo
    facts = ModelFacts(
        name=params.model_name,
        experiment=params.experiment,
        repo_id=params.model_repo,
        dataset_repo=params.dataset_repo,
        dataset_revision=dataset_publication.get("revision") if published else None,
        base_id=base_id,
        base_revision=base_model.revision,
        base_included=bool(base_files),
        base_conversion=provenance_of(base_model.path) if base_model.path else None,
        license=params.license,
        base_terms=terms,
        results=results,
        training=training_state,
        manifest=manifest,
        leakage=leakage,
        quality=quality,
        task=what,
        checksums=_checksums(files),
        checkpoint=params.checkpoint,
        failures=failure_examples(predictions, manifest, what) if results else (),
        overridden=overridden,
    )
    return {**files, "README.md": _checked_card(facts, params)}


def stage_dataset_release(
    train: list[dict[str, Any]],
    val: list[dict[str, Any]],
    test: list[dict[str, Any]] | None,
    manifest: dict[str, Any],
    leakage: dict[str, Any],
    quality: dict[str, Any],
    data_statistics: dict[str, Any],
    task: TaskParams,
    params: PublishingParams,
) -> dict[str, bytes | Path]:
    """Gather the dataset as Parquet, with the texts that may be published and hashes of all.

    Args:
        train: Training records.
        val: Validation records; without any, the dataset has no such split, and a warning says so.
        test: Test records; likewise.
        manifest: Seeds, counts, hashes, and which sources are synthetic.
        leakage: What the splits share.
        quality: Quality of the data.
        data_statistics: Counts per split and source.
        task: What the data teaches.
        params: Names.

    Returns:
        File name -> content.

    Raises:
        MissingInputError: A split or the manifest is absent.
        ReleaseError: A gate refuses the data, or the manifest is of other data.
    """
    overridden = pass_gates([data_gate(leakage, quality)], params.override)
    manifest = required(manifest, "manifest.json")
    train, val, test = required(train, "train.json"), required(val, "val.json"), required(test, "test.json")
    files: dict[str, bytes | Path] = {}
    split_files = []
    for split, file, records in (
        ("train", "train.json", train),
        ("validation", "val.json", val),
        ("test", "test.json", test),
    ):
        if sha256_text(canonical_json(records)) != manifest["outputs"][file]:
            raise ReleaseError(
                "the file is not the one that manifest.json describes.",
                where=file,
                fix="Run kedro run --pipelines data again; what was changed by hand belongs into a corpus.",
            )
        if not records and split != "train":
            logger.warning("The dataset is staged without %s: no record lies there.", split)
            continue
        rows = publishable_rows(records, manifest["synthetic_sources"])
        content, num_bytes = _parquet(rows)
        files[f"data/{split}.parquet"] = content
        split_files.append(SplitFile(split, len(rows), num_bytes, len(content)))
    files["LICENSE"] = dataset_license_text(manifest, _apache_license()).encode("utf-8")
    files["manifest.json"] = canonical_json(manifest).encode("utf-8")
    files["leakage.json"] = canonical_json(leakage).encode("utf-8")
    facts = DatasetFacts(
        name=params.dataset_name,
        experiment=params.experiment,
        repo_id=params.dataset_repo,
        columns=_COLUMNS,
        files=split_files,
        rows_by_source=Counter(record["source"] for record in (*train, *val, *test)),
        statistics=data_statistics,
        manifest=manifest,
        leakage=leakage,
        quality=quality,
        task=task.task(),
        checksums=_checksums(files),
        overridden=overridden,
    )
    return {**files, "README.md": _checked_card(facts, params)}


def rehearse_model_release(params: PublishingParams, task: TaskParams, *inputs: Any) -> dict[str, bytes | Path]:
    """Stage the model as :func:`stage_model_release` does, not knowing yet where its data will lie on the Hub.

    Every gate is passed, and every file checked, before a first byte of the dataset is sent.

    Args:
        params: Names and terms.
        task: What the model was taught.
        *inputs: The others of :func:`stage_model_release`, but for ``dataset_publication``.
    """
    stage: Callable[..., dict[str, bytes | Path]] = stage_model_release
    return stage(*inputs, {}, task, params)


def plan_dataset_publication(dataset_release: Path, model_rehearsal: Path | None, params: PublishingParams) -> Request:
    """Say whether and how the staged dataset is published.

    Args:
        dataset_release: The staged folder.
        model_rehearsal: The staged model, where there is one: nothing is sent of a release whose model is refused.
        params: Names and options.
    """
    return Request(dataset_release, _plan("dataset", dataset_release, params.dataset_repo, params))


def plan_merged_model(
    model_release: Path,
    adapter: Path,
    base_model: BaseModel,
    test_data: list[dict[str, Any]],
    predictions: list[dict[str, Any]],
    task: TaskParams,
    params: PublishingParams,
    evaluation: EvaluationParams,
) -> MergeRequest:
    """Say whether the adapter is merged into its base's weights, and what the result is held against.

    Args:
        model_release: The staged release, which every gate has let through; its licence files go with the weights.
        adapter: Folder of the adapter.
        base_model: The base.
        test_data: Test records.
        predictions: What the adapter answered when it was evaluated.
        task: What it was taught.
        params: Names and options.
        evaluation: How it was asked.
    """
    if params.export == "none":
        return MergeRequest()
    base_id = _base_id(base_model, params)
    beside = ("LICENSE", "NOTICE", *TOKENIZER_FILES)
    return MergeRequest(
        Merge(
            base=base_model,
            adapter=adapter,
            records=test_data,
            predictions=predictions,
            max_new_tokens=evaluation.max_new_tokens,
            batch_size=evaluation.batch_size,
            tolerance=params.export_tolerance,
            files={name: model_release / name for name in beside if (model_release / name).is_file()},
            facts=MergedFacts(
                name=params.model_name,
                experiment=params.experiment,
                base_id=base_id,
                license=params.license,
                base_terms=base_terms(base_id),
                task=task.task(),
            ),
            task=task.task(),
            gguf=params.export == "gguf",
        )
    )


def describe_merged_model(merged_model: dict[str, Any], params: PublishingParams) -> dict[str, Any]:
    """Return the merged weights' scores beside the adapter's, or that nothing was exported.

    Args:
        merged_model: Report of the last export; empty where there was none.
        params: Whether this run exported.
    """
    return {"export": params.export, **(merged_model if params.export != "none" else {})}


def plan_model_publication(
    model_release: Path,
    base_model: BaseModel,
    replayed_predictions: list[dict[str, Any]],
    dataset_publication: dict[str, Any],
    params: PublishingParams,
) -> Request:
    """Say whether and how the staged model is published, and what its download is asked.

    Args:
        model_release: The staged folder.
        base_model: The base.
        replayed_predictions: Questions with the local adapter's answers.
        dataset_publication: The record of the dataset, which is taken back where others see it and the model fails.
        params: Names and options.

    Raises:
        MissingInputError: There is no prediction to compare the download with.
    """
    plan = _plan("model", model_release, params.model_repo, params)
    if plan and not replayed_predictions:
        raise MissingInputError(
            "there is no prediction that the downloaded adapter could be compared with.",
            where="predictions.jsonl",
            fix="Run the evaluation pipeline of this experiment, and set publishing.replayed_predictions to 1 or more.",
        )
    return Request(model_release, plan, base_model, replayed_predictions, dataset_publication.get("undo"))


def conclude_publication(
    dataset_publication: dict[str, Any], model_publication: dict[str, Any], params: PublishingParams
) -> dict[str, Any]:
    """Put together where the release lies, and whether it is to be seen.

    Args:
        dataset_publication: The record of the dataset.
        model_publication: The record of the model.
        params: Options.

    Returns:
        ``experiment``, ``dataset``, ``model``, ``pushed``, under ``visible`` which of the two are to be shown, and
        under ``undo`` what takes back that others see already, should that fail.
    """
    named = {"dataset": params.dataset_repo, "model": params.model_repo}
    show = params.push and not params.private and not params.create_pr
    records = {"dataset": dataset_publication, "model": model_publication}
    return {
        "experiment": params.experiment,
        **{kind: {key: value for key, value in r.items() if key != "undo"} for kind, r in records.items()},
        "pushed": params.push,
        "undo": [record["undo"] for record in records.values() if "undo" in record],
        "visible": [kind for kind, repo_id in named.items() if show and repo_id is not None],
    }


def _plan(kind: RepositoryType, folder: Path, repo_id: str | None, params: PublishingParams) -> Plan | None:
    if not params.push or repo_id is None:
        return None
    return Plan(
        kind=kind,
        folder=folder,
        repo_id=repo_id,
        private=params.private,
        message=params.message or f"Release the {kind} of the experiment {params.experiment}",
        tag=params.tag,
        branch=params.revision,
        pull_request=params.create_pr,
    )


def _checked_card(facts: ModelFacts | DatasetFacts, params: PublishingParams) -> bytes:
    """Return a card that its own gate lets through; it shows whatever was overridden."""
    kind: ReleaseKind = "model" if isinstance(facts, ModelFacts) else "dataset"
    card = _card(facts)
    overridden = pass_gates([card_gate(validate_card(read_front_matter(card), kind))], params.override)
    if overridden:
        card = _card(replace(facts, overridden={**facts.overridden, **overridden}))
    return card.encode("utf-8")


def _card(facts: ModelFacts | DatasetFacts) -> str:
    return model_card(facts) if isinstance(facts, ModelFacts) else dataset_card(facts)


def _released_adapter(adapter: Path, training_work: Path, params: PublishingParams) -> Path:
    """Return the folder of the adapter to release: the final one, or a checkpoint of its training."""
    if params.checkpoint is None:
        return adapter
    folder = training_work / "checkpoints"
    if not (folder / params.checkpoint / "adapter_config.json").is_file():
        present = sorted(path.name for path in folder.glob("checkpoint-*") if (path / "adapter_config.json").is_file())
        raise ReleaseError(
            f"there is no checkpoint {params.checkpoint}.",
            where="publishing.checkpoint",
            fix=f"Name one of {', '.join(present)}." if present else "Training left none; leave it out.",
        )
    return folder / params.checkpoint


def _base_id(base_model: BaseModel, params: PublishingParams) -> str:
    """Return the Hub id that stands for the base; a local folder must not pass for another model by oversight."""
    if base_model.path is None:
        return base_model.source
    derived_from = (provenance_of(base_model.path) or {}).get("derived_from")
    if derived_from and params.base_model_id in (None, derived_from):
        return str(derived_from)
    if params.base_model_id is None or params.base_model_id.rpartition("/")[2] != base_model.path.name:
        raise ReleaseError(
            f"found {params.base_model_id!r} for a base in the folder {base_model.path.name!r}; expected owner/name "
            "with the folder's name.",
            where="publishing.base_model_id",
            fix="Set it to the Hub id of the model in that folder, or rename the folder.",
        )
    return params.base_model_id


def _base_files(base_model: BaseModel) -> dict[str, bytes | Path]:
    if base_model.path is None:
        return {}
    from odin_slm.models.preflight import stated_license

    found = stated_license(base_model)
    if found not in OPEN_LICENSES:
        raise ReleaseError(
            f"the base's own card (README.md) names the licence {found!r}; a base is put into a release only under "
            "an open one.",
            where=base_model.source,
            fix="Set publishing.include_base=never; the card then refers to publishing.base_model_id on the Hub.",
        )
    present = sorted(file for pattern in BASE_FILES for file in base_model.path.glob(pattern) if file.is_file())
    return {f"base/{file.name}": file for file in present}


def _portable_config(adapter: Path, base_id: str, revision: str | None) -> bytes:
    """Return ``adapter_config.json`` with the base's Hub id in place of a local path, in a fixed order."""
    config = json.loads(_existing(adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_id
    config["revision"] = revision or config.get("revision")
    config["task_type"] = config.get("task_type") or "CAUSAL_LM"
    if isinstance(config.get("target_modules"), list):  # PEFT writes a set, in any order
        config["target_modules"] = sorted(config["target_modules"])
    return canonical_json(config).encode("utf-8")


def _license(base_model: BaseModel, terms: BaseTerms | None, params: PublishingParams) -> bytes | Path:
    if params.license_file:
        return _existing(params.license_file, fix="Mend publishing.license_file.")
    if params.license == "apache-2.0":
        return _apache_license().encode("utf-8")
    if terms and base_model.path and (base_model.path / "LICENSE").is_file():
        return base_model.path / "LICENSE"
    raise ReleaseError(
        f"the text of the licence {params.license!r} is not at hand, and a release carries its licence.",
        where="publishing.license_file",
        fix="Download the licence from the base's page on the Hub and set publishing.license_file=FILE.",
    )


def _apache_license() -> str:
    return (resources.files("odin_slm") / "templates" / "apache-2.0.txt").read_text(encoding="utf-8")


def _existing(file: Path, fix: str = "Train again, or name an adapter that PEFT saved as safetensors.") -> Path:
    if not file.is_file():
        raise ReleaseError("there is no such file, and a release needs it.", where=str(file), fix=fix)
    return file


def _parquet(rows: list[dict[str, Any]]) -> tuple[bytes, int]:
    """Return a Parquet file, equal for equal rows, and the rows' size in memory."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema([(name, pyarrow.string()) for name in _COLUMNS]))
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(
        table, sink, version="2.6", compression="zstd", compression_level=9, row_group_size=1000, store_schema=False
    )
    return sink.getvalue().to_pybytes(), table.nbytes


def _checksums(files: dict[str, bytes | Path]) -> dict[str, str]:
    return {
        name: hashlib.sha256(content if isinstance(content, bytes) else content.read_bytes()).hexdigest()
        for name, content in files.items()
    }
