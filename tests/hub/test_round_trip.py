"""From staging over the Hub to a stranger's machine and back: the cards' own snippets, run in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.io import DatasetError

import release_values as values
from canary import TOKEN
from hub.releases import published, visible
from hub_server import Fault, HubServer
from odin_slm.cli.errors import explain
from odin_slm.core.errors import HubError, MissingInputError, ReleaseError
from odin_slm.pipelines.publishing import create_pipeline
from staging import continue_locally, make_adapter, predict, publish_from, snippets

TO = {"push": True, "model_repo": "anna/odin", "dataset_repo": "anna/odin-data"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> dict[str, Path]:
    return make_adapter(tmp_path_factory.mktemp("models"), tiny_base)


@pytest.fixture(scope="module")
def predictions(trained: dict[str, Path]) -> list[dict[str, Any]]:
    return predict(trained, values.splits(synthetic=True)["test"])


@pytest.fixture
def push(
    hub: HubServer,
    trained: dict[str, Path],
    predictions: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., dict[str, Any]]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def run(inputs: Any = (), **params: Any) -> dict[str, Any]:
        target = tmp_path / "release"
        publish_from(trained, target, inputs={"predictions": predictions, **dict(inputs)}, **{**TO, **params})
        return json.loads((target / "publication.json").read_text(encoding="utf-8"))

    return run


def as_stranger(hub: HubServer, tmp_path: Path, program: str, token: str | None) -> Any:
    """Run a program with an empty cache and return what it leaves in ``found``."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "empty"), "HF_HUB_DISABLE_XET": "1"}
    if token:
        environment["HF_TOKEN"] = token
    script = tmp_path / "snippet.py"
    result = tmp_path / "found.json"
    script.write_text(f"{program}\nimport json, pathlib\npathlib.Path({str(result)!r}).write_text(json.dumps(found))\n")
    subprocess.run([sys.executable, str(script)], env=environment, check=True, cwd=tmp_path, timeout=200)
    return json.loads(result.read_text())


def test_the_published_snippets_give_the_local_predictions_rows_and_features(
    hub: HubServer, push: Callable[..., dict[str, Any]], trained: dict[str, Path], tmp_path: Path
) -> None:
    publication = push()
    for kind, name in (("model", "anna/odin"), ("dataset", "anna/odin-data")):
        assert publication[kind]["revision"] == hub.store.get(kind, name).branches["main"]
        assert publication[kind]["private"] is True
        card = published(hub, kind, name)["README.md"].decode()
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "README.md").write_text(card, encoding="utf-8")
    use, load_pinned = snippets(tmp_path / "model")
    (load,) = snippets(tmp_path / "dataset")
    assert f'revision="{publication["dataset"]["revision"]}"' in load_pinned

    program = f"""{use}
{load}
rows = {{split: data[split].to_list() for split in data}}
features = {{split: str(data[split].features) for split in data}}
{load_pinned}
assert rows == {{split: data[split].to_list() for split in data}}
found = {{"prompt": prompt, "output": output, "rows": rows, "features": features}}
"""
    found = as_stranger(hub, tmp_path, program, TOKEN)
    assert found["output"] == continue_locally(trained, found["prompt"], with_adapter=True)
    assert found["output"] != continue_locally(trained, found["prompt"], with_adapter=False)
    parts = values.splits(synthetic=True)
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        kept = ("id", "source", "document_id", "instruction", "input", "output")
        assert [{key: row[key] for key in kept} for row in found["rows"][split]] == [
            {key: record[key] for key in kept} for record in parts[name]
        ]
        assert found["features"][split].count("Value('string')") == 8
    card = yaml.safe_load((tmp_path / "model/README.md").read_text().split("---")[1])
    assert card["datasets"] == ["anna/odin-data"]
    assert publication["model"]["verified"]["prediction_of"].startswith(("ade", "bc5cdr", "biored"))
    assert publication["dataset"]["verified"]["rows"] == {"train": 18, "validation": 6, "test": 9}


def test_the_same_release_again_makes_no_commit_and_staging_keeps_the_record(
    hub: HubServer, push: Callable[..., dict[str, Any]]
) -> None:
    first = push()
    second = push()
    for kind, name in (("model", "anna/odin"), ("dataset", "anna/odin-data")):
        assert second[kind] == {**first[kind], "committed": False}
        assert len(hub.store.get(kind, name).history()) == 2
    requests = len(hub.journal)
    assert push(push=False)["model"] == second["model"]
    assert len(hub.journal) == requests, "staging touches no network"
    changed = push(push=False, model_name="another-name")
    assert changed["model"] == {"published": False}
    assert changed["dataset"] == second["dataset"]


