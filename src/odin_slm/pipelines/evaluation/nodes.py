"""Nodes of the evaluation pipeline."""

import json
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from odin_slm.config.parameters import EvaluationParams, PromotionParams, TaskParams
from odin_slm.core.errors import MissingInputError, PredictionsError, WrongParameterError
from odin_slm.core.hashing import sha256_of, sha256_of_json
from odin_slm.core.record import Record
from odin_slm.core.runtime_environment import one_at_a_time
from odin_slm.models.backends import reading_precision
from odin_slm.models.base_model import BaseModel, trained_weights, weights_sha256
from odin_slm.release.provenance import is_of, other_splits
from odin_slm.tasks import Task
from odin_slm.tasks.criteria import improvements
from odin_slm.tasks.operating_point import KEY, point_of
from odin_slm.tasks.rows import documents_of, test_set_of
from odin_slm.tracking.promotion import Champion, judge, rescored

_log = logging.getLogger(__name__)
_REQUIRED = ("instruction", "input", "output")
_UNFITTED = {"pairs": "Relations are as the model lists them, no pairs are judged"}
_PROVENANCE = ("id", "source", "document_id", "group", "manifest_sha256", "surface_forms")


def select_test_set(
    test: list[dict[str, Any]] | None,
    given_test: list[dict[str, Any]] | None,
    test_context: dict[str, Any] | None,
    task: TaskParams,
) -> list[dict[str, Any]]:
    """Choose what is evaluated: the records that the user names, or else the experiment's own test split.

    Args:
        test: The experiment's test split; None where it was not made yet.
        given_test: Records from elsewhere; ``id``, ``source``, ``document_id`` and ``group`` may be missing, null or
            numbers.
        test_context: What :func:`odin_slm.pipelines.combination.nodes.describe_test_set` says of the test split.
        task: What reads the gold outputs.

    Returns:
        Records; those of the test split with ``manifest_sha256``, ``surface_forms`` and ``group``, their abstract.

    Raises:
        MissingInputError: There are neither.
        PredictionsError: A record lacks a field, its output does not follow the format, or an id occurs twice.
    """
    records = test if given_test is None else given_test
    if given_test is None and not records:
        raise MissingInputError(
            "there is no test set." if records is None else "the test set holds no records.",
            where="test",
            fix="Run the data pipeline before, or name a file with --params test_data=FILE.json.",
        )
    where = "test" if given_test is None else "test_data"
    if not isinstance(records, Sequence) or not records:
        raise PredictionsError("expected a JSON list of records.", where=where, fix="Name another file.")
    complete = [_complete(record, number, where, task.task()) for number, record in enumerate(records, start=1)]
    repeated = [name for name, count in Counter(record["id"] for record in complete).items() if count > 1]
    if repeated:
        raise PredictionsError(
            f"the id {repeated[0]} occurs more than once.", where=where, fix="Give every record its own id."
        )
    if given_test is not None or test_context is None:
        return complete
    forms, groups = test_context["surface_forms"], test_context.get("groups", {})
    about = {"manifest_sha256": test_context["manifest_sha256"]}
    return [
        {**one, **about, "surface_forms": forms.get(name, {}), "group": groups.get(name, name)}
        for one, name in ((record, record["document_id"]) for record in complete)
    ]


def check_adapter(
    adapter: Path,
    test_data: list[dict[str, Any]],
    training_state: dict[str, Any] | None,
    manifest: dict[str, Any] | None,
) -> Path:
    """Refuse to score the experiment's own adapter on a test split that is not the rest of what it learned from.

    Args:
        adapter: Folder of the LoRA adapter.
        test_data: What it is to be evaluated on.
        training_state: How the experiment's adapter was trained; None where it was not trained here.
        manifest: What the experiment's splits are now; None where there are none.

    Returns:
        The adapter, whose figures on these records will be worth something.

    Raises:
        PredictionsError: The adapter learned from other splits than those that the test split belongs to.
    """
    others = other_splits(training_state, manifest)
    weights = trained_weights(adapter)
    own_test_split = any("manifest_sha256" in record for record in test_data)
    if others and own_test_split and weights.is_file() and is_of(training_state, sha256_of(weights)):
        raise PredictionsError(
            f"the adapter learned from another {' and another '.join(others)} than lie beside this test split: "
            "documents of it may be among them, and the figures would be worth nothing.",
            where="training_state.json",
            fix="Train again (kedro run --pipelines training,evaluation), or combine the data as they were. Records of "
            "which you know that it has not seen them are named by --params test_data=FILE.json.",
        )
    return adapter


