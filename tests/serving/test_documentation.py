"""docs/api.md, docs/deployment.md and docs/monitoring.md against the code: both directions, so that neither drifts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prometheus_client import Gauge

from conftest import ROOT
from extraction_values import TASK
from odin_slm.inference.served_model import ServedModel
from odin_slm.models.base_model import BaseModel
from odin_slm.serving import api_schemas
from odin_slm.serving.__main__ import build
from odin_slm.serving.metrics import Metrics
from odin_slm.serving.middleware import WORDS
from odin_slm.serving.settings import ApiKeys, ServingSettings
from odin_slm.tasks.extraction.answer import Occurrence


def document(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def first_cells(text: str) -> list[list[str]]:
    """The cells of every table row that begins with code."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def code(cell: str) -> str:
    found = re.match(r"`([^`]+)`", cell)
    return found[1] if found else ""


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    scores = {"entity_f1_micro": 0.1, "relation_f1_micro": 0.1}
    return Metrics(ServedModel("x", BaseModel("y"), None, "sha256:0", 0.0, TASK, scores), 1)


def test_every_setting_is_described_and_no_other() -> None:
    described = {
        code(row[0]): row[1:] for row in first_cells(document("deployment.md")) if code(row[0]).startswith("--")
    }
    settings = {f"--{name.replace('_', '-')}": field for name, field in ServingSettings.model_fields.items()}
    assert list(described) == list(settings)
    for option, field in settings.items():
        default = "" if field.default in (None, "") else f"`{field.default}`"
        assert described[option] == [default, field.description]


def test_every_metric_is_described_and_no_other(metrics: Metrics) -> None:
    described = {
        code(row[0]): row for row in first_cells(document("monitoring.md")) if code(row[0]).startswith("odin_")
    }
    collectors = metrics.registry._names_to_collectors
    families = [family for family in metrics.registry.collect() if family.name.startswith("odin_")]
    names = {f"{family.name}_total" if family.type == "counter" else family.name: family for family in families}
    assert list(described) == list(names)
    for name, family in names.items():
        collector: Any = collectors[family.name]
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)
        assert described[name][1:] == [family.type, labels, family.documentation]
    assert isinstance(metrics.queue, Gauge)


def test_every_alert_has_its_section() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    sections = re.findall(r"^### (\w+)$", document("monitoring.md"), re.MULTILINE)
    assert sections == list(alerts)
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{name.lower()}"


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

    model = resolve_model(str(tiny_base), root=tiny_base.parent)
    app = build(ServingSettings(max_new_tokens=32, decoders="threads"), ApiKeys(), model)
    text, api = document("api.md"), api_schemas.api_of(model)
    operations = {
        f"{method.upper()} {path}" for path, item in app.openapi()["paths"].items() for method in item if method != "x"
    }
    rows = first_cells(text)
    assert {code(row[0]) for row in rows if code(row[0]).startswith(("GET", "POST"))} == operations
    errors = {
        int(line.split("|")[1]): code(line.split("|")[2].strip())
        for line in text.splitlines()
        if re.match(r"\| \d", line)
    }
    assert errors == WORDS
    named = {code(row[0]) for row in rows}
    fields = {field.alias or name for name, field in api.predict_request.model_fields.items()}
    assert fields | set(get_args(api.predict_response.model_fields["results"].annotation)[0].model_fields) <= named
    asked = next(row for row in rows if code(row[0]) == "schema")
    assert re.findall(r"`(\w+)`", asked[1]) == list(model.task.sources)
    answers = (api.predict_response, api.extract_response, api_schemas.Window, Occurrence, api_schemas.ErrorBody)
    for answer in answers:
        for field in answer.model_fields:
            assert f"`{field}`" in text or f'"{field}"' in text, f"{answer.__name__}.{field}"
