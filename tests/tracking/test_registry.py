"""Registered models load and predict by themselves; a champion has earned its alias, and history says how."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pandas
import pytest
from click.testing import CliRunner
from pyarrow.parquet import read_table

from conftest import ROOT
from extraction_values import TASK
from odin_slm import cli
from odin_slm.core.errors import ExtractionError, RegistryError
from odin_slm.inference.packaged_model import _load_pyfunc
from odin_slm.inference.reading import instruction_of
from odin_slm.inference.served_model import resolve_model
from odin_slm.models.base_model import BaseModel
from odin_slm.serving.__main__ import build
from odin_slm.serving.settings import ApiKeys, ServingSettings
from odin_slm.tasks.extraction.format import Entity, Extraction, instruction_for, parse, render
from odin_slm.tasks.extraction.schema import SCHEMAS
from odin_slm.tracking.promotion import conclude, judge, rows_digest
from odin_slm.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    CHAMPION_PREDICTIONS,
    Candidate,
    Promotion,
    Registry,
)
from odin_slm.tracking.rescoring import rescore
from serving_service import SMALL, running
from tracking.test_promotion import rows

NAME = "odin-medical-ner-re-test"
TEXTS = ["Rash and cough followed aspirin.", "Enalapril caused a dry cough and aspirin caused nausea."]
TEST = {"significance": 0.05, "resamples": 199, "seed": 1}
BY: dict[str, Any] = {"task": TASK, "test": TEST}
LONGER = {"evaluation": {"num_samples": 6, "max_new_tokens": 60, "bootstrap_resamples": 100}}
CALIBRATOR = {
    "records": 60,
    "entity": {"method": "isotonic", "x": [0.0, 1.0], "y": [0.25, 0.75], "extractions": 90, "right": 45, "why": ""},
    "relation": {"method": "temperature", "temperature": 3.0, "extractions": 60, "right": 20, "why": ""},
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A LoRA adapter of the tiny base whose weights are not zero."""
    return save_adapter(tiny_base, tmp_path_factory.mktemp("adapter"), lora_alpha=64, init_lora_weights=False)


def save_adapter(base: Path, folder: Path, **options: Any) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(7)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **options)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    model.save_pretrained(folder, save_embedding_layers=False)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Iterator[str]:
    """A tracking store of its own."""
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_experiment("registry")
    yield mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(before)


@pytest.fixture
def candidate(adapter: Path, tiny_base: Path) -> Callable[..., Candidate]:
    def make(predictions: list[dict[str, Any]], **changes: Any) -> Candidate:
        values: dict[str, Any] = {
            "folder": adapter,
            "base": BaseModel("tiny", tiny_base),
            "base_id": "odin-slm/tiny",
            "instructions": {name: instruction_for(SCHEMAS[name]) for name in ("ade", "biored")},
            "predictions": predictions,
            "metrics": {"entity_f1_micro": 0.5},
            "experiment": "test",
            "manifest_sha256": "0" * 64,
            "task": TASK,
        }
        return Candidate(**{**values, **changes})

    return make


def register(candidate: Candidate) -> str:
    with mlflow.start_run() as run:
        return Registry(NAME).register(candidate, run.info.run_id)


def bare_version(predictions: list[dict[str, Any]], manifest: str = "0" * 64) -> str:
    """A version that only the registry's rules meet: its predictions, and no model."""
    client = mlflow.MlflowClient()
    Registry(NAME)._make(TASK)
    with mlflow.start_run() as run:
        client.log_text(run.info.run_id, "".join(json.dumps(row) + "\n" for row in predictions), _PREDICTIONS)
        made = client.create_model_version(NAME, f"runs:/{run.info.run_id}/model", run.info.run_id)
    client.set_model_version_tag(NAME, made.version, "data_manifest_sha256", manifest)
    client.set_model_version_tag(NAME, made.version, "predictions_sha256", rows_digest(predictions))
    return str(made.version)


def holder() -> str | None:
    champion = Registry(NAME).champion()
    return str(champion.version) if champion else None


_PREDICTIONS = "predictions/predictions.jsonl"


# Models that load