@dataclass(frozen=True)
class TunedAdapter:
    """An adapter, and how it is read.

    Attributes:
        folder: Folder of the LoRA adapter.
        calibrator: What holds its operating point; None reads it without one.
    """

    folder: Path
    calibrator: Mapping[str, Any] | None = None


def tune_adapter(checked_adapter: Path, calibrator: dict[str, Any] | None) -> TunedAdapter:
    """Put the adapter together with the calibrator whose operating point it is read at, where there is one."""
    return TunedAdapter(checked_adapter, calibrator or None)


@one_at_a_time
def generate_calibration_predictions(
    base_model: BaseModel,
    adapter: Path,
    val: list[dict[str, Any]] | None,
    predictions_work: Path,
    task: TaskParams,
    params: EvaluationParams,
) -> list[dict[str, Any]]:
    """Let the fine-tuned model extract from some validation texts, under the headline decoding alone.

    Where an operating point is to be fitted they are read as often, and with such operating points, as the task asks.

    Returns:
        Rows as of :func:`generate_predictions`, without calibrated confidences, and ``explored`` (see
        :meth:`odin_slm.tasks.Task.fit_calibration`); none where there is no validation split, or nothing to be fitted.
        Where pairs are judged, ``weighed`` holds the line and the score of each.

    Raises:
        WrongParameterError: The parameters ask for what a grammar is needed for, and the task has none.
    """
    what, headline = task.task().to_calibrate(params.relations), "free" if params.decoding == "free" else "constrained"
    first = (val or ())[:1]
    constrained = headline == "constrained" and any(what.grammar(one["instruction"], one["input"]) for one in first)
    if first and not constrained and (params.relations != "list" or params.operating_point):
        raise WrongParameterError(
            f"the task {task.name} has no grammar, which judged pairs and an operating point need.",
            where="evaluation",
            fix="Set evaluation.relations=list and evaluation.operating_point=null.",
        )
    needed = params.calibration != "none" or params.relations != "list" or (constrained and params.operating_point)
    if not val or not needed:
        return []
    some = params.model_copy(update={"num_samples": params.calibration_samples, "decoding": headline})
    objective = params.operating_point if constrained and params.backend == "transformers" else None
    rows: list[dict[str, Any]] = []
    readings = 0
    while (point := what.exploration(rows, params.calibration, objective)) is not None:
        log, title = predictions_work / f"calibration-{readings}.jsonl", f"validation, reading {readings + 1}"
        found = _predict(base_model, adapter, val, log, what, some, title, {KEY: point}, exploring=bool(point))
        rows = [
            {**row, "explored": [*old["explored"], *row["explored"]]} if "explored" in old else row
            for row, old in zip(found, rows or [{}] * len(found), strict=True)
        ]
        readings += 1
    return rows


def fit_calibration(
    calibration_predictions: list[dict[str, Any]],
    task: TaskParams,
    params: EvaluationParams,
    adapter: Path | None = None,
) -> dict[str, Any]:
    """Fit what turns probabilities of output lines into chances to be right, and the operating point.

    Returns:
        The calibrator (:meth:`odin_slm.tasks.Task.fit_calibration`), with ``adapter_sha256`` of the weights whose
        predictions these are, if the adapter is given; empty where the task has none.
    """
    constrained = bool(calibration_predictions) and calibration_predictions[0]["decoding"] == "constrained"
    objective = params.operating_point if constrained else None
    calibrator = (
        task.task().fit_calibration(
            calibration_predictions,
            params.calibration,
            objective,
            params.relations,
            abbreviations=params.abbreviations,
        )
        or {}
    )
    for kind, fitted in calibrator.items():
        if isinstance(fitted, dict) and (why := fitted.get("why")):
            what = _UNFITTED.get(kind, f"The confidence of each {kind} is the raw probability of its line")
            _log.warning("%s: %s.", what, why)
    if params.operating_point and KEY not in calibrator:
        why = "decoding is free" if calibration_predictions else "there is no validation split"
        _log.warning("No operating point was fitted, as %s: whatever the model lists is kept.", why)
    for kind, curves in point_of(calibrator).get("validation", {}).items():
        if isinstance(curves, dict) and curves["why"]:
            _log.warning("The operating point, %s: %s.", kind, curves["why"])
    if calibrator and adapter and (weights := weights_sha256(adapter)):
        calibrator["adapter_sha256"] = weights
    return calibrator


