"""Nodes of the publishing pipeline."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import EvaluationParams, PublishingParams, TaskParams
from odin_slm.core.errors import MissingInputError, ReleaseError, required
from odin_slm.core.hashing import canonical_json, sha256_of, sha256_of_json
from odin_slm.core.runtime_environment import one_at_a_time
from odin_slm.hub.client import RepositoryType
from odin_slm.hub.licensing import base_terms
from odin_slm.hub.plan import Plan, Request
from odin_slm.inference.served_model import CALIBRATOR
from odin_slm.models.base_model import BaseModel, is_whole
from odin_slm.release.cards import failure_examples
from odin_slm.release.checks import TOKENIZER_FILES
from odin_slm.release.facts import (
    BaseFacts,
    DataReports,
    DatasetFacts,
    ModelDraft,
    ModelEvidence,
    ModelFacts,
    ModelFiles,
    ReferenceAnswers,
    ReleasedAdapter,
    ReleaseTerms,
)
from odin_slm.release.gates import Thresholds, data_gate, judgement, model_gate, require_open, thresholds
from odin_slm.release.merged_card import MergedFacts
from odin_slm.release.merging import Merge, MergeRequest
from odin_slm.release.provenance import is_of, provenance_problems
from odin_slm.release.staging import (
    COLUMNS,
    base_facts,
    base_id_of,
    checksums,
    dataset_files,
    find_adapter,
    license_text,
    model_files,
    weights_of,
    with_base,
    with_card,
)

logger = logging.getLogger(__name__)

_SPLITS = {"train": "train.json", "validation": "val.json", "test": "test.json"}
"""Split name on the Hub -> the file that the manifest describes."""


# The dataset


def gather_data_reports(
    manifest: dict[str, Any] | None, leakage: dict[str, Any], quality: dict[str, Any], data_statistics: dict[str, Any]
) -> DataReports:
    """Put together what is known of the data.

    Raises:
        MissingInputError: There is no manifest.
    """
    return DataReports(required(manifest, "manifest.json"), leakage, quality, data_statistics)


def judge_data(data_reports: DataReports, params: PublishingParams) -> dict[str, Any]:
    """Judge the data by its reports.

    Returns:
        The judgement of :func:`odin_slm.release.gates.judgement` on the gate ``data``.
    """
    return judgement([data_gate(data_reports)], params.override)


def verify_splits(
    train: list[dict[str, Any]] | None,
    val: list[dict[str, Any]] | None,
    test: list[dict[str, Any]] | None,
    manifest: dict[str, Any] | None,
) -> dict[str, list[dict[str, Any]]]:
    """Return the splits by their names on the Hub, once they are what the manifest describes.

    Args:
        train: Training records.
        val: Validation records; without any, the dataset has no such split, and a warning says so.
        test: Test records; likewise.
        manifest: Their hashes.

    Raises:
        MissingInputError: A split or the manifest is absent.
        ReleaseError: The manifest is of other data.
    """
    expected = required(manifest, "manifest.json")["outputs"]
    splits = {}
    for (split, file), records in zip(_SPLITS.items(), (train, val, test), strict=True):
        if sha256_of_json(required(records, file)) != expected[file]:
            raise ReleaseError(
                "the file is not the one that manifest.json describes.",
                where=file,
                fix="Run kedro run --pipelines data again; what was changed by hand belongs in a corpus.",
            )
        if records or split == "train":
            splits[split] = records or []
        else:
            logger.warning("The dataset is staged without %s: no record lies there.", split)
    return splits


def stage_dataset_release(
    verified_splits: dict[str, list[dict[str, Any]]],
    data_reports: DataReports,
    data_gate: dict[str, Any],
    task: TaskParams,
    params: PublishingParams,
) -> dict[str, bytes | Path]:
    """Gather the dataset as Parquet, with the texts that may be published and the hashes of all texts.

    Returns:
        File name -> content.

    Raises:
        ReleaseError: A gate refuses the data.
    """
    overridden = require_open(data_gate)
    files, splits = dataset_files(verified_splits, data_reports)
    facts = DatasetFacts(
        name=params.dataset_name,
        experiment=params.experiment,
        repo_id=params.dataset_repo,
        columns=COLUMNS,
        files=splits,
        rows_by_source=Counter(record["source"] for records in verified_splits.values() for record in records),
        data=data_reports,
        task=task.task(),
        checksums=checksums(files),
        overridden=overridden,
    )
    return with_card(files, facts, params.override)


# The model: what is known of it, and its gates


def set_thresholds(task: TaskParams, params: PublishingParams) -> Thresholds:
    """Return the least scores of a release; a metric that the task does not have ends the run here, at its start.

    Raises:
        ReleaseError: A minimum names no metric of the task.
    """
    return thresholds(task.task(), params.minimum_scores, params.maximum_parse_failure_rate)


def select_adapter(adapter: Path, training_work: Path, params: PublishingParams) -> ReleasedAdapter:
    """Return the adapter to release: the final one, or a checkpoint of its training.

    Raises:
        ReleaseError: There is no such checkpoint.
    """
    return find_adapter(adapter, training_work, params.checkpoint)


def gather_reference_answers(
    test_data: list[dict[str, Any]],
    predictions: list[dict[str, Any]],
    calibrator: dict[str, Any] | None,
    evaluation: EvaluationParams,
) -> ReferenceAnswers:
    """Put together what the final adapter answered in evaluation, and how it was asked."""
    budget, batch_size = evaluation.max_new_tokens, evaluation.batch_size
    return ReferenceAnswers(test_data, predictions, budget, batch_size, calibrator or None)


@one_at_a_time
def reproduce_predictions(
    base_model: BaseModel,
    released_adapter: ReleasedAdapter,
    reference_answers: ReferenceAnswers,
    task: TaskParams,
    params: PublishingParams,
) -> list[dict[str, Any]]:
    """Let the adapter repeat some of its predictions, to check that the figures belong to these weights.

    Returns:
        The questions of :func:`odin_slm.inference.reproducibility.choose_questions`, with ``answer`` and
        ``reproduced``, which is None for a checkpoint: the predictions are the final adapter's.
    """
    from odin_slm.inference.reproducibility import choose_questions, reproduce

    questions = choose_questions(
        reference_answers.predictions, reference_answers.records, params.reproduced_predictions
    )
    # A checkpoint is released without the final adapter's calibrator, and is asked as it will be after the download.
    calibrator = None if released_adapter.checkpoint else reference_answers.calibrator
    answers = reproduce(base_model, released_adapter.folder, questions, task.task(), calibrator)
    return [
        {
            **question,
            "answer": answer,
            "reproduced": None if released_adapter.checkpoint else answer == question["prediction"],
        }
        for question, answer in zip(questions, answers, strict=True)
    ]


def gather_model_evidence(
    evaluation_results: dict[str, Any],
    predictions: list[dict[str, Any]],
    promotion: dict[str, Any] | None,
    reproduced_predictions: list[dict[str, Any]],
    training_state: dict[str, Any] | None,
    params: PublishingParams,
) -> ModelEvidence:
    """Put together what is known of the adapter; a checkpoint has no figures of its own.

    Raises:
        ReleaseError: There is no record of its training.
    """
    if training_state is None:
        raise ReleaseError(
            "there is no training_state.json: the card could not say how the adapter was trained.",
            where=f"experiment {params.experiment}",
            fix="Run the training pipeline in this experiment; adapters from elsewhere are evaluated, not staged.",
        )
    results = None if params.checkpoint else evaluation_results
    return ModelEvidence(training_state, results, predictions, promotion, reproduced_predictions)


def judge_model(
    model_evidence: ModelEvidence,
    released_adapter: ReleasedAdapter,
    data_reports: DataReports,
    data_gate: dict[str, Any],
    thresholds: Thresholds,
    params: PublishingParams,
) -> dict[str, Any]:
    """Judge the model by its scores, by its repeated answers, and by whether its parts belong together.

    Returns:
        The judgement on both gates, ``data`` and ``model``.

    Raises:
        ReleaseError: The training state is another adapter's.
    """
    weights = sha256_of(weights_of(released_adapter.folder))
    if not released_adapter.checkpoint and not is_of(model_evidence.training, weights):
        raise ReleaseError(
            "training_state.json tells of another adapter than this one.",
            where=f"experiment {params.experiment}",
            fix="Leave --params adapter=… away, or train again; adapters from elsewhere are evaluated, not staged.",
        )
    provenance = provenance_problems(model_evidence.training, model_evidence.results, data_reports.manifest, weights)
    return {**data_gate, **judgement([model_gate(model_evidence, thresholds, provenance)], params.override)}


# The model: its files


def settle_license(base_model: BaseModel, params: PublishingParams) -> ReleaseTerms:
    """Find out what the base's licence allows; it needs no adapter, and so stands before hours of training.

    Args:
        base_model: The base; one in a local folder may become part of the release.
        params: Names and licences.

    Raises:
        ReleaseError: A licence refuses the release, or its text is not at hand.
    """
    names = {"publishing.model_name": params.model_name, "publishing.model_repo": params.model_repo}
    try:
        base = base_facts(
            base_model,
            base_id_of(base_model, params.base_model_id),
            names={key: name for key, name in names.items() if name},
            license_id=params.license,
            stated=params.base_license,
        )
        text = license_text(params.license, given=params.license_file, base=base_model, terms=base.terms)
    except ReleaseError as error:
        fix = f"{error.fix} Or run all but the release: --pipelines data,training,evaluation."
        raise ReleaseError(error.what, where=error.where, fix=fix) from error
    return ReleaseTerms(base, text, include_base=params.include_base == "auto")


def gather_model_files(
    base_model: BaseModel,
    released_adapter: ReleasedAdapter,
    data_reports: DataReports,
    calibrator: dict[str, Any] | None,
    release_terms: ReleaseTerms,
    task: TaskParams,
) -> ModelFiles:
    """Gather all that it takes to use the adapter, as far as the licences allow.

    Args:
        base_model: The base; one in a local folder becomes part of the release, unless the model is whole without it.
        released_adapter: The adapter.
        data_reports: What it was trained on.
        calibrator: The final adapter's, with its operating point; a checkpoint has none.
        release_terms: What the base's licence allows.
        task: What it was taught.

    Raises:
        ReleaseError: The base's licence does not let it into the release, or a file is missing.
    """
    base = release_terms.base
    if release_terms.include_base and not is_whole(released_adapter.folder):
        base = with_base(base_model, base)
    found = model_files(
        released_adapter, base_model, base, task.task(), data_reports.manifest, release_terms.license_text
    )
    if not calibrator or released_adapter.checkpoint is not None:
        return found
    return replace(found, files={**found.files, CALIBRATOR: canonical_json(calibrator).encode("utf-8")})


def draft_model_release(
    model_files: ModelFiles,
    model_evidence: ModelEvidence,
    data_reports: DataReports,
    gates: dict[str, Any],
    task: TaskParams,
    params: PublishingParams,
) -> ModelDraft:
    """Put the model's files together with what its card says, not knowing yet where its data will lie on the Hub.

    Raises:
        ReleaseError: A gate is shut.
    """
    overridden = require_open(gates)
    what, results = task.task(), model_evidence.results
    measured = {"evaluation_results.json": canonical_json(results).encode("utf-8")} if results else {}
    files = {**model_files.files, **measured}
    failures = failure_examples(model_evidence.predictions, data_reports.manifest, what) if results else []
    facts = ModelFacts(
        name=params.model_name,
        experiment=params.experiment,
        repo_id=params.model_repo,
        dataset_repo=params.dataset_repo,
        license=params.license,
        license_name=params.license_name,
        base=model_files.base,
        results=results,
        training=model_evidence.training,
        data=data_reports,
        task=what,
        checksums=checksums(files),
        checkpoint=params.checkpoint,
        failures=failures,
        overridden=overridden,
    )
    return ModelDraft(files, facts)


def dry_run_model_release(model_draft: ModelDraft, params: PublishingParams) -> dict[str, bytes | Path]:
    """Return the model's files with a card that names no commit of the data: they are checked, and not kept.

    Raises:
        ReleaseError: The card's gate is shut.
    """
    return with_card(model_draft.files, model_draft.facts, params.override)


def stage_model_release(
    model_draft: ModelDraft, dataset_publication: dict[str, Any], params: PublishingParams
) -> dict[str, bytes | Path]:
    """Return the model's files with the card that names the commit of its data, where that is published.

    Raises:
        ReleaseError: The card's gate is shut.
    """
    published = dataset_publication.get("repo_id") == params.dataset_repo
    revision = dataset_publication.get("revision") if published else None
    return with_card(model_draft.files, replace(model_draft.facts, dataset_revision=revision), params.override)


# Merged weights


def wait_for_publication(model_release: Path, publication: dict[str, Any]) -> Path:
    """Return the staged release once the publication is over: no export, which may fail, lies between two uploads."""
    return model_release


def plan_merged_model(
    release_to_export: Path,
    released_adapter: ReleasedAdapter,
    base_model: BaseModel,
    reference_answers: ReferenceAnswers,
    task: TaskParams,
    params: PublishingParams,
) -> MergeRequest:
    """Say whether the adapter is merged into its base's weights, and what the result is compared with.

    Args:
        release_to_export: The staged release, which every gate has let through; its licence files go with the weights.
        released_adapter: The adapter.
        base_model: The base.
        reference_answers: What the adapter answered when it was evaluated.
        task: What it was taught.
        params: Names and options.
    """
    if params.export == "none":
        return MergeRequest()
    base_id, what = base_id_of(base_model, params.base_model_id), task.task()
    beside = ("LICENSE", "NOTICE", CALIBRATOR, *TOKENIZER_FILES)
    return MergeRequest(
        Merge(
            base=base_model,
            adapter=released_adapter.folder,
            reference=reference_answers,
            tolerance=params.export_tolerance,
            files={name: release_to_export / name for name in beside if (release_to_export / name).is_file()},
            facts=MergedFacts(
                name=params.model_name,
                experiment=params.experiment,
                base=BaseFacts(base_id, terms=base_terms(base_id)),
                license=params.license,
                license_name=params.license_name,
                task=what,
            ),
            gguf=params.gguf_type if params.export == "gguf" else None,
        )
    )


def describe_merged_model(merged_model: dict[str, Any], params: PublishingParams) -> dict[str, Any]:
    """Return the merged weights' scores beside the adapter's, or that nothing was exported."""
    return {"export": params.export, **(merged_model if params.export != "none" else {})}


# The Hub


def plan_dataset_publication(
    dataset_release: Path, model_dry_run: dict[str, Any] | None, params: PublishingParams
) -> Request:
    """Say whether and how the staged dataset is published.

    Args:
        dataset_release: The staged folder.
        model_dry_run: The model's files as they were checked; None where data is published without a model. Nothing
            is sent of a release whose model is refused.
        params: Names and options.
    """
    return Request(dataset_release, _plan("dataset", dataset_release, params.dataset_repo, params))


def plan_model_publication(
    model_release: Path,
    base_model: BaseModel,
    reproduced_predictions: list[dict[str, Any]],
    dataset_publication: dict[str, Any],
    params: PublishingParams,
) -> Request:
    """Say whether and how the staged model is published, and what its download is asked.

    Args:
        model_release: The staged folder.
        base_model: The base.
        reproduced_predictions: Questions with the local adapter's answers.
        dataset_publication: The record of the dataset, which is taken back where others see it and the model fails.
        params: Names and options.

    Raises:
        MissingInputError: There is no prediction to compare the download with.
    """
    plan = _plan("model", model_release, params.model_repo, params)
    if plan and not reproduced_predictions:
        raise MissingInputError(
            "there is no prediction that the downloaded adapter could be compared with.",
            where="predictions.jsonl",
            fix="Run the evaluation pipeline of this experiment, and set publishing.reproduced_predictions to 1 or "
            "more.",
        )
    return Request(model_release, plan, base_model, reproduced_predictions, dataset_publication.get("undo"))


def conclude_publication(
    dataset_publication: dict[str, Any], model_publication: dict[str, Any], params: PublishingParams
) -> dict[str, Any]:
    """Put together where the release is, and which repositories become visible.

    Returns:
        ``experiment``, ``dataset``, ``model``, under ``now`` which of the two this run has published, under
        ``visible`` which of these are to be shown, and under ``undo`` what takes back that others see already, should
        that fail.
    """
    records = {"dataset": dataset_publication, "model": model_publication}
    now = [kind for kind, record in records.items() if record.get("now")]
    return {
        "experiment": params.experiment,
        **{kind: {key: r[key] for key in r if key not in ("now", "undo")} for kind, r in records.items()},
        "now": now,
        "undo": [record["undo"] for record in records.values() if "undo" in record],
        "visible": now if not params.private and not params.create_pr else [],
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