def test_both_become_visible_together_or_not_at_all(
    hub: HubServer, push: Callable[..., dict[str, Any]], naps: list[float]
) -> None:
    def show_model(request: Any) -> bool:
        return request.name == "PUT settings" and "/models/" in request.path and b"public" in request.body

    hub.faults = [Fault(show_model, status=403, times=None)]
    with pytest.raises(DatasetError) as refusal:
        push(private=False)
    assert "What was hidden before is verified, and hidden as before" in str(explain(refusal.value))
    assert visible(hub) == {}
    hub.faults = []
    publication = push(private=False)
    assert not publication["model"]["private"]
    assert not publication["dataset"]["private"]
    assert set(visible(hub)) == {"model anna/odin", "dataset anna/odin-data"}
    assert push(push=False) == publication, "staging the same again does not forget that they are shown"


def test_a_release_whose_model_fails_takes_its_dataset_back_where_others_see_it(
    hub: HubServer, push: Callable[..., dict[str, Any]], naps: list[float], tmp_path: Path
) -> None:
    first = push(private=False, tag="v1")
    before, record = visible(hub), (tmp_path / "release" / "dataset.json").read_text()
    hub.faults = [Fault(lambda request: request.name == "POST commit" and "/models/" in request.path, status=403)]
    changed = {"model_name": "other", "dataset_name": "other-data", "private": False}
    with pytest.raises(DatasetError) as refusal:
        push(**changed)
    said = str(explain(refusal.value))
    assert "model anna/odin: commit: the Hub answers 403" in said
    assert re.search(
        r"The commit \w{40} of dataset anna/odin-data was taken back by another one: main is as it was", said
    )
    assert visible(hub) == before
    assert (tmp_path / "release" / "dataset.json").read_text() == record
    hub.faults = []
    second = push(**changed)
    assert second["dataset"]["revision"] != first["dataset"]["revision"]
    assert "undo" not in second


