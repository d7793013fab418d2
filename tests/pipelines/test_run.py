"""The whole lineage on tiny data: the environment ``test``, with the production catalog and a random base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from odin_slm.core.errors import OdinError

FASTER = {"evaluation": {"num_samples": 6, "max_new_tokens": 24, "bootstrap_resamples": 100}}


def test_the_default_run_goes_from_raw_corpora_to_a_staged_release(
    project: Path, run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    run(params=FASTER)

    data = project / "data"
    for file in (
        "05_model_input/test/train.json",
        "05_model_input/test/val.json",
        "05_model_input/test/test.json",
        "05_model_input/test/manifest.json",
        "06_models/test/adapter/adapter_config.json",
        "07_model_output/test/predictions.jsonl",
        "08_reporting/test/leakage.json",
        "08_reporting/test/quality.json",
        "08_reporting/test/report.html",
        "08_reporting/test/release/model/README.md",
        "08_reporting/test/release/model/adapter_model.safetensors",
        "08_reporting/test/release/dataset/README.md",
    ):
        assert (data / file).is_file(), file

    results = json.loads((data / "08_reporting/test/evaluation_results.json").read_text())
    for kind in ("entity_metrics", "relation_metrics"):
        assert {"precision", "recall", "f1", "tp", "fp", "fn"} <= set(results[kind]["micro"])
        assert {"precision", "recall", "f1"} <= set(results[kind]["macro"])
    assert results["test_set"]["synthetic"] is True

    tracked = _only_run(project)
    assert tracked.info.status == "FINISHED"
    assert {"entity_f1_micro", "relation_f1_micro", "base_entity_f1_micro", "eval_loss"} <= set(tracked.data.metrics)
    curves = {"train_loss", "eval_loss", "learning_rate", "gradient_norm", "tokens_per_second"}
    assert curves <= set(tracked.data.metrics)
    assert {"entity_f1_micro_low", "entity_f1_micro_high"} <= set(tracked.data.metrics)
    assert tracked.data.metrics["entity_f1_micro"] == pytest.approx(results["entity_metrics"]["micro"]["f1"])
    manifest = hashlib.sha256((data / "05_model_input/test/manifest.json").read_bytes()).hexdigest()
    assert tracked.data.tags["data_manifest_sha256"] == manifest
    assert results["test_set"]["manifest_sha256"] == manifest
    assert "any_mention" in results["variants"]
    histories = {name: _client(project).get_metric_history(tracked.info.run_id, name) for name in curves}
    assert all(len({point.step for point in history}) >= 2 for history in histories.values())
    tags = tracked.data.tags
    assert (tags["stage"], tags["experiment"], tags["model_version"]) == ("__default__", "test", "1")
    assert {"git_commit", "git_dirty", "system.cpu", "system.gpu", "system.ram_gib", "system.driver"} <= set(tags)
    made = json.loads((data / "05_model_input/test/manifest.json").read_text())["outputs"]
    logged = {one.dataset.name: one.dataset.digest for one in tracked.inputs.dataset_inputs}
    assert logged == {f"test/{split}": made[f"{split}.json"][:36] for split in ("train", "val", "test")}
    artifacts = _artifacts(tracked)
    for name in (
        "adapter/adapter_model.safetensors",
        "configuration/parameters.yml",
        "data/manifest.json",
        "environment/libraries.json",
        "evaluation/calibrator.json",
        "evaluation/evaluation_results.json",
        "evaluation/report.html",
        "figures/overview.png",
        "model/MLmodel",
        "predictions/predictions.jsonl",
    ):
        assert name in artifacts
    here = (str(project), str(Path(__file__).parents[2]))
    everything = {**tags, **tracked.data.params, **artifacts}
    assert not [name for name, text in everything.items() if any(place in text for place in here)]
    assert mlflow.active_run() is None

    summary = capsys.readouterr().out
    for words in (
        "Experiment test",
        "report.html",
        "release/model",
        tracked.info.run_id,
        "synthetic",
        "version 1, the champion",
    ):
        assert words in summary

    state = json.loads((data / "08_reporting/test/training_state.json").read_text())
    assert state["data"] == {name: made[name] for name in ("train.json", "val.json")}
    weights = (data / "06_models/test/adapter/adapter_model.safetensors").read_bytes()
    assert state["adapter_sha256"] == hashlib.sha256(weights).hexdigest()

    # Other splits, the same adapter: neither scored on documents that it may have learned from, nor released with them.
    run("data", params={"combination": {"seed": 7}})
    with pytest.raises(OdinError, match=r"learned from another train\.json and another val\.json"):
        run("evaluation", params=FASTER)
    with pytest.raises(OdinError, match=r"trained on another train\.json[^$]*figures are of another test set"):
        run("publishing", params=FASTER)


def test_two_data_runs_write_the_same_bytes(project: Path, run: Callable[..., dict[str, Any]]) -> None:
    def digests() -> dict[str, str]:
        folders = (project / "data").glob("0[2-5]_*")
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        return {file.relative_to(project).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    run("data")
    first = digests()
    run("data")
    assert digests() == first
    assert "data/05_model_input/test/train.json" in first
    assert not [name for name in first if str(project) in (project / name).read_text(encoding="utf-8")]


def test_two_default_runs_give_equal_weights_predictions_and_scores(
    project: Path, run: Callable[..., dict[str, Any]]
) -> None:
    files = (
        "data/06_models/test/adapter/adapter_model.safetensors",
        "data/07_model_output/test/predictions.jsonl",
        "data/07_model_output/test/base_predictions.jsonl",
        "data/08_reporting/test/evaluation_results.json",
    )
    found = []
    for _ in range(2):
        run(params=FASTER)
        found.append({name: hashlib.sha256((project / name).read_bytes()).hexdigest() for name in files})
        for name in files:
            (project / name).unlink()
    assert found[0] == found[1]


def test_a_missing_corpus_leaves_nothing_in_data(project: Path, run: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(Exception, match="no-such-folder"):
        run("data", params={"corpora": str(project / "no-such-folder")})
    assert not list((project / "data").glob("0[2-5]_*/test/*"))
    assert _only_run(project).info.status == "FAILED"


def _client(project: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")


def _only_run(project: Path) -> mlflow.entities.Run:
    client = _client(project)
    (found,) = client.search_runs([client.get_experiment_by_name("odin-slm-test").experiment_id])
    return found


def _artifacts(tracked: mlflow.entities.Run) -> dict[str, str]:
    """Name -> content, as far as it is text."""
    folder = Path(mlflow.artifacts.download_artifacts(run_id=tracked.info.run_id))
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {f.relative_to(folder).as_posix(): f.read_bytes().decode("utf-8", "replace") for f in files}
