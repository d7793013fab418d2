"""A model of types of its own, as an added corpus makes one: served, read in batches, and asked through MLflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest

from conftest import ROOT
from inference.test_generation import make_adapter
from odin_slm.core.errors import ExtractionError, ServingError
from odin_slm.inference.packaged_model import PackagedModel
from odin_slm.inference.served_model import resolve_model
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks.extraction.task import ExtractionTask
from serving_service import metric, service

TASK = ExtractionTask.from_options(
    {
        "entities": ["Gene", "Dose"],
        "relations": [{"type": "inhibits", "head": ["Dose"], "tail": ["Gene"]}],
        "sources": {"mine": {"entities": ["Gene", "Dose"], "relations": ["inhibits"]}, "genes": {"entities": ["Gene"]}},
    }
)
ASKED = {"genes": "Extract entities: Gene. Relations: none.", "mine": TASK.instruction("mine")}
TEXT = "enalapril and TP53"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's folder as the training leaves it, with the embedded base beside it as a release has it."""
    embedded = ROOT / "data/06_models/odin-nano"
    folder = make_adapter(BaseModel("nano", embedded), tmp_path_factory.mktemp("own") / "model", alpha=1)
    shutil.copytree(embedded, folder / "base")
    (folder / "task.json").write_text(json.dumps({**TASK.to_dict(), "instructions": ASKED}))
    return folder


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[httpx.Client]:
    with service(model) as client:
        yield client


def types_of(output: str) -> set[str]:
    return {line.partition("[")[2].partition("]")[0] for line in output.split("\n") if "[" in line}


def test_the_model_says_what_it_was_taught(client: httpx.Client) -> None:
    card = client.get("/model").json()
    assert card["schemas"] == {
        "all": {"entities": ["Gene", "Dose"], "relations": ["inhibits"]},
        "mine": {"entities": ["Gene", "Dose"], "relations": ["inhibits"]},
        "genes": {"entities": ["Gene"], "relations": []},
    }
    described = client.get("/openapi.json").json()["components"]["schemas"]["PredictRequest"]["properties"]["schema"]
    assert (described["enum"], described["default"]) == (["all", "mine", "genes"], "mine")


def test_requests_take_its_sources_and_answers_name_its_types_alone(client: httpx.Client) -> None:
    for path in ("/predict", "/extract"):
        for schema, allowed in (("mine", {"Gene", "Dose", "inhibits"}), ("genes", {"Gene"})):
            answer = client.post(path, json={"text": TEXT, "schema": schema}).json()
            outputs = [one["output"] for one in answer.get("results") or answer["windows"]]
            assert outputs
            assert all(types_of(output) <= allowed for output in outputs)
            assert {entity["type"] for entity in answer.get("results", [answer])[0]["entities"]} <= allowed
        refused = client.post(path, json={"text": TEXT, "schema": "biored"})
        assert refused.status_code == 422
    found = client.post("/predict", json={"text": TEXT}).json()["results"][0]
    assert found["entities"]
    assert metric(client, f'odin_entities_total{{type="{found["entities"][0]["type"]}"}}') > 0
    assert client.get("/ready").status_code == 200


def test_the_page_offers_its_sources_and_knows_its_types(client: httpx.Client) -> None:
    page = client.get("/").text
    assert '"source": "mine", "schemas": {"all": {"entities": ["Gene", "Dose"]' in page
    assert "{{" not in page


def test_the_batch_pipeline_reads_with_it(model: Path, project: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text(json.dumps({"id": "a", "text": TEXT}) + "\n")
    params = {"documents": str(tmp_path / "notes.jsonl"), "model": str(model)}
    for schema in ("", "genes"):
        target = project / f"out-{schema}"
        settings = {"max_new_tokens": 40, "window_tokens": 96, "schema": schema}
        run("extraction", params={**params, "extractions": str(target), "extraction": settings})
        (row,) = pyarrow.parquet.read_table(next(iter(target.glob("*.parquet")))).to_pylist()
        assert row["schema"] == (schema or "mine")
        assert {entity["type"] for entity in row["entities"]} <= ({"Gene"} if schema else {"Gene", "Dose"})
        assert types_of(row["windows"][0]["output"]) <= {"Gene", "Dose", "inhibits"}


def test_a_packaged_model_reads_with_it(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packaged"
    shutil.copytree(model, folder)
    settings = {"base": {"id": "tiny"}, "instructions": ASKED, "schema": "mine", "task": TASK.to_dict()}
    (folder / "extraction.json").write_text(json.dumps(settings))
    packaged = PackagedModel.from_folder(folder)
    (found,) = packaged.extract([TEXT], max_new_tokens=40)
    assert found["entities"]
    assert {entity["type"] for entity in found["entities"]} <= {"Gene", "Dose"}
    (genes,) = packaged.extract([TEXT], schema="genes", max_new_tokens=40)
    assert {entity["type"] for entity in genes["entities"]} <= {"Gene"}
    with pytest.raises(ExtractionError, match="Choose one of genes, mine"):
        packaged.extract([TEXT], schema="biored")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('{"name": "extraction"}', "names no task"),
        ('{"name": "extraction", "options": {"entities": ["a b"]}}', "entities"),
        (json.dumps({**TASK.to_dict(), "options": {**TASK.options(), "default_source": "x"}}), "no source 'x'"),
    ],
)
def test_a_task_that_cannot_be_read_is_named(model: Path, tmp_path: Path, written: str, message: str) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model/task.json").write_text(written)
    with pytest.raises(ServingError, match=rf"task\.json: (.|\n)*{message}"):
        resolve_model(str(tmp_path / "model"), root=tmp_path)