@one_at_a_time
def generate_predictions(
    base_model: BaseModel,
    tuned_adapter: TunedAdapter,
    test_data: list[dict[str, Any]],
    predictions_work: Path,
    task: TaskParams,
    params: EvaluationParams,
) -> list[dict[str, Any]]:
    """Let the fine-tuned model extract from every test text; a run that was killed goes on in ``predictions_work``.

    Constrained outputs are those at its operating point, if it has one. Where pairs are judged, its calibrator says
    which of them are related.

    Returns:
        Rows in the order of the records: ``id``, ``source``, ``document_id``, for the experiment's own test split
        ``group``, ``manifest_sha256`` and ``surface_forms``, then ``input``, ``gold``, ``decoding``,
        ``prediction`` (raw text) and what is parsed from it: ``entities`` with character offsets in the input,
        ``relations``, both with the ``log_probability`` of their line, ``malformed`` lines; ``finished``, ``tokens``.
        With both decodings ``prediction`` is the constrained one and ``free`` holds the same fields of the free one.
        ``subject_tokens`` counts the tokens of what the record is about (:meth:`odin_slm.tasks.Task.subject`),
        ``gold_reachable`` tells whether the grammar accepts the gold output.
    """
    resume_log = predictions_work / "fine-tuned.jsonl"
    adapter, calibrator = tuned_adapter.folder, tuned_adapter.calibrator
    asked, title = task.task().with_calibrator(calibrator), "fine-tuned model"
    return _predict(base_model, adapter, test_data, resume_log, asked, params, title, calibrator)


@one_at_a_time
def read_whole_documents(
    base_model: BaseModel,
    tuned_adapter: TunedAdapter,
    test_data: list[dict[str, Any]],
    raw_predictions: list[dict[str, Any]],
    task: TaskParams,
    params: EvaluationParams,
) -> list[dict[str, Any]]:
    """Read the documents of the test records as the service does: whole, in windows that overlap and are joined.

    Args:
        base_model: The base.
        tuned_adapter: The adapter.
        test_data: Test records.
        raw_predictions: The adapter's predictions; a document of one record and one window is not read again.
        task: What reads the outputs.
        params: Batch size and backend; window and budget are the service's defaults.

    Returns:
        See :func:`odin_slm.inference.documents.read_documents`; none for a task that does not cut documents.
    """
    from odin_slm.inference.documents import read_documents

    return read_documents(
        base_model,
        tuned_adapter.folder,
        test_data,
        raw_predictions,
        task.task().with_calibrator(tuned_adapter.calibrator),
        batch_size=params.batch_size,
        backend=params.backend,
        precision=params.precision,
        calibrator=tuned_adapter.calibrator,
    )


def score_documents(
    document_predictions: list[dict[str, Any]], task: TaskParams, params: EvaluationParams
) -> dict[str, Any]:
    """Score whole documents, with what their windows say joined; see :meth:`odin_slm.tasks.Task.score_documents`.

    Returns:
        The scores, with ``experiment``; of a task that does not cut documents, the experiment alone.
    """
    found: dict[str, Any] = {"experiment": params.experiment}
    if not document_predictions:
        return found
    resamples, seed = params.bootstrap_resamples, params.seed
    return {**found, **task.task().score_documents(document_predictions, resamples=resamples, seed=seed)}


def add_confidences(
    raw_predictions: list[dict[str, Any]], calibrator: dict[str, Any] | None, task: TaskParams
) -> list[dict[str, Any]]:
    """Give what the headline decoding extracted its ``confidence``, the chance to be right."""
    return [task.task().with_confidence(row, calibrator or None) for row in raw_predictions]


