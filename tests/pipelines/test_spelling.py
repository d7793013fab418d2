"""The task spelling, from words to a registered, published and served model, on a tiny base."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pyarrow.parquet
import pytest
import yaml

from canary import TOKEN
from conftest import ROOT, runner_in
from hub.conftest import hub
from hub.releases import published
from hub_server import HubServer
from odin_slm.inference.served_model import resolve_model
from odin_slm.serving.__main__ import build
from odin_slm.serving.settings import ApiKeys, ServingSettings
from serving_service import SMALL, running

__all__ = ["hub"]

FIGURES = ("letter_count_accuracy", "letter_position_accuracy", "character_level_accuracy", "levenshtein_distance")
FEW = {
    "ingestion": {"options": {"words": {"validation": 4, "test": 6}}},
    "training": {"max_steps": 4, "batch_size": 8, "evaluations": 2, "max_seq_length": 400},
    "evaluation": {"max_new_tokens": 6, "bootstrap_resamples": 100},
    "publishing": {
        "maximum_parse_failure_rate": 1.0,
        "push": True,
        "model_repo": "anna/odin-spelling",
        "dataset_repo": "anna/odin-spelling-data",
    },
}


@pytest.fixture
def spelled(project: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project after a whole run of the environment ``spelling``."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shutil.copytree(ROOT / "data/01_raw/words", project / "data/01_raw/words")
    runner_in(project, env="spelling")(params=FEW)
    return project


def test_the_environment_spelling_goes_from_words_to_a_published_and_served_model(
    spelled: Path, hub: HubServer
) -> None:
    reports = spelled / "data/08_reporting/spelling"
    results = json.loads((reports / "evaluation_results.json").read_text())
    assert results["test_set"]["examples"] == 30
    assert all(row["subject_tokens"] >= 2 for row in _rows(spelled)), "no test word is a token of the base"

    final = json.loads((reports / "final_report.json").read_text())
    assert final["configuration"]["task"]["name"] == "spelling"
    assert final["configuration"]["training"]["max_steps"] == 4
    assert {criterion["metric"] for criterion in final["criteria"]} > set(FIGURES)
    assert final["met"] == sum(criterion["met"] for criterion in final["criteria"])
    assert set(final["results"]["base"]) == set(final["results"]["fine_tuned"])
    assert "By number of tokens of the word" in (reports / "report.html").read_text()

    (tracked,) = mlflow.search_runs(experiment_names=["odin-slm"], output_format="list")
    assert {*FIGURES, *(f"base_{name}" for name in FIGURES)} <= set(tracked.data.metrics)
    champion = mlflow.MlflowClient().get_model_version_by_alias("odin-spelling", "champion")
    assert str(champion.version) == "1"
    promotion = json.loads((reports / "promotion.json").read_text())
    assert promotion["decision"] == "promote"

    card = published(hub, "model", "anna/odin-spelling")["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    named = [metric["name"] for result in front["model-index"][0]["results"] for metric in result["metrics"]]
    assert [name for name in named if "Levenshtein" in name]
    assert front["datasets"] == ["anna/odin-spelling-data"]
    assert not {"medical", "biomedical"} & set(front["tags"])
    data = published(hub, "dataset", "anna/odin-spelling-data")
    assert b"Permission to use, copy, modify, distribute" in data["LICENSE"]
    for text in (card, data["README.md"].decode()):
        assert not re.search("medical|PubMed|documents", text)

    adapter = str(spelled / "data/06_models/spelling/adapter")
    app = build(ServingSettings(**SMALL, model=adapter), ApiKeys(), resolve_model(adapter, root=spelled))
    with running(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        metrics = client.get("/model").json()["metrics"]
        assert metrics["letter_count_accuracy"] == pytest.approx(results["letter_count_accuracy"])
        assert set(FIGURES) <= set(metrics)
        answer = client.post("/predict", json={"text": "How many r's are in 'strawberry'?"}).json()["results"][0]
        assert isinstance(answer["output"], str)


def test_answers_lie_in_the_shards_of_a_batch(spelled: Path) -> None:
    (spelled / "words.jsonl").write_text(json.dumps({"id": "a", "text": "How many r's are in 'strawberry'?"}) + "\n")
    runner_in(spelled, env="spelling")("extraction", params={"documents": str(spelled / "words.jsonl")})
    (shard,) = (spelled / "data/07_model_output/spelling/extractions").glob("*.parquet")
    (row,) = pyarrow.parquet.read_table(shard).to_pylist()
    assert (row["entities"], row["relations"]) == (None, None)
    assert json.loads(row["answer"]) == {"output": row["windows"][0]["output"]}


def _rows(project: Path) -> list[dict[str, Any]]:
    lines = (project / "data/07_model_output/spelling/predictions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
