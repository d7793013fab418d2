"""What the site says of the service: pages made from the code, and the alerts with their sections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from conftest import ROOT
from odin_slm.config.parameters import TaskParams
from odin_slm.inference.served_model import ServedModel
from odin_slm.models.base_model import BaseModel
from odin_slm.serving import api_schemas
from odin_slm.serving.middleware import WORDS
from odin_slm.serving.observability import Metrics
from odin_slm.serving.settings import ServingSettings
from site_pages import generator


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    scores = {"entity_f1_micro": 0.1, "relation_f1_micro": 0.1}
    return Metrics(ServedModel("x", BaseModel("y"), None, "sha256:0", 0.0, TaskParams().task(), scores), 1)


def test_every_setting_is_described() -> None:
    table = generator().serving_settings().splitlines()[2:]
    assert len(table) == len(ServingSettings.model_fields)
    assert "| `--queue-size` | `64` | Prompts that may wait; further requests get 429. |" in table


def test_every_metric_is_described(metrics: Metrics) -> None:
    table = generator().metrics()
    names = [family.name for family in metrics.registry.collect() if family.name.startswith("odin_")]
    assert len(table.splitlines()) == 2 + len(names)
    assert "| `odin_requests_total` | counter | `endpoint`, `status` | Requests by endpoint and status code. |" in table


def test_every_alert_has_its_section() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    page = "docs/how-to/monitor.md"
    assert re.findall(r"^### (\w+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE) == list(alerts)
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook"] == f"{page}#{name.lower()}"


def test_rules_and_dashboards_ask_for_metrics_that_exist(metrics: Metrics) -> None:
    known = set(metrics.registry._names_to_collectors) | {"odin_slm"}
    rules = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    recorded = set(re.findall(r"record: (\S+)", rules))
    files = [ROOT / "deploy/prometheus/alerts.yml", *(ROOT / "deploy/grafana/dashboards").glob("*.json")]
    assert len(files) == 4
    for file in files:
        text = file.read_text()
        assert not set(re.findall(r"\bodin_[a-z0-9_]+", text)) - known, file.name
        assert not set(re.findall(r"\bodin:[a-z0-9_:]+", text)) - recorded, file.name


def test_the_api_is_described(tiny_base: Path) -> None:
    from odin_slm.inference.served_model import resolve_model

    page = generator().http_api()
    endpoints = re.findall(r"^### ((?:GET|POST) /\w*)$", page, re.MULTILINE)
    assert sorted(endpoints) == sorted(
        ["POST /predict", "POST /extract", "GET /model", "GET /health", "GET /ready", "GET /metrics"]
    )
    api = api_schemas.api_of(resolve_model(str(tiny_base), root=tiny_base.parent))
    (prediction,) = get_args(api.predict_response.model_fields["results"].annotation)
    for body in (api.predict_request, prediction, api.extract_request, api.extract_response, api_schemas.ErrorBody):
        section = page.split(f"### {body.__name__}\n")[1].split("\n### ")[0]
        for name, field in body.model_fields.items():
            assert f"| `{field.alias or name}` |" in section, f"{body.__name__}.{name}"
    assert all(f"| {status} | `{word}` |" in generator().error_words() for status, word in WORDS.items())