def test_training_data_alone_is_published_without_a_model(
    hub: HubServer,
    run: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """``kedro run --pipelines data``, then ``--pipelines publishing --tags dataset``: there is no model to speak of."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    params = {
        "ingestion": {"corpora": ["ade"]},
        "combination": {"validation_ratio": 0.0, "test_ratio": 0.0},
        "publishing": {"push": True, "dataset_repo": "anna/odin-data", "private": False},
    }
    run("data", params=params)
    run("publishing", params=params, tags=["dataset"])
    assert "The dataset is staged without validation: no record lies there" in caplog.text
    files = published(hub, "dataset", "anna/odin-data")
    assert [name for name in files if name.startswith("data/")] == ["data/train.parquet"]
    assert set(visible(hub)) == {"dataset anna/odin-data"}
    with pytest.raises(MissingInputError, match=r"val\.json: it holds no records.*combination\.validation_ratio"):
        run("training", params=params)


def test_the_dataset_goes_first_and_either_may_go_alone(hub: HubServer, push: Callable[..., dict[str, Any]]) -> None:
    assert push(model_repo=None)["model"] == {"published": False}
    assert set(hub.store.repositories) == {("dataset", "anna/odin-data")}
    push(dataset_repo=None, private=False)
    assert set(visible(hub)) == {"model anna/odin"}, "the dataset was not named"
    commits = [request.path.split("/")[2] for request in hub.journal if request.name == "POST commit"]
    assert commits == ["datasets", "models"]


def test_data_that_are_published_alone_show_no_model(hub: HubServer, push: Callable[..., dict[str, Any]]) -> None:
    assert push(private=True)["model"]["private"]
    record = push(private=False, tags=["dataset"])
    assert set(visible(hub)) == {"dataset anna/odin-data"}, "the model's record is of an earlier run"
    assert (record["dataset"]["private"], record["model"]["private"]) == (False, True)
    push(private=False)
    assert set(visible(hub)) == {"dataset anna/odin-data", "model anna/odin"}
    assert not push(private=False, model_repo=None, tags=["dataset"])["model"]["private"], "it is seen since"


def test_no_export_that_may_fail_lies_between_the_two_uploads() -> None:
    order = [node.name for node in create_pipeline().nodes]
    assert order.index("plan_dataset_publication") < order.index("conclude_publication")
    assert order.index("conclude_publication") < order.index("plan_merged_model")


def test_an_adapter_that_answers_otherwise_than_its_figures_is_refused(
    hub: HubServer, push: Callable[..., dict[str, Any]], predictions: list[dict[str, Any]]
) -> None:
    other = [{**row, "prediction": "### Entities:\nNone"} for row in predictions]
    with pytest.raises(ReleaseError, match=r"gate model.*\n.*answers record .* otherwise"):
        push(inputs={"predictions": other})
    assert not hub.journal, "nothing of a release is sent before all of it has passed its gates"
    push(inputs={"predictions": other}, override={"model": "Decoded on another machine, see notes"})
    card = published(hub, "model", "anna/odin")["README.md"].decode()
    assert "> - model: Decoded on another machine, see notes" in card
    assert "overridden_gates:" in card


def test_a_file_of_the_model_that_may_not_be_released_keeps_the_dataset_back(
    hub: HubServer, push: Callable[..., dict[str, Any]], trained: dict[str, Path], tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(trained["adapter"], adapter)
    file = adapter / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "made_in": "/somewhere/on/this/machine"}), encoding="utf-8")
    with pytest.raises(DatasetError) as refusal:
        push(inputs={"adapter": adapter})
    assert "tokenizer_config.json: made_in is a path of this machine" in str(explain(refusal.value))
    assert not hub.journal
    left = {entry.name for entry in (tmp_path / "release").iterdir()}
    assert left == {"dataset", "data_gate.json", "gates.json"}, "no dry run, no staged model"


def test_a_release_that_was_changed_by_hand_is_not_pushed(
    hub: HubServer, push: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from odin_slm.datasets.hub import HubRepositoryDataset
    from odin_slm.hub.plan import Plan, Request

    push(push=False)
    folder = tmp_path / "release" / "dataset"
    (folder / ".env").write_text("x")
    dataset = HubRepositoryDataset(filepath=str(tmp_path / "record.json"))
    with pytest.raises(DatasetError) as refusal:
        dataset.save(Request(folder, Plan("dataset", folder, "anna/odin-data", True, "m")))
    assert ".env: not in the allow-list" in str(explain(refusal.value))
    (folder / ".env").unlink()
    card = folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + "\nBetter than it is.\n", encoding="utf-8")
    with pytest.raises(DatasetError) as refusal:
        dataset.save(Request(folder, Plan("dataset", folder, "anna/odin-data", True, "m")))
    assert "SHA256SUMS: a file has changed since the release was staged" in str(explain(refusal.value))
    assert not hub.journal


def test_what_was_published_before_can_come_back(hub: HubServer, push: Callable[..., dict[str, Any]]) -> None:
    first = push()["model"]
    push(model_name="another-name")
    again = push()["model"]
    repository = hub.store.get("model", "anna/odin")
    assert again["committed"] is True
    assert again["revision"] == repository.branches["main"] != first["revision"]
    assert again["tag"] == first["tag"]
    assert repository.tags[again["tag"]] == first["revision"], "a tag is never moved, and names this very content"


def test_a_checkpoint_is_published_without_the_scores_of_another(
    hub: HubServer, push: Callable[..., dict[str, Any]], trained: dict[str, Path], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(trained["adapter"], work / "checkpoints" / "checkpoint-5")
    with pytest.raises(ReleaseError, match=r"no checkpoint checkpoint-6.*Name one of checkpoint-5"):
        push(inputs={"training_work": work}, checkpoint="checkpoint-6", override={})
    state = {**values.training_state(), "history": [{"step": 5, "eval_loss": 0.6543}]}
    push(inputs={"training_work": work, "training_state": state}, checkpoint="checkpoint-5")
    files = published(hub, "model", "anna/odin")
    card = files["README.md"].decode()
    assert "evaluation_results.json" not in files
    assert "**Not evaluated.** This is the training checkpoint `checkpoint-5`" in card
    assert "0.6543" in card
    assert "0.864" not in card
    assert "optimizer.pt" not in files


def test_a_checkpoint_is_asked_as_it_is_released_without_an_operating_point(
    push: Callable[..., dict[str, Any]], trained: dict[str, Path], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(trained["adapter"], work / "checkpoints" / "checkpoint-5")
    everything_goes = {"version": 1, "objective": "f1", "end_bias": None, "threshold": {"entity": 1.1, "relation": 1.1}}
    raw = {"method": "none"}
    calibrator = {"entity": raw, "relation": raw, "operating_point": everything_goes}
    found = push(inputs={"training_work": work, "calibrator": calibrator}, checkpoint="checkpoint-5")
    assert found["model"]["verified"]["prediction_of"]


def test_without_a_token_the_way_out_is_told(
    hub: HubServer, push: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(DatasetError) as refusal:
        push()
    cause = explain(refusal.value)
    assert isinstance(cause, HubError)
    assert "there is no token" in str(cause)
    assert "hf auth login" in str(cause)
    assert not hub.journal