@one_at_a_time
def generate_base_predictions(
    base_model: BaseModel,
    test_data: list[dict[str, Any]],
    predictions_work: Path,
    task: TaskParams,
    params: EvaluationParams,
) -> list[dict[str, Any]]:
    """Let the base model alone extract from the same texts; see :func:`generate_predictions`.

    Returns:
        The rows; none where ``evaluation.compare_base`` is off.
    """
    if not params.compare_base:
        return []
    return _predict(
        base_model, None, test_data, predictions_work / "base.jsonl", task.task(), params, "base model alone"
    )


def score_predictions(
    predictions: list[dict[str, Any]],
    base_predictions: list[dict[str, Any]],
    train: list[dict[str, Any]] | None,
    calibrator: dict[str, Any] | None,
    task: TaskParams,
    params: EvaluationParams,
) -> dict[str, Any]:
    """Score both models from their raw texts and compare them.

    Args:
        predictions: Rows of the fine-tuned model.
        base_predictions: Rows of the base; may be empty.
        train: The training split; what it holds counts as seen. None where it is not at hand.
        calibrator: What made the confidences of the predictions; None where it is not at hand.
        task: What scores.
        params: Experiment, bootstrap.

    Returns:
        See :meth:`odin_slm.tasks.Task.score`; ``precision`` where the outputs were not computed in float32;
        ``adapter_sha256`` of the weights that were scored, where there is a calibrator.
    """
    results = task.task().score(
        predictions,
        base_predictions,
        train,
        experiment=params.experiment,
        calibrator=calibrator or None,
        resamples=params.bootstrap_resamples,
        seed=params.seed,
    )
    precision = predictions[0].get("precision") if predictions else None
    told = {"precision": precision, "adapter_sha256": (calibrator or {}).get("adapter_sha256")}
    return {**results, **{name: value for name, value in told.items() if value}}


def score_protocols(
    prediction_scores: dict[str, Any],
    predictions: list[dict[str, Any]],
    document_predictions: list[dict[str, Any]],
    documents: list[dict[str, Any]] | None,
    task: TaskParams,
    params: EvaluationParams,
) -> dict[str, Any]:
    """Score the same documents as the literature scores their corpora, and complete the results with that.

    Args:
        prediction_scores: Scores of the predictions.
        predictions: Rows of the fine-tuned model.
        document_predictions: Its documents, read whole; may be empty, and left over from other predictions.
        documents: The corpora's documents; None where they are not at hand.
        task: What scores.
        params: Bootstrap.

    Returns:
        The scores, with ``protocols`` (:meth:`odin_slm.tasks.Task.score_protocols`) where there are some.
    """
    whole = documents_of(predictions, document_predictions)
    resamples, seed = params.bootstrap_resamples, params.seed
    protocols = task.task().score_protocols(whole, documents or [], resamples=resamples, seed=seed)
    return {**prediction_scores, "protocols": protocols} if protocols else prediction_scores


@one_at_a_time
def rescore_champion(
    predictions: list[dict[str, Any]],
    champion: Champion | None,
    manifest: dict[str, Any] | None,
    params: EvaluationParams,
    promotion: PromotionParams,
) -> list[dict[str, Any]]:
    """Let a champion of other data extract from this test set, if that is asked for, so that the two can be compared.

    Returns:
        See :func:`odin_slm.tracking.rescoring.rescore`; none where its own predictions will do, or where nobody asks.
    """
    if not promotion.rescore:
        return []
    from odin_slm.tracking.rescoring import rescore

    options: dict[str, Any] = {"batch_size": params.batch_size, "max_new_tokens": params.max_new_tokens}
    return rescore(champion, predictions, _digest(manifest), **options)


def decide_promotion(
    predictions: list[dict[str, Any]],
    champion: Champion | None,
    champion_predictions: list[dict[str, Any]],
    manifest: dict[str, Any] | None,
    task: TaskParams,
    params: EvaluationParams,
) -> dict[str, Any]:
    """Say whether this model should take the champion's place, and on what that was decided.

    Returns:
        See :func:`odin_slm.tracking.promotion.judge`; and ``experiment``, ``decoding`` and ``test_set``, which the
        decision is about.
    """
    digest = _digest(manifest)
    decision = judge(
        predictions,
        rescored(champion, champion_predictions, predictions, digest),
        task.task(),
        manifest_sha256=digest,
        **paired_test(params),
    )
    about = {"experiment": params.experiment, "decoding": predictions[0].get("decoding", "free")}
    return {**decision, **about, "test_set": test_set_of(predictions, task.task().unit)}


