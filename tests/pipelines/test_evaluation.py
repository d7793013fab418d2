"""The evaluation pipeline as users call it, on the tiny base and a few records."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DatasetError
from pydantic import ValidationError

from inference.test_generation import make_adapter
from odin_slm.config.parameters import EvaluationParams, TaskParams
from odin_slm.core.document import Document, Mention, Relation
from odin_slm.core.errors import BackendError, MissingInputError, PredictionsError, WrongParameterError
from odin_slm.datasets.figures import FiguresDataset
from odin_slm.datasets.folders import FolderDataset
from odin_slm.datasets.json_files import CanonicalJSONDataset, GivenRecordsDataset
from odin_slm.datasets.models import AdapterDataset
from odin_slm.datasets.optional import OptionalDataset
from odin_slm.inference import generation
from odin_slm.inference.reproducibility import choose_questions, reproduce
from odin_slm.inference.resume_log import ResumeLog
from odin_slm.models.base_model import BaseModel, load_model
from odin_slm.pipelines.evaluation import create_pipeline
from odin_slm.pipelines.evaluation.nodes import (
    TunedAdapter,
    add_confidences,
    check_adapter,
    fit_calibration,
    generate_calibration_predictions,
    generate_predictions,
    score_documents,
    score_predictions,
    score_protocols,
    select_test_set,
)
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, instruction_for, parse, render
from odin_slm.tasks.extraction.metrics import evaluate, score
from odin_slm.tasks.extraction.schema import SCHEMAS

Run = Callable[..., dict[str, Any]]
TASK = TaskParams()
DRUGS = ("enalapril", "naproxen", "rifampicin", "zidovudine", "melatonin", "warfarin", "codeine", "digoxin")


def record(number: int) -> dict[str, Any]:
    drug = DRUGS[number % len(DRUGS)]
    gold = Extraction((Entity("Drug", drug), Entity("Symptom", "fever")), (RelationTriple(drug, "causes", "fever"),))
    return {
        "instruction": instruction_for(SCHEMAS["ade"]),
        "input": f"Case {number}: {drug} was followed by fever.",
        "output": render(gold),
        "id": f"ade-99000000{number}-1",
        "source": "ade",
        "document_id": f"ade-99000000{number}",
    }


RECORDS = [record(number) for number in range(8)]
CONTEXT = {"manifest_sha256": "0" * 64, "surface_forms": {RECORDS[0]["document_id"]: {"fever": ["pyrexia"]}}}


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("adapter") / "mine"
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(load_model(BaseModel("tiny", tiny_base)), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return BaseModel("tiny", tiny_base)


def params(**values: Any) -> EvaluationParams:
    return EvaluationParams(**{"experiment": "test", "max_new_tokens": 24, "batch_size": 8, **values})


# The pipeline


def test_what_is_brought_from_elsewhere_is_evaluated_and_never_written(run: Run, project: Path, adapter: Path) -> None:
    """A project without data and without training; then its predictions file alone is scored again."""
    given = write_json(project / "mine.json", [{k: r[k] for k in ("instruction", "input", "output")} for r in RECORDS])
    before = {**snapshot(adapter), "mine.json": given.read_bytes()}
    run("evaluation", params={"adapter": str(adapter), "test_data": "mine.json"})

    assert {**snapshot(adapter), "mine.json": given.read_bytes()} == before
    assert not (project / "data/06_models/test/adapter").exists()
    assert not (project / "data/05_model_input/test/test.json").exists()
    rows = read_rows(project / "data/07_model_output/test/predictions.jsonl")
    assert len(rows) == 6, "num_samples of the environment"
    assert all(row["input"] == RECORDS[int(row["id"]) - 1]["input"] for row in rows)
    reports = project / "data/08_reporting/test"
    results = json.loads((reports / "evaluation_results.json").read_text(encoding="utf-8"))
    assert results["experiment"] == "test"
    assert results["decoding"] == "constrained"
    assert results["output_quality"]["hallucinated_entity_rate"] == 0
    assert results["entity_metrics"] == score(rows)["entity_metrics"], "`prediction` is what the headline is about"
    assert results["base"]["free"]["relation_metrics"]["micro"]["fn"] == 6
    assert {"entity_f1_micro", "relation_f1_micro"} < set(results["difference"])
    assert set(results["free_difference"]) == set(results["difference"])
    assert "any_mention" not in results["variants"], "nothing is known of the names in records from elsewhere"
    assert "trained elsewhere" in (reports / "report.html").read_text(encoding="utf-8")
    for name in ("type_scores.json", "errors.json", "length_scores.json", "training_curve.json", "overview.png"):
        assert (reports / name).stat().st_size > 1000
    for name in ("reliability.json", "risk_coverage.json"):
        assert json.loads((reports / name).read_text(encoding="utf-8"))["layout"]["title"]
    assert set(results["confidence"]["entity"]["calibration"].values()) >= {"none", "there is no validation split"}
    assert not (project / "data/07_model_output/test/work").exists()

    (project / "data/07_model_output/test/base_predictions.jsonl").unlink()
    shutil.rmtree(reports)
    own = [{"id": r["id"], "input": r["input"], "gold": r["output"], "prediction": r["output"]} for r in RECORDS]
    (project / "data/07_model_output/test/predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in own))
    run("evaluation", from_nodes=["score_predictions"])
    results = json.loads((reports / "evaluation_results.json").read_text(encoding="utf-8"))
    assert results["entity_metrics"]["micro"] == {"precision": 1, "recall": 1, "f1": 1, "tp": 16, "fp": 0, "fn": 0}
    assert results["base"] is None
    assert results["confidence"] is None, "those rows hold none"


def test_a_base_that_is_left_out_is_not_asked(run: Run, project: Path, adapter: Path) -> None:
    given = write_json(project / "mine.json", [{k: r[k] for k in ("instruction", "input", "output")} for r in RECORDS])
    run(
        "evaluation",
        params={"adapter": str(adapter), "test_data": str(given), "evaluation": {"compare_base": False}},
        to_nodes=["score_protocols"],
    )
    assert read_rows(project / "data/07_model_output/test/base_predictions.jsonl") == []
    reports = project / "data/08_reporting/test"
    results = json.loads((reports / "evaluation_results.json").read_text(encoding="utf-8"))
    assert results["base"] is None
    assert results["comparison"] == "there are no predictions of the base model"


def test_the_pipeline_depends_on_what_the_stages_before_it_make() -> None:
    pipeline = create_pipeline()
    made = {"test", "test_context", "adapter", "base_model", "training_state"}
    made |= {"train", "val", "manifest", "documents"}
    brought = {"given_test", "predictions_work", "champion", "params:evaluation", "params:promotion", "params:task"}
    assert pipeline.inputs() == made | brought
    assert {"predictions", "base_predictions", "calibrator", "evaluation_results"} <= pipeline.all_outputs()
    assert "report" in pipeline.outputs()


# Its nodes


@pytest.mark.parametrize("decoding", ["free", "constrained", "both"])
def test_rows_hold_what_the_decoding_gave(base: BaseModel, adapter: Path, decoding: str, tmp_path: Path) -> None:
    rows = generate_predictions(base, TunedAdapter(adapter), RECORDS, tmp_path, TASK, params(decoding=decoding))
    assert [row["id"] for row in rows] == [r["id"] for r in RECORDS]
    for row in rows:
        assert row["decoding"] == ("free" if decoding == "free" else "constrained")
        assert ("free" in row) == (decoding == "both")
        assert ("gold_reachable" in row) == (decoding != "free")
        parsed = parse(row["prediction"])
        assert [(e["type"], e["text"]) for e in row["entities"]] == [
            (e.type, e.text) for e in parsed.extraction.entities
        ]
        assert row["malformed"] == list(parsed.malformed)
        for entity in row["entities"]:
            for begin, end in entity["offsets"]:
                assert row["input"][begin:end].casefold() == entity["text"].casefold()
        if decoding != "free":
            assert row["malformed"] == []
            assert all(entity["offsets"] for entity in row["entities"])
            assert row["gold_reachable"]


def test_rows_say_in_which_precision_they_were_read_and_are_reproduced_in_it(
    base: BaseModel, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def generate(*given: Any, precision: str, **options: Any) -> Any:
        seen.append(precision)
        return original(*given, precision=precision, **options)

    original = generation.generate
    monkeypatch.setattr(generation, "generate", generate)
    for precision in ("fp32", "bf16"):
        work = tmp_path / precision
        work.mkdir()
        options = params(decoding="constrained", precision=precision)
        rows = generate_predictions(base, TunedAdapter(adapter), RECORDS, work, TASK, options)
        assert {row.get("precision", "fp32") for row in rows} == {precision}
        results = score_predictions(rows, [], None, None, TASK, options)
        assert results.get("precision") == (None if precision == "fp32" else precision)
        shown = TASK.task().card({}, {}, results).results
        assert shown is not None
        assert ("bfloat16" in shown.text) is (precision == "bf16")
        questions = choose_questions(rows, RECORDS, 3)
        assert reproduce(base, adapter, questions, TASK.task()) == [one["prediction"] for one in questions]
    assert seen == ["fp32", "fp32", "bf16", "bf16"]


def test_a_smaller_sample_is_part_of_a_larger_one_with_the_same_outputs(
    base: BaseModel, adapter: Path, tmp_path: Path
) -> None:
    def predict(**values: Any) -> list[dict[str, Any]]:
        options = params(max_new_tokens="auto", **values)
        return generate_predictions(base, TunedAdapter(adapter), RECORDS, tmp_path / str(values), TASK, options)

    for folder in ("{'num_samples': 3}", "{'num_samples': 5, 'batch_size': 2}"):
        (tmp_path / folder).mkdir()
    few, more = predict(num_samples=3), predict(num_samples=5, batch_size=2)
    shutil.rmtree(tmp_path / "{'num_samples': 3}")
    (tmp_path / "{'num_samples': 3}").mkdir()
    assert few == predict(num_samples=3)
    same = [row for row in more if row["id"] in {r["id"] for r in few}]
    for one, other in zip(same, few, strict=True):  # in other company the last digits of a probability are others
        assert one["prediction"] == other["prediction"]
        for mine, theirs in zip(one["entities"], other["entities"], strict=True):
            assert mine["log_probability"] == pytest.approx(theirs["log_probability"], abs=1e-3)
    assert {row["id"] for row in few} != {r["id"] for r in RECORDS[:3]}


def test_extractions_carry_the_probability_of_their_line_and_a_confidence(
    base: BaseModel, adapter: Path, tmp_path: Path
) -> None:
    calibrator = {"records": 9, "entity": {"method": "isotonic", "x": [0.0, 1.0], "y": [0.25, 0.75]}}
    calibrator["relation"] = {"method": "none"}
    raw = generate_predictions(base, TunedAdapter(adapter), RECORDS, tmp_path, TASK, params(max_new_tokens=120))
    rows = add_confidences(raw, calibrator, TASK)
    entities = [entry for row in rows for entry in row["entities"]]
    relations = [entry for row in rows for entry in row["relations"]]
    assert entities
    assert all(entry["log_probability"] < 0 for entry in entities)
    for entry in entities:
        raw = math.exp(entry["log_probability"])
        assert entry["confidence"] == pytest.approx(0.25 + raw / 2, abs=1e-3)
    for entry in relations:
        assert entry["confidence"] == pytest.approx(math.exp(entry["log_probability"]), abs=1e-3)
    assert not [entry for row in rows for entry in row["free"]["entities"] if "confidence" in entry]


def test_calibration_reads_a_sample_of_the_validation_split(base: BaseModel, adapter: Path, tmp_path: Path) -> None:
    some = generate_calibration_predictions(base, adapter, RECORDS, tmp_path, TASK, params(calibration_samples=5))
    assert len(some) == 5
    assert all(row["decoding"] == "constrained" and "free" not in row for row in some)
    assert fit_calibration(some, TASK, params())["records"] == 5
    for absent in (None, []):
        assert generate_calibration_predictions(base, adapter, absent, tmp_path, TASK, params()) == []
    assert generate_calibration_predictions(base, adapter, RECORDS, tmp_path, TASK, params(calibration="none")) == []


@pytest.mark.parametrize("asked", [{"relations": "both"}, {"operating_point": "f1"}])
def test_what_a_grammar_is_needed_for_is_refused_without_one(
    base: BaseModel, adapter: Path, tmp_path: Path, asked: dict[str, str]
) -> None:
    options = params(calibration="none", **asked)
    with pytest.raises(WrongParameterError, match=r"spelling has no grammar.*Set evaluation\.relations=list"):
        generate_calibration_predictions(base, adapter, RECORDS, tmp_path, TaskParams(name="spelling"), options)


def test_pairs_are_judged_by_thresholds_of_the_validation_split(
    talkative_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odin_slm.tasks.extraction.pairs.FEWEST", 1)
    base = BaseModel("talkative", talkative_base)
    adapter = make_adapter(base, tmp_path / "adapter", alpha=0)
    options = params(relations="pairs", calibration="none", max_new_tokens=200)
    records = [{**one, "instruction": instruction_for(SCHEMAS["biored"])} for one in RECORDS]
    some = generate_calibration_predictions(base, adapter, records, tmp_path, TASK, options)
    row, line, _ = next((row, *weighed) for row in some for weighed in row.get("weighed", ()))
    head, _, rest = line.partition(" --[")  # what a random model says is never right
    kind, _, tail = rest.partition("]--> ")
    row["gold"] = render(Extraction(relations=(RelationTriple(head, kind, tail),)))
    calibrator = fit_calibration(some, TASK, options)
    threshold = calibrator["pairs"]["thresholds"][kind]
    assert calibrator["pairs"]["mode"] == "pairs"
    (tmp_path / "test").mkdir()
    rows = generate_predictions(base, TunedAdapter(adapter, calibrator), records, tmp_path / "test", TASK, options)
    for before, row in zip(some, rows, strict=True):
        assert row["entities"] == before["entities"]
        accepted = {line for line, score in row.get("weighed", ()) if f"--[{kind}]-->" in line and score >= threshold}
        assert {f"{r['head']} --[{r['type']}]--> {r['tail']}" for r in row["relations"]} == accepted
        assert "weighed" not in row["free"]
    assert any(row["relations"] for row in rows)


@pytest.mark.parametrize(("name", "value"), [("decoding", "free"), ("backend", "vllm"), ("operating_point", "f1")])
def test_pairs_that_cannot_be_judged_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=rf"relations=pairs .*{name}"):
        params(relations="pairs", **{name: value})


def test_an_operating_point_without_a_grammar_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"operating_point .* set decoding to constrained or both"):
        params(operating_point="f1", decoding="free")


def test_an_operating_point_takes_two_readings_of_the_validation_records(
    base: BaseModel, adapter: Path, tmp_path: Path
) -> None:
    options = params(calibration_samples=5, max_new_tokens=60, operating_point="f1")
    rows = generate_calibration_predictions(base, adapter, RECORDS, tmp_path, TASK, options)
    assert {file.name for file in tmp_path.iterdir()} == {"calibration-0.jsonl", "calibration-1.jsonl"}
    for row in rows:
        entities, both = row["explored"]
        assert row["prediction"] == both["text"]
        assert entities["text"].endswith("\n\n### Relations:\nNone"), "entities alone"
        assert len(both["ends"]) == len(both["lines"]) == both["text"].count("\n") + 1
    point = fit_calibration(rows, TASK, options)["operating_point"]
    assert (point["objective"], point["validation"]["records"]) == ("f1", 5)
    assert "fewer than 50" in point["validation"]["entity"]["why"]
    assert point["end_bias"] == point["threshold"] == {"entity": 0.0, "relation": 0.0}, "too few to fit anything on"
    plain = generate_calibration_predictions(base, adapter, RECORDS, tmp_path, TASK, params())
    assert not any("explored" in row for row in plain)
    assert "operating_point" not in fit_calibration(plain, TASK, params())


def test_predictions_are_those_at_the_operating_point(base: BaseModel, adapter: Path, tmp_path: Path) -> None:
    options = params(max_new_tokens=60)

    def read(name: str, **point: Any) -> list[dict[str, Any]]:
        (tmp_path / name).mkdir()
        calibrator = {"entity": {"method": "none"}, "relation": {"method": "none"}}
        calibrator |= {"operating_point": {"version": 1, **point}} if point else {}
        return generate_predictions(base, TunedAdapter(adapter, calibrator), RECORDS, tmp_path / name, TASK, options)

    nothing = render(Extraction())
    plain = read("plain")
    zero = read("zero", end_bias={"entity": 0.0, "relation": 0.0})
    assert [row["prediction"] for row in zero] == [row["prediction"] for row in plain]
    short = read("short", end_bias={"entity": 50.0, "relation": 50.0})
    sure = read("sure", threshold={"entity": 1.1, "relation": 0.0})
    assert {row["prediction"] for row in short} == {row["prediction"] for row in sure} == {nothing}
    assert any(row["entities"] for row in plain)
    assert [row["free"] for row in short] == [row["free"] for row in plain], "free outputs know no operating point"
    assert not any(row["entities"] or row["relations"] for row in sure)


@pytest.mark.parametrize("wrong", ["recall=0.9", "precision=90", "best"])
def test_an_unknown_objective_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match=r"name f1, precision=0\.9"):
        params(operating_point=wrong)
    assert params(operating_point="none").operating_point is None


def test_abbreviated_names_are_completed_in_what_a_grammar_holds() -> None:
    assert fit_calibration([], TASK, params(abbreviations=True))["abbreviations"] is True
    assert "abbreviations" not in fit_calibration([], TASK, params())
    with pytest.raises(ValidationError, match="set decoding to constrained or both"):
        params(abbreviations=True, decoding="free")


def test_documents_are_scored_as_they_were_read() -> None:
    text = "Naproxen led to acute renal failure (ARF)."
    one, other = (
        f"### Entities:\n1. [Disease] {name}\n\n### Relations:\nNone" for name in ("acute renal failure", "ARF")
    )
    both = "### Entities:\n1. [Disease] acute renal failure\n2. [Disease] ARF\n\n### Relations:\nNone"
    for output in (one, other):
        window = {"begin": 0, "end": len(text), "output": output, "finished": True, "tokens": 9}
        read = {"id": "a", "source": "bc5cdr", "text": text, "gold": [both], "windows": [window]}
        rows = (read | TASK.task().with_calibrator(known).reading for known in ({}, {"abbreviations": True}))
        plain, completed = (
            score_documents([row], TASK, params(bootstrap_resamples=100))["entity_metrics"]["micro"]["recall"]
            for row in rows
        )
        assert (plain, completed) == (0.5, 1.0)


def test_without_a_validation_split_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    calibrator = fit_calibration([], TASK, params())
    assert calibrator["entity"]["method"] == calibrator["relation"]["method"] == "none"
    assert "raw probability of its line: there is no validation split" in caplog.text


class Killed(BaseException):
    """As a signal: nothing below catches it."""


@pytest.mark.parametrize("after", [1, 3, 7, 9, 15])
def test_a_prediction_that_was_killed_anywhere_gives_the_same_rows(
    base: BaseModel, adapter: Path, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last digit of every probability, and without writing again what was there."""
    options = params(batch_size=3)
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    straight = generate_predictions(base, TunedAdapter(adapter), RECORDS, tmp_path / "straight", TASK, options)
    add, written = ResumeLog.add, []

    def add_or_die(self: ResumeLog, row: dict[str, Any]) -> None:
        if len(written) == after:
            raise Killed
        written.append(row["index"])
        add(self, row)

    monkeypatch.setattr(ResumeLog, "add", add_or_die)
    with pytest.raises(Killed):
        generate_predictions(base, TunedAdapter(adapter), RECORDS, tmp_path / "killed", TASK, options)
    first = list(written)
    monkeypatch.setattr(ResumeLog, "add", lambda self, row: (written.append(row["index"]), add(self, row)))
    assert generate_predictions(base, TunedAdapter(adapter), RECORDS, tmp_path / "killed", TASK, options) == straight
    assert len(first) == after
    assert sorted(written) == list(range(2 * len(RECORDS))), "each output was kept once"