def test_a_default_run_leaves_a_champion_that_predicts(project: Path, run: Callable[..., dict[str, Any]]) -> None:
    run(params=LONGER)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@{CHAMPION}")
    found = model.predict(TEXTS)
    assert list(found.columns) == ["entities", "relations", "finished", "error"]
    assert model.predict(pandas.DataFrame({"text": TEXTS})).equals(found)
    for text, entities in zip(TEXTS, found["entities"], strict=True):
        for entity in entities:
            assert {text[begin:end] for begin, end in entity["offsets"]} == {entity["text"]}

    registry = Registry(NAME)
    champion = registry.champion()
    assert (str(champion.version), champion.tags["experiment"]) == ("1", "test")
    (event,) = registry.history()
    assert (event["action"], event["version"], event["run_id"]) == ("promote", "1", champion.run_id)
    assert event["reason"] == "there is no champion to compare with"
    tracked = mlflow.get_run(champion.run_id)
    assert tracked.data.tags["model_version"] == "1"
    assert champion.tags["data_manifest_sha256"] == tracked.data.tags["data_manifest_sha256"]

    own = {row["id"]: row for row in registry.as_champion().rows}  # type: ignore[union-attr]
    kept = (project / "data/07_model_output/test/predictions.jsonl").read_text()
    assert own == {row["id"]: row for row in map(json.loads, kept.splitlines())}

    # The registered model says what the evaluation said: same prompt, same grammar, same weights, same calibration.
    wholly = max(own.values(), key=lambda row: len(row["entities"]))
    assert wholly["entities"], "held to the text, even a model that can do nothing names something"
    asked = {"schema": wholly["source"], "max_new_tokens": 60, "window_tokens": 900}
    answer = model.predict([wholly["input"]], params=asked).iloc[0]
    said = {(e["type"], e["text"].casefold()): e["confidence"] for e in reversed(wholly["entities"])}
    assert {(e["type"], e["text"].casefold()): e["confidence"] for e in answer["entities"]} == said

    # Publishing again registers nothing new; evaluation has met the champion.
    run("evaluation", "publishing", params=LONGER)
    assert [str(version.version) for version in registry.versions()] == ["1"]
    decision = json.loads((project / "data/08_reporting/test/promotion.json").read_text())
    assert (decision["decision"], decision["champion"]) == ("keep", "1")
    assert decision["metrics"]["entity_f1_micro"]["p_value"] == 1.0
    assert len(registry.history()) == 1

    registry.demote("a trial")
    with pytest.raises(Exception, match=r"promotion\.reason"):
        run("publishing", params={"promotion": {"force": True}})
    run("publishing", params={"promotion": {"force": True, "reason": "the ward asked for it"}})
    last = registry.history()[-1]
    assert (last["version"], last["forced"], last["reason"]) == ("1", True, "the ward asked for it")