def paired_test(params: EvaluationParams) -> dict[str, Any]:
    """Return the options of :func:`odin_slm.tracking.promotion.decide`."""
    return {"significance": params.significance, "resamples": params.bootstrap_resamples, "seed": params.seed}


def draw_figures(
    evaluation_results: dict[str, Any], training_state: dict[str, Any] | None, task: TaskParams
) -> dict[str, Any]:
    """Draw the task's figures, by name."""
    return dict(task.task().figures(evaluation_results, training_state))


def draw_overview(evaluation_results: dict[str, Any], training_state: dict[str, Any] | None, task: TaskParams) -> Any:
    """Draw the whole evaluation on one page."""
    return task.task().overview(evaluation_results, training_state)


def write_report(
    evaluation_results: dict[str, Any],
    predictions: list[dict[str, Any]],
    training_state: dict[str, Any] | None,
    promotion: dict[str, Any],
    task: TaskParams,
    params: EvaluationParams,
) -> str:
    """Write the final report as one HTML page."""
    written = task.task().report
    return written(evaluation_results, predictions, training_state, promotion, significance=params.significance)


def conclude_evaluation(
    evaluation_results: dict[str, Any],
    training_state: dict[str, Any] | None,
    task: TaskParams,
    params: EvaluationParams,
) -> dict[str, Any]:
    """Say what an experiment was, what it measured, and which of its claims the paired tests bear out.

    Args:
        evaluation_results: See :meth:`odin_slm.tasks.Task.score`.
        training_state: How the adapter was trained; None where that is not known.
        task: Its figures.
        params: The significance level.

    Returns:
        ``experiment``; ``configuration``: task, base, training's hyperparameters, evaluation; ``results``: test set and
        figures with intervals of ``base`` and ``fine_tuned``; ``criteria`` (:mod:`odin_slm.tasks.criteria`) and
        how many of them are ``met``.
    """
    what, training = task.task(), training_state or {}
    criteria = improvements(evaluation_results, what.measures, significance=params.significance)
    scored = {"base": evaluation_results.get("base"), "fine_tuned": evaluation_results}
    return {
        "experiment": params.experiment,
        "configuration": {
            "task": what.to_dict(),
            "base_model": training.get("base_model"),
            "training": training.get("hyperparameters"),
            "evaluation": params.model_dump(mode="json"),
        },
        "results": {
            "test_set": evaluation_results["test_set"],
            "training_set": evaluation_results["training_set"],
            **{
                model: {
                    metric.name: {"value": metric.value(scores), "interval": scores["intervals"][metric.name]}
                    for metric in what.measures
                }
                for model, scores in scored.items()
                if scores
            },
        },
        "criteria": criteria,
        "met": sum(criterion["met"] for criterion in criteria),
    }


def _complete(record: Any, number: int, where: str, task: Task) -> dict[str, Any]:
    """Check a record, and name it where it comes without provenance."""
    place = f"{where}, record {number}"
    for name in _REQUIRED:
        if not isinstance(record, dict) or not isinstance(record.get(name), str):
            raise PredictionsError(
                f"expected a text {name!r}.", where=place, fix=f"A record needs {', '.join(_REQUIRED)}."
            )
    malformed = task.faults(record["output"])
    if malformed:
        raise PredictionsError(
            f"the gold output does not follow the format: {malformed[0]!r}.",
            where=place,
            fix=f"Write gold outputs in the format of the task {task.name}.",
        )
    given = {key: str(record[key]) for key in ("id", "source", "document_id", "group") if record.get(key) is not None}
    name = given.get("id", str(number))
    return {**record, "id": name, "source": "unknown", "document_id": name, **given}