def test_a_full_disk_costs_no_output_that_is_there(tmp_path: Path) -> None:
    log = ResumeLog(tmp_path / "outputs.jsonl", "job")
    log.begin()
    for index in range(99):
        log.add({"index": index})
    log.end()
    again = ResumeLog(log.file, "job")
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.file.stat().st_size // 2, most))
    try:
        with pytest.raises(OSError, match="File too large"):
            again.begin()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))
    assert len(ResumeLog(log.file, "job").rows) == 99


def test_outputs_so_far_stay_until_the_run_is_through(
    run: Run, project: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = write_json(project / "mine.json", RECORDS[:2])
    work = project / "data/07_model_output/test/work"
    options = {"adapter": str(adapter), "test_data": str(given)}
    monkeypatch.setattr("odin_slm.pipelines.evaluation.nodes.judge", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("evaluation", params=options)
    assert {file.name for file in work.iterdir()} == {"fine-tuned.jsonl", "base.jsonl"}
    monkeypatch.undo()
    folder = FolderDataset(filepath=str(work))
    folder.clear()
    assert not work.exists()
    assert folder.load().is_dir()


def test_the_own_adapter_is_judged_on_the_rest_of_its_data_alone(adapter: Path) -> None:
    weights = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    state = {"adapter_sha256": weights, "data": {"train.json": "1" * 64, "val.json": "2" * 64}}
    manifest = {"outputs": {"train.json": "1" * 64, "val.json": "3" * 64}}
    own = select_test_set(RECORDS, None, CONTEXT, TASK)
    with pytest.raises(PredictionsError, match=r"learned from another val\.json than"):
        check_adapter(adapter, own, state, manifest)
    for records, told, data in ((RECORDS, state, manifest), (own, None, manifest), (own, state, None)):
        assert check_adapter(adapter, records, told, data) == adapter
    assert check_adapter(adapter, own, {**state, "adapter_sha256": "0" * 64}, manifest) == adapter


def test_vllm_is_imported_only_when_chosen(base: BaseModel, adapter: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed")
    with pytest.raises(BackendError, match=r"evaluation\.backend"):
        generate_predictions(base, TunedAdapter(adapter), RECORDS[:1], tmp_path, TASK, params(backend="vllm"))


def test_results_hold_published_protocols_where_the_corpus_and_whole_documents_are_at_hand() -> None:
    text, output = "naproxen was followed by fever.", RECORDS[1]["output"]
    mentions = (Mention(0, 8, "naproxen", "Drug", ("n",)), Mention(25, 30, "fever", "Symptom", ("f",)))
    gold = Document("ade-123-1", text, "ade", "123", None, mentions, (Relation("causes", "n", "f"),))
    rows = [{"id": gold.id, "document_id": gold.id, "source": "ade", "input": text, "gold": output}]
    rows[0] |= {"prediction": output, "decoding": "constrained"}
    window = {"begin": 0, "end": len(text), "output": output, "finished": True, "tokens": 9}
    read = [{"id": gold.id, "source": "ade", "text": text, "gold": [output], "windows": [window]}]

    def scored(whole: list[dict[str, Any]], corpus: list[dict[str, Any]] | None) -> dict[str, Any]:
        return score_protocols({"decoding": "free"}, rows, whole, corpus, TASK, params(bootstrap_resamples=100))

    results = scored(read, [gold.to_dict()])
    (found,) = results.pop("protocols").values()
    assert (found["title"], found["documents"]) == ("ADE, strict (RE+)", 1)
    assert {name: values["f1"] for name, values in found["scores"].items()} == {
        f"{kind}, {average}": 1 for kind in ("entities", "relations") for average in ("micro", "macro")
    }
    stale = [{**read[0], "windows": [{**window, "output": RECORDS[2]["output"]}]}]
    for others in (scored(read, None), scored([], [gold.to_dict()]), scored(stale, [gold.to_dict()])):
        assert others == results == {"decoding": "free"}, "nothing else changes"


def test_the_given_test_set_goes_before_the_own_one() -> None:
    assert select_test_set(RECORDS[:2], None, None, TASK) == RECORDS[:2]
    assert select_test_set(RECORDS[:2], RECORDS[2:5], CONTEXT, TASK) == RECORDS[2:5]
    assert select_test_set(None, RECORDS[2:5], None, TASK) == RECORDS[2:5]


def test_rows_carry_what_scoring_must_know_of_the_test_set(base: BaseModel, adapter: Path, tmp_path: Path) -> None:
    records = select_test_set(RECORDS, None, {**CONTEXT, "groups": {RECORDS[0]["document_id"]: "123"}}, TASK)
    rows = generate_predictions(base, TunedAdapter(adapter), records, tmp_path, TASK, params())
    assert {row["manifest_sha256"] for row in rows} == {"0" * 64}
    assert [row["surface_forms"] for row in rows] == [{"fever": ["pyrexia"]}, *[{}] * 7]
    assert [row["group"] for row in rows] == ["123", *(record["document_id"] for record in RECORDS[1:8])]
    assert "any_mention" in score(rows)["variants"]


def test_records_from_elsewhere_get_the_provenance_they_lack() -> None:
    bare = {name: RECORDS[0][name] for name in ("instruction", "input", "output")}
    assert select_test_set(None, [bare, {**bare, "id": 7}], None, TASK) == [
        {**bare, "id": "1", "source": "unknown", "document_id": "1"},
        {**bare, "id": "7", "source": "unknown", "document_id": "7"},
    ]
    null = dict.fromkeys(("id", "source", "document_id"))
    odd = select_test_set(
        None, [{**bare, **null}, {**bare, **null}, {**bare, "source": 3, "document_id": 4}], None, TASK
    )
    assert [(one["id"], one["source"], one["document_id"]) for one in odd] == [
        ("1", "unknown", "1"),
        ("2", "unknown", "2"),
        ("3", "3", "4"),
    ]
    rows = [{**one, "gold": one["output"], "prediction": one["output"], "finished": True} for one in odd]
    assert evaluate(rows, experiment="elsewhere", resamples=10)["test_set"]["sources"] == {"3": 1, "unknown": 2}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, MissingInputError, "--params test_data=FILE.json"),
        ([], PredictionsError, "expected a JSON list of records"),
        ({"a": 1}, PredictionsError, "expected a JSON list of records"),
        ([RECORDS[0], "text"], PredictionsError, "test_data, record 2: expected a text 'instruction'"),
        ([{**RECORDS[0], "output": None}], PredictionsError, "record 1: expected a text 'output'"),
        ([{**RECORDS[0], "output": "Drug: aspirin"}], PredictionsError, "does not follow the format"),
        ([RECORDS[0], RECORDS[0]], PredictionsError, "occurs more than once"),
    ],
)
def test_a_test_set_that_cannot_be_used_is_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        select_test_set(None, given, None, TASK)