def test_a_registered_model_needs_nothing_of_this_project(
    store: str, candidate: Callable[..., Candidate], tmp_path: Path
) -> None:
    register(candidate(rows(0.5, 1)))
    uri = f"models:/{NAME}@{CHALLENGER}"
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "copied")))
    made = mlflow.models.Model.load(folder)
    signature = made.signature.to_dict()
    assert all(signature[part] for part in ("inputs", "outputs", "params"))
    assert made.saved_input_example_info
    assert made.metadata["base"] == {"id": "odin-slm/tiny", "revision": None, "included": True}
    assert all("==" in line for line in (folder / "requirements.txt").read_text().split())
    assert not [file for file in folder.rglob("*") if file.suffix in (".pkl", ".pt", ".bin", ".pth")]
    texts = [file for file in folder.rglob("*") if file.suffix not in (".safetensors", ".py")]
    here = (str(Path(__file__).parents[2]), str(tmp_path), str(candidate([]).folder))
    assert not [file for file in texts if file.is_file() and any(place in file.read_text() for place in here)]
    program = (
        "import sys, mlflow\n"
        f"model = mlflow.pyfunc.load_model({str(folder)!r})\n"
        "import odin_slm; print(odin_slm.__file__)\n"
        f"print(model.predict({TEXTS!r}).to_json(orient='records'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    place, answers = done.stdout.strip().splitlines()[-2:]
    assert Path(place).is_relative_to(folder), "the code that travels with the model is what runs"
    assert json.loads(answers) == json.loads(mlflow.pyfunc.load_model(uri).predict(TEXTS).to_json(orient="records"))


def test_a_hub_base_is_named_and_not_copied(
    store: str, candidate: Callable[..., Candidate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub/models--owner--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit)
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    number = register(candidate(rows(0.5, 1), base=BaseModel("owner/name"), base_id="owner/name"))
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}/{number}"))
    assert mlflow.models.Model.load(folder).metadata["base"] == {
        "id": "owner/name",
        "revision": commit,
        "included": False,
    }
    assert not list(folder.rglob("base"))
    assert Registry(NAME).version(number).tags["base_revision"] == commit


def test_the_schema_of_a_text_decides_what_is_looked_for(store: str, candidate: Callable[..., Candidate]) -> None:
    register(candidate(rows(0.5, 1)))
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@{CHALLENGER}")
    types = {
        schema: {e["type"] for row in model.predict(TEXTS, params={"schema": schema})["entities"] for e in row}
        for schema in ("ade", "biored")
    }
    assert types["ade"] <= {"Drug", "Symptom"}
    assert types["biored"] <= {"Drug", "Disease"}
    assert model.predict(TEXTS).equals(model.predict(TEXTS, params={"schema": "biored"})), "it asks for most"
    with pytest.raises(ExtractionError, match=r"no schema 'bc5cdr'.*ade, biored"):
        model.predict(TEXTS, params={"schema": "bc5cdr"})
    with pytest.raises(ExtractionError, match="first column is 'id'"):
        model.predict(pandas.DataFrame({"id": ["1"], "text": ["Rash by aspirin."]}))
    with pytest.raises(ExtractionError, match="decoding"):
        model.predict(TEXTS, params={"decoding": "beam"})


def test_a_table_without_any_text_has_rows_that_say_so(store: str, candidate: Callable[..., Candidate]) -> None:
    register(candidate(rows(0.5, 1)))
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@{CHALLENGER}")
    nothing = [[float("nan")] * 2, [None, None], [5, 7], [5, 0.5], [pandas.NaT], [True], [b"x", 5, None, pandas.NA]]
    for texts in nothing:
        for given in (texts, pandas.Series(texts), pandas.DataFrame({"text": texts, "year": 2026})):
            found = model.predict(given, params={"max_new_tokens": 8})
            assert len(found) == len(texts)
            assert found["error"].notna().all()
    first, last = model.predict(pandas.DataFrame({"text": [5, TEXTS[0]]}), params={"max_new_tokens": 8})["error"]
    assert "int" in first
    assert last is None


LONG_TEXT = " ".join(f"Patient {n} took enalapril and aspirin, then had a cough, fever and rash." for n in range(5))
ASKED = {"schema": "biored", "max_new_tokens": 128, "window_tokens": 96, "batch_size": 4}


def test_registered_model_service_and_batch_pipeline_say_the_same(
    project: Path, run: Callable[..., dict[str, Any]], candidate: Callable[..., Candidate], tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    mlflow.set_experiment("registry")
    registry = Registry(NAME)
    base = ROOT / "data/06_models/odin-nano"  # one that can write relations
    real = {"base": BaseModel("odin-nano", base), "folder": save_adapter(base, tmp_path / "adapter")}
    raw = register(candidate(rows(0.5, 1), **real))
    number = register(candidate(rows(0.5, 1), **real, calibrator=CALIBRATOR))
    assert number != raw, "with a calibrator it is another version"
    assert register(candidate(rows(0.5, 1), **real, calibrator=CALIBRATOR)) == number
    registry.promote(number, **BY)
    uri = f"models:/{NAME}@{CHAMPION}"
    texts = [*TEXTS, "The treatment with captopril induced renal failure in two patients.", LONG_TEXT]

    def triples(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        """What the service and the shards hold, as the registered model's table does."""
        return [
            (
                [(e["type"], e["text"], [[o["begin"], o["end"]] for o in e["occurrences"]]) for e in one["entities"]],
                [(r["head"]["text"], r["type"], r["tail"]["text"]) for r in one["relations"]],
                pytest.approx([x["confidence"] for x in (*one["entities"], *one["relations"])], abs=2e-4),
            )
            for one in found
        ]

    table = mlflow.pyfunc.load_model(uri).predict(texts, params=ASKED).to_dict("records")
    registered = [
        (
            [(e["type"], e["text"], e["offsets"]) for e in row["entities"]],
            [(r["head"], r["type"], r["tail"]) for r in row["relations"]],
            [x["confidence"] for x in (*row["entities"], *row["relations"])],
        )
        for row in table
    ]
    assert all(entities for entities, _, _ in registered)
    assert any(relations for _, relations, _ in registered)
    chances = [e["confidence"] for row in table for e in row["entities"]]
    assert all(0.25 <= chance <= 0.75 for chance in chances), "calibrated"
    bare = mlflow.pyfunc.load_model(f"models:/{NAME}/{raw}").predict(texts, params=ASKED)
    probabilities = [e["confidence"] for row in bare["entities"] for e in row]
    assert chances == pytest.approx([0.25 + p / 2 for p in probabilities], abs=2e-4)

    served = resolve_model(uri, root=project)
    assert (served.calibrator, served.instructions["ade"]) == (CALIBRATOR, instruction_for(SCHEMAS["ade"]))
    app = build(ServingSettings(**{**SMALL, "max_new_tokens": 128, "model": uri}), ApiKeys(""), served)
    with running(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        answers = [client.post("/extract", json={"text": text, "schema": "biored"}).json() for text in texts]
    assert len(answers[-1]["windows"]) > 1, "the last text is read in windows"
    assert registered == triples(answers)

    (project / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    job = {"documents": str(project / "texts.jsonl"), "extractions": str(project / "out"), "model": uri}
    run("extraction", params={**job, "extraction": ASKED})
    shards = [row for file in sorted((project / "out").glob("*.parquet")) for row in read_table(file).to_pylist()]
    assert registered == triples(shards)


def test_a_model_of_one_shared_instruction_is_asked_with_it(
    store: str, candidate: Callable[..., Candidate], tmp_path: Path
) -> None:
    number = register(candidate(rows(0.5, 1), instructions={"ade": TASK.shared_instruction}))
    served = resolve_model(f"models:/{NAME}/{number}", root=tmp_path)
    asked = {schema: instruction_of(TASK, served.instructions, schema) for schema in ("ade", "biored")}
    assert asked == dict.fromkeys(asked, TASK.shared_instruction)
    ade = {"ade": instruction_for(SCHEMAS["ade"])}
    assert instruction_of(TASK, ade, "biored") == instruction_for(SCHEMAS["biored"])


def test_a_version_from_before_still_loads(store: str, candidate: Callable[..., Candidate], tmp_path: Path) -> None:
    """Without a calibrator, without the commit in the adapter's configuration, with the parameters of its signature."""
    register(candidate(rows(0.5, 1), calibrator=CALIBRATOR))
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@{CHALLENGER}", dst_path=str(tmp_path / "old")))
    data = next(folder.rglob("extraction.json")).parent
    (data / "calibrator.json").unlink()
    configuration = json.loads((data / "adapter_config.json").read_text())
    del configuration["revision"]
    (data / "adapter_config.json").write_text(json.dumps(configuration))
    asked = {"schema": "", "decoding": "constrained", "max_new_tokens": 64, "batch_size": 32}
    found = _load_pyfunc(str(data)).predict(TEXTS, asked)
    assert all(found["entities"])
    (data / "extraction.json").unlink()
    with pytest.raises(ExtractionError, match="not a packaged model"):
        _load_pyfunc(str(data))


def test_the_pinned_requirements_are_all_that_it_imports(
    store: str, candidate: Callable[..., Candidate], tmp_path: Path
) -> None:
    register(candidate(rows(0.5, 1), calibrator=CALIBRATOR))
    uri = f"models:/{NAME}@{CHALLENGER}"
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "copied")))
    program = (
        "import sys, mlflow\n"
        f"mlflow.pyfunc.load_model({str(folder)!r}).predict({TEXTS!r}, params={{'max_new_tokens': 40}})\n"
        "print(*{name.split('.')[0] for name in sys.modules if not name.startswith('_')})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    pinned = [line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()]
    known = packages_distributions()
    brought = {canonical(name) for name in closure(pinned)}
    foreign = {m for m in loaded & known.keys() if not brought & {canonical(name) for name in known[m]}}
    # what happens to be installed here and is looked at by a library that can do without
    assert foreign - {"odin_slm"} <= OPTIONAL, foreign


def closure(names: list[str]) -> set[str]:
    """The distributions that these need, extras left aside."""
    found: set[str] = set()
    while names:
        name = canonical(names.pop())
        if name not in found:
            try:
                needed = requires(name) or []
            except PackageNotFoundError:  # for another platform
                continue
            found.add(name)
            names += [re.split(r"[^\w.-]", line)[0] for line in needed if "extra ==" not in line]
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


OPTIONAL = {"dill", "orjson"}


def test_mlflow_serves_it(store: str, candidate: Callable[..., Candidate], tmp_path: Path) -> None:
    register(candidate(rows(0.5, 1)))
    uri = f"models:/{NAME}@{CHALLENGER}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--workers", "1"],
            env={**os.environ, "MLFLOW_TRACKING_URI": store, "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            body = {"inputs": TEXTS, "params": {"schema": "ade", "max_new_tokens": 60}}
            answered = _invoke(port, body, server)
            table = _invoke(port, {"dataframe_split": {"columns": ["text"], "data": [[t] for t in TEXTS]}}, server)
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)
    model = mlflow.pyfunc.load_model(uri)
    expected = model.predict(TEXTS, params=body["params"]).to_dict("records")
    assert answered["predictions"] == expected
    assert table["predictions"] == model.predict(TEXTS).to_dict("records")


def _invoke(port: int, body: dict[str, Any], server: subprocess.Popen[bytes]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(800):
        assert server.poll() is None, Path("log").read_text()
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None
        except OSError:
            time.sleep(0.5)
    raise AssertionError(Path("log").read_text())


# Champions


def test_the_commands_promote_demote_and_roll_back(project: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    mlflow.set_experiment("registry")
    one, two = (bare_version(rows(right, 1)) for right in (0.2, 0.9))

    def champion(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.cli, ["champion", *words, "--env", "test"])
        lines = [line for line in done.output.splitlines() if not re.search(r"INFO|WARNING|resolver", line)]
        return done.exit_code, "\n".join(lines)

    assert champion("promote", two)[0] == 0
    code, said = champion("promote", one)
    assert (code, "keep (significantly worse" in said) == (1, True)
    code, said = champion("promote", one, "--force")
    assert (code, "a forced promotion needs a reason" in said) == (1, True)
    assert champion("promote", one, "--force", "--reason", "a trial")[0] == 0
    assert champion("rollback")[1] == f"{NAME} version {two} is the champion again"
    assert champion("demote", "--reason", "recalled")[1] == f"{NAME} version {two} is no longer the champion"
    listed = champion("history")[1].splitlines()
    events = [line for line in listed[:-1] if not line.startswith(" ")]
    assert [line.split()[1] for line in events] == ["promote", "promote", "rollback", "demote"]
    assert events[1].endswith("(forced): a trial")
    assert re.search(r"^ +entity F1 0\.\d+ against 0\.\d+, relation F1 .* \(data 000000000000\)$", listed[2])
    assert listed[-1] == f"{NAME}: no champion"
    code, said = champion("promote", "17", "--force", "--reason", "a trial")
    assert (code, f"The versions are: {one}, {two}." in said) == (1, True)


def test_the_first_is_champion_the_better_takes_its_place_and_the_worse_does_not(store: str) -> None:
    registry = Registry(NAME)
    first, better, worse = (bare_version(rows(right, seed)) for right, seed in ((0.4, 1), (0.9, 2), (0.2, 3)))
    assert registry.promote(first, **BY)["decision"] == "promote"
    decision = registry.promote(better, **BY)
    assert (decision["decision"], decision["champion"]) == ("promote", first)
    assert registry.promote(worse, **BY)["decision"] == "keep"
    assert holder() == better
    assert [event["version"] for event in registry.history()] == [first, better]
    assert registry.version(worse).tags["promotion_why"] == "significantly worse in entity F1 and relation F1"
    assert registry.promote(better, **BY)["why"] == "it is the champion already"


def test_other_data_are_not_compared(store: str) -> None:
    registry = Registry(NAME)
    first = bare_version(rows(0.4, 1))
    registry.promote(first, **BY)
    for other in (bare_version(rows(0.9, 2), manifest="1" * 64), bare_version(rows(0.9, 2, size=79))):
        decision = registry.promote(other, **BY)
        assert decision["decision"] == "keep"
        assert "other data" in decision["why"] or "other examples" in decision["why"]
    assert holder() == first


def test_figures_of_an_earlier_decision_go_with_it(store: str) -> None:
    registry = Registry(NAME)
    first, worse = bare_version(rows(0.9, 1)), bare_version(rows(0.2, 2))
    registry.promote(first, **BY)
    registry.promote(worse, **BY)
    assert registry.version(worse).tags["promotion_champion"] == first
    other = bare_version(rows(0.9, 2), manifest="1" * 64)
    registry.promote(other, **BY, force=True, reason="a trial")
    registry.promote(worse, **BY)
    noted = {key for key in registry.version(worse).tags if key.startswith("promotion_")}
    assert noted == {"promotion_decision", "promotion_why"}


def told(candidate: Callable[..., Candidate], manifest: str, right: int = 40, **changes: Any) -> Candidate:
    """A candidate of other data, that is right about the first so many of 40 texts."""
    found = []
    for number in range(40):
        gold = Extraction((Entity("Drug", "aspirin"), Entity("Symptom", f"rash {number}")))
        predicted = gold if number < right else Extraction()
        found.append(
            {"id": f"t{number}", "source": "ade", "document_id": f"d{number}", "manifest_sha256": manifest}
            | {"input": f"After aspirin rash {number} came.", "gold": render(gold), "decoding": "constrained"}
            | {"prediction": render(predicted)}
        )
    return candidate(found, manifest_sha256=manifest, **changes)


def test_a_champion_of_other_data_is_asked_for_this_test_set(
    project: Path, candidate: Callable[..., Candidate]
) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    mlflow.set_experiment("registry")
    registry = Registry(NAME)
    synthetic = register(candidate(rows(0.9, 1)))
    registry.promote(synthetic, **BY)
    real = register(told(candidate, "a" * 64, experiment="nano"))
    decision = registry.promote(real, **BY)
    assert (decision["decision"], decision["metrics"]) == ("keep", None)
    assert decision["why"].startswith(f"champion {synthetic} was made of other data (manifest 000000000000, here aaaa")

    done = CliRunner().invoke(cli.cli, ["champion", "promote", real, "--rescore", "--env", "test"])
    assert (done.exit_code, holder()) == (0, real)
    tags = registry.version(real).tags
    assert (tags["promotion_champion"], tags["promotion_rescored"]) == (synthetic, "true")
    assert tags["promotion_manifest_sha256"] == "a" * 64
    assert (tags["promotion_entity_f1_micro"], tags["promotion_decision"]) == ("1.0000", "promote")
    met = registry.history()[-1]["test"]
    assert (met["manifest_sha256"], met["rescored"]) == ("a" * 64, True)
    assert met["entity_f1_micro"] == [1.0, float(tags["promotion_champion_entity_f1_micro"])]
    kept = mlflow.artifacts.load_text(f"runs:/{registry.version(real).run_id}/{CHAMPION_PREDICTIONS}")
    answers = [json.loads(line) for line in kept.splitlines()]
    assert {row["champion"] for row in answers} == {synthetic}

    # What it says there is what the registered version says, asked for the corpus of the text.
    (predicted,) = [row["prediction"] for row in answers if row["id"] == "t7"]
    asked, text = {"schema": "ade", "max_new_tokens": 60}, "After aspirin rash 7 came."
    answer = mlflow.pyfunc.load_model(f"models:/{NAME}/{synthetic}").predict([text], params=asked)
    assert {(e.type, e.text.casefold()) for e in parse(predicted).extraction.entities} == {
        (e["type"], e["text"].casefold()) for e in answer["entities"][0]
    }

    # Answers of a champion that is none any more decide nothing; nor is one asked whose predictions will do.
    other = register(told(candidate, "b" * 64, experiment="v15"))
    decision = registry.promote(other, **BY, champion_predictions=answers)
    assert (decision["decision"], decision["rescored"]) == ("keep", False)
    options = {"batch_size": 8, "max_new_tokens": "auto"}
    assert rescore(registry.as_champion(), registry.predictions(real), "a" * 64, **options) == []
    worse = register(told(candidate, "c" * 64, right=0, experiment="v16"))
    answers = rescore(registry.as_champion(), registry.predictions(worse), "c" * 64, **options)
    decision = registry.promote(worse, **BY, champion_predictions=answers)
    assert (decision["decision"], decision["rescored"], decision["champion"]) == ("keep", True, real)


def test_a_run_asks_a_champion_of_other_data(project: Path, run: Callable[..., dict[str, Any]]) -> None:
    fewer = {"evaluation": {**LONGER["evaluation"], "num_samples": 3}}
    run(params=fewer)
    again = {**fewer, "combination": {"seed": 7}}
    run(params=again)
    promotion = project / "data/08_reporting/test/promotion.json"
    first, second = json.loads(promotion.read_text()), project / "data/07_model_output/test/champion_predictions.jsonl"
    assert re.search(r"champion 1 was made of other data .*promotion\.rescore=true", first["why"])
    assert second.read_text() == ""
    run("evaluation", "publishing", params={**again, "promotion": {"rescore": True}})
    decision = json.loads(promotion.read_text())
    assert (decision["champion"], decision["rescored"]) == ("1", True)
    assert decision["metrics"]["entity_f1_micro"]["value"] == pytest.approx(
        decision["figures"]["entity_f1_micro"][0] - decision["figures"]["entity_f1_micro"][1]
    )
    version = Registry(NAME).version("2")
    assert (version.tags["promotion_why"], version.tags["promotion_rescored"]) == (decision["why"], "true")
    assert len(second.read_text().splitlines()) == 3


def test_a_checkpoint_is_not_judged_by_the_predictions_of_the_final_adapter(
    store: str, candidate: Callable[..., Candidate]
) -> None:
    with mlflow.start_run() as active:
        mlflow.log_text(json.dumps(rows(0.9, 1)[0]) + "\n", _PREDICTIONS)
        number = Registry(NAME).register(candidate([], metrics={}), active.info.run_id)
    decision = Registry(NAME).promote(number, **BY)
    assert (decision["decision"], decision["why"]) == ("keep", f"version {number} has no predictions")
    assert Registry(NAME).promote(number, **BY, force=True, reason="a trial")["decision"] == "promote"


def test_force_needs_a_reason_and_the_reason_is_kept(store: str) -> None:
    registry = Registry(NAME)
    for right in (0.9, 0.2):
        number = bare_version(rows(right, 1))
        registry.promote(number, **BY)
    with pytest.raises(RegistryError, match=r"needs a reason"):
        registry.promote(number, **BY, force=True, reason="  ")
    decision = registry.promote(number, **BY, force=True, reason="smaller, for the ward's tablets")
    assert decision["metrics"]["entity_f1_micro"]["value"] < 0, "what the test said is kept beside it"
    last = registry.history()[-1]
    assert (last["version"], last["previous"], last["forced"]) == (number, "1", True)
    assert last["reason"] == "smaller, for the ward's tablets"
    assert {"by", "at"} <= {key for key, value in last.items() if value}


def test_a_user_without_a_name_moves_the_champion_with_its_history(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    registry = Registry(NAME)
    registry.promote(bare_version(rows(0.9, 1)), **BY)
    (event,) = registry.history()
    assert (event["version"], event["by"]) == ("1", f"uid {os.getuid()}")


def test_demotion_and_rollback(store: str) -> None:
    registry = Registry(NAME)
    with pytest.raises(RegistryError, match="no champion"):
        registry.demote()
    one, two, three = (bare_version(rows(right, 1)) for right in (0.2, 0.5, 0.9))
    for number in (one, two, three):
        assert registry.promote(number, **BY)["decision"] == "promote"
    assert registry.rollback("wrong on dosages") == two
    assert registry.demote() == two
    assert registry.champion() is None
    assert registry.rollback() == one
    assert holder() == one
    with pytest.raises(RegistryError, match="no champion before"):
        registry.rollback()
    events = [(event["action"], event["version"], event["previous"]) for event in registry.history()]
    assert events[3:] == [("rollback", two, three), ("demote", None, two), ("rollback", one, None)]


def test_a_champion_that_was_set_outside_takes_nobody_along(store: str) -> None:
    registry = Registry(NAME)
    one, two, three = (bare_version(rows(right, 1)) for right in (0.2, 0.5, 0.9))
    for number in (one, two):
        registry.promote(number, **BY)
    mlflow.MlflowClient().set_registered_model_alias(NAME, CHAMPION, three)
    assert registry.demote() == three
    assert registry.rollback() == two


def test_the_place_of_a_demoted_champion_is_taken_by_nobody_unasked(store: str) -> None:
    registry = Registry(NAME)
    bad, other = (bare_version(rows(right, 1)) for right in (0.5, 0.9))
    assert registry.promote(bad, **BY)["decision"] == "promote"
    registry.demote("it harms")
    for number in (bad, other):  # the next run of the recalled model, and of any other
        decision = registry.promote(number, **BY)
        assert decision["decision"] == "keep"
        assert "demoted (it harms)" in decision["why"]
        assert holder() is None
    assert registry.promote(other, **BY, force=True, reason="looked at by the ward")["decision"] == "promote"
    assert holder() == other


def test_a_decision_about_a_champion_of_before_is_made_anew(store: str) -> None:
    """A node decides without the lock; the alias is written under it, by the same rules."""
    registry = Registry(NAME)
    first, mine, best = (bare_version(rows(right, 1)) for right in (0.2, 0.6, 0.95))
    registry.promote(first, **BY)
    judged = judge(rows(0.6, 1), registry.as_champion(), TASK, manifest_sha256="0" * 64, **TEST)
    assert (judged["decision"], judged["champion"]) == ("promote", first)
    promotion = Promotion(mine, conclude(judged, force=False, reason=""), TASK, TEST)
    registry.promote(best, **BY)

    decision = registry.apply(promotion)
    assert (decision["decision"], decision["champion"]) == ("keep", best)
    assert holder() == best
    registry.demote("it harms")
    assert "demoted (it harms)" in registry.apply(promotion)["why"]
    assert holder() is None


def test_a_decision_that_still_holds_is_carried_out_as_it_is(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(NAME)
    predictions = rows(0.2, 1)
    judged = judge(predictions, registry.as_champion(), TASK, manifest_sha256="0" * 64, **TEST)
    first, other = bare_version(predictions), bare_version(rows(0.9, 2))
    monkeypatch.setattr(Registry, "_judged", lambda *_: pytest.fail("it was decided already"))
    decision = registry.apply(Promotion(first, conclude(judged, force=False, reason=""), TASK, TEST))
    assert (decision["decision"], holder()) == ("promote", first)
    monkeypatch.undo()
    judged = judge(rows(0.9, 1), registry.as_champion(), TASK, manifest_sha256="0" * 64, **TEST)
    assert (
        registry.apply(Promotion(other, conclude(judged, force=False, reason=""), TASK, TEST))["decision"] == "promote"
    )
    assert registry.version(other).tags["promotion_why"].startswith("significantly better")


def test_a_rollback_goes_below_an_alias_that_was_set_elsewhere(store: str) -> None:
    registry = Registry(NAME)
    one, two, three = (bare_version(rows(right, 1)) for right in (0.2, 0.5, 0.9))
    registry.promote(one, **BY)
    registry.promote(two, **BY)
    mlflow.MlflowClient().set_registered_model_alias(NAME, CHAMPION, three)  # as on MLflow's page
    assert registry.rollback() == two
    assert registry.rollback() == one


def test_equal_models_that_come_at_once_are_one_version(
    store: str, candidate: Callable[..., Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    same, log = candidate(rows(0.5, 1)), Registry._log

    def meanwhile(self: Registry, *given: Any) -> None:
        monkeypatch.setattr(Registry, "_log", log)
        # The other run is through before this one has written its files.
        assert Registry(NAME).register(same, given[1]) == "1"
        log(self, *given)

    monkeypatch.setattr(Registry, "_log", meanwhile)
    assert register(same) == "1"
    assert [str(version.version) for version in Registry(NAME).versions()] == ["1"]


def test_line_separators_in_a_text_end_no_row(store: str, candidate: Callable[..., Candidate]) -> None:
    (row, *others) = rows(0.5, 1)
    odd = [{**row, "input": "one\u2028two\u2029three\x85four"}, *others]
    number = register(candidate(odd))
    assert Registry(NAME).predictions(number) == odd


def test_a_champion_whose_predictions_are_gone_stays(store: str) -> None:
    registry = Registry(NAME)
    first = bare_version(rows(0.2, 1))
    registry.promote(first, **BY)
    uri = mlflow.get_run(registry.version(first).run_id).info.artifact_uri
    (Path(uri.removeprefix("file://")) / _PREDICTIONS).unlink()
    decision = registry.promote(bare_version(rows(0.9, 2)), **BY)
    assert decision["decision"] == "keep"
    assert "cannot be read" in decision["why"]


PROMOTE_AT_ONCE = """
import os, pathlib, time
import mlflow
from odin_slm.tasks import load
from odin_slm.tracking.registry import Registry

task = load({{"name": "extraction"}})
children = []
start = time.monotonic() + 3
for number in {numbers}:
    children.append(os.fork())
    if not children[-1]:
        mlflow.set_tracking_uri({store!r})
        registry = Registry({name!r})
        registry.versions()
        time.sleep(max(0, start - time.monotonic()))
        task = load({{"name": "extraction"}})
        said = registry.promote(number, task=task, test={test}, run_id="run-" + number)["decision"]
        pathlib.Path("said-" + number).write_text(said)
        os._exit(0)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""


def test_eight_promotions_at_once_leave_one_champion(store: str) -> None:
    """Each of eight processes promotes a version of its own by the test; the best one stays, whatever the order."""
    numbers = [bare_version(rows(right, 1)) for right in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.95)]
    program = PROMOTE_AT_ONCE.format(store=store, name=NAME, **BY, numbers=numbers)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    subprocess.run([sys.executable, "-c", program], env=env, check=True, timeout=400)
    decisions = [Path(f"said-{number}").read_text() for number in numbers]

    registry = Registry(NAME)
    holders = [str(v.version) for v in registry.versions() if CHAMPION in registry.version(v.version).aliases]
    assert holders == [numbers[-1]]
    history = registry.history()
    promoted = [number for number, said in zip(numbers, decisions, strict=True) if said == "promote"]
    assert sorted(event["version"] for event in history) == sorted(promoted)
    assert [event["previous"] for event in history] == [None, *[event["version"] for event in history[:-1]]]
    assert history[-1]["version"] == numbers[-1]
    assert all(event["run_id"] == f"run-{event['version']}" for event in history)