def _predict(
    base_model: BaseModel,
    adapter: Path | None,
    test_data: list[dict[str, Any]],
    resume_log: Path,
    task: Task,
    params: EvaluationParams,
    title: str,
    calibrator: Mapping[str, Any] | None = None,
    exploring: bool = False,
) -> list[dict[str, Any]]:
    from odin_slm.inference.generation import progress
    from odin_slm.inference.reading import Question, ask
    from odin_slm.models.tokens import output_budget, token_counter

    require_same_form(adapter, task, list({record["instruction"]: record for record in test_data}.values()))
    budget = params.max_new_tokens  # auto is of all records, the same for any sample
    if budget == "auto":
        budget = output_budget(base_model, [task.taught(cast(Record, record))["output"] for record in test_data])
    records = _sample(test_data, params)
    decodings = ("constrained", "free") if params.decoding == "both" else (params.decoding,)
    if not any(task.grammar(record["instruction"], record["input"]) for record in records):
        decodings = ("free",)  # nothing holds the outputs of such a task, whatever is asked for
    questions = [
        Question(record["input"], record["instruction"], task if decoding == "constrained" else None, calibrator)
        for decoding in decodings
        for record in records
    ]
    with progress(f"Generating, {title}", len(questions)) as on_progress:
        outputs = ask(
            base_model,
            adapter,
            questions,
            names=[record["id"] for record in records] * len(decodings),
            batch_size=params.batch_size,
            max_new_tokens=budget,
            backend=params.backend,
            precision=params.precision,
            on_progress=on_progress,
            resume_log=resume_log,
        )
    precision = "fp32" if params.backend == "vllm" else reading_precision(params.precision)
    lengths = token_counter(base_model)([task.subject(record) for record in records])
    rows = []
    for index, record in enumerate(records):
        row = {name: record[name] for name in (*_PROVENANCE, "input") if name in record}
        row |= {"gold": record["output"], "subject_tokens": lengths[index]}
        row |= {"decoding": decodings[0], **_parsed(task, record["input"], outputs[index])}
        if precision != "fp32":
            row["precision"] = precision
        if len(decodings) == 2:
            row["free"] = _parsed(task, record["input"], outputs[index + len(records)])
        grammar = questions[index].grammar
        if grammar is not None:
            row["gold_reachable"] = grammar.accepts(record["output"])
        if exploring:
            row["explored"] = [{name: getattr(outputs[index], name) for name in ("text", "lines", "ends")}]
        rows.append(row)
    return rows


def require_same_form(adapter: Path | None, task: Task, records: Sequence[Mapping[str, Any]]) -> None:
    """Check that an adapter was taught to write its outputs as the experiment has it.

    Raises:
        WrongParameterError: Its ``task.json`` says that it was taught to write some of these records otherwise.
    """
    from odin_slm.inference.served_model import TASK, task_of

    if adapter is None or not (adapter / TASK).is_file():
        return
    taught = task_of(adapter)
    if taught.name == task.name and any(
        taught.taught(one)["output"] != task.taught(one)["output"] for one in cast(Sequence[Record], records)
    ):
        here, there = task.options(), taught.options()
        other = {name: value for name, value in there.items() if here.get(name) != value}
        raise WrongParameterError(
            f"the adapter was taught to write otherwise: its {TASK} has {json.dumps(other)}.",
            where="task.options",
            fix="Set them as there, or name an adapter of this experiment.",
        )


def _parsed(task: Task, text: str, output: Any) -> dict[str, Any]:
    return {
        "prediction": output.text,
        **task.columns(text, output.text, output.lines),
        "finished": output.finished,
        "tokens": output.tokens,
        **({"weighed": [list(one) for one in output.weighed]} if output.weighed else {}),
    }


def _digest(manifest: dict[str, Any] | None) -> str | None:
    return sha256_of_json(manifest) if manifest else None


def _sample(records: Sequence[dict[str, Any]], params: EvaluationParams) -> list[dict[str, Any]]:
    """Return the records to evaluate, in their order; a smaller sample is part of a larger one."""
    if params.num_samples is None or params.num_samples >= len(records):
        return list(records)
    order = list(range(len(records)))
    random.Random(params.seed).shuffle(order)
    return [records[index] for index in sorted(order[: params.num_samples])]