@pytest.mark.parametrize("name", ["repetition_penalty", "no_repeat_ngram_size"])
def test_penalties_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValidationError, match="must repeat the words of its input"):
        params(**{name: 2})


@pytest.mark.parametrize("values", [{"max_new_tokens": 0}, {"decoding": "beam"}, {"num_samples": 0}, {"beams": 2}])
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        params(**values)


# Its datasets


def test_an_adapter_from_elsewhere_is_read_and_the_own_one_written(adapter: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    dataset = AdapterDataset(filepath=str(own), override={"path": str(adapter)})
    before = snapshot(adapter)
    assert dataset.load() == adapter
    dataset.save(adapter)
    assert snapshot(own) == snapshot(adapter) == before
    assert AdapterDataset(filepath=str(own), override={"path": None}).load() == own
    missing = AdapterDataset(filepath=str(own), override={"path": str(tmp_path / "nothing")})
    assert not missing.exists()
    with pytest.raises(DatasetError, match="no adapter here"):
        missing.load()


def test_given_records_are_read_only_and_must_exist_when_named(tmp_path: Path) -> None:
    assert GivenRecordsDataset(override={"path": None}).load() is None
    file = write_json(tmp_path / "records.json", RECORDS)
    dataset = GivenRecordsDataset(override={"path": str(file)})
    assert dataset.load() == RECORDS
    with pytest.raises(DatasetError, match="read-only"):
        dataset.save(RECORDS)  # type: ignore[arg-type]
    for other, found in (("other.json", "no such file"), ("", "found a folder")):
        with pytest.raises(DatasetError, match=f"{found}.*--params test_data=FILE.json"):
            GivenRecordsDataset(override={"path": str(tmp_path / other)}).load()
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert dataset.load() == RECORDS


@pytest.mark.parametrize(
    ("kind", "value", "default"),
    [
        ("odin_slm.datasets.json_files.RecordsDataset", RECORDS, None),
        ("odin_slm.datasets.json_files.CanonicalJSONDataset", {"b": 1, "a": "é"}, None),
        ("odin_slm.datasets.json_files.JSONLinesDataset", RECORDS, []),
    ],
)
def test_what_may_be_absent_loads_as_its_default(kind: str, value: Any, default: Any, tmp_path: Path) -> None:
    dataset = OptionalDataset(dataset={"type": kind, "filepath": str(tmp_path / "file")}, default=default)
    assert not dataset.exists()
    assert dataset.load() == default
    dataset.save(value)
    assert dataset.exists()
    assert pickle.loads(pickle.dumps(dataset)).load() == value
    assert dataset.preview()


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    dataset = CanonicalJSONDataset(filepath=str(tmp_path / "report.json"))
    dataset.save({"b": 1, "a": "é"})
    with pytest.raises(DatasetError):
        dataset.save({"b": 2, "a": float("nan")})
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == '{\n "b": 1,\n "a": "é"\n}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_figures_lie_among_other_reports_and_are_told_from_them(tmp_path: Path) -> None:
    from plotly.graph_objects import Bar, Figure

    write_json(tmp_path / "leakage.json", {"pmids": 0})
    dataset = FiguresDataset(path=str(tmp_path))
    assert not dataset.exists()
    with pytest.raises(FileNotFoundError, match="no figure"):
        dataset.preview()
    drawn = {name: Figure(Bar(x=["entities"], y=[0.5]), {"title": name}) for name in ("scores", "errors")}
    dataset.save(drawn)
    assert dataset.saved == [tmp_path / "scores.json", tmp_path / "errors.json"]
    assert dataset.load() == drawn
    assert dataset.preview("scores")["layout"]["title"]["text"] == "scores"
    assert dataset.preview()["layout"]["title"]["text"] == "errors"
