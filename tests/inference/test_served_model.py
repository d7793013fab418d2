"""Which model is served: by folder, release, registry and run."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import mlflow
import pandas
import pytest

from extraction_values import TASK
from inference.test_generation import make_adapter
from odin_slm.core.errors import ExtractionError, OdinError, ServingError
from odin_slm.core.hashing import sha256_of
from odin_slm.inference.packaged_model import PackagedModel
from odin_slm.inference.reading import DEFAULTS, Reader
from odin_slm.inference.served_model import ServedModel, resolve_model
from odin_slm.models.base_model import BaseModel, weights_sha256
from odin_slm.tasks.extraction.format import instruction_for
from odin_slm.tasks.extraction.schema import SCHEMAS

NAME = "odin-medical-ner-re"


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(BaseModel("tiny", tiny_base), tmp_path_factory.mktemp("data") / "06_models/demo/adapter")


def test_an_adapter_comes_with_its_base_and_measured_scores(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    reports = adapter.parents[2] / "08_reporting/demo"
    reports.mkdir(parents=True, exist_ok=True)
    metrics = {f"{kind}_metrics": {"micro": {"f1": 0.5}} for kind in ("entity", "relation")}
    (reports / "evaluation_results.json").write_text(json.dumps({**metrics, "test_set": {"documents": 9}}))
    found = resolve_model(str(adapter), root=tmp_path, base_model=str(tiny_base))
    assert (found.adapter, found.base.path) == (adapter, tiny_base)
    assert found.metrics == {"entity_f1_micro": 0.5, "relation_f1_micro": 0.5}
    assert (found.card["adapter"]["r"], found.card["test_set"]["documents"]) == (4, 9)
    assert found.created == (adapter / "adapter_model.safetensors").stat().st_mtime
    assert resolve_model(str(tiny_base), root=tmp_path).digest != found.digest


def test_what_was_measured_of_an_earlier_adapter_is_left_out(
    adapter: Path, tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data/06_models/demo/adapter"
    shutil.copytree(adapter, folder)
    metrics = {f"{kind}_metrics": {"micro": {"f1": 0.5}} for kind in ("entity", "relation")}

    def served(sha256: str) -> ServedModel:
        told = {"calibrator.json": {"records": 9}, "evaluation_results.json": metrics}
        for layer, (name, values) in zip(("07_model_output", "08_reporting"), told.items(), strict=True):
            file = tmp_path / "data" / layer / "demo" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({**values, "adapter_sha256": sha256}))
        return resolve_model(str(folder), root=tmp_path, base_model=str(tiny_base))

    of_it = served(sha256_of(folder / "adapter_model.safetensors"))
    assert (of_it.calibrator or {}).get("records") == 9
    assert of_it.metrics == {"entity_f1_micro": 0.5, "relation_f1_micro": 0.5}
    assert not caplog.messages
    of_another = served(sha256_of(folder / "adapter_config.json"))
    assert (of_another.calibrator, of_another.metrics) == (None, {})
    assert [message.split()[0].rpartition("/")[2] for message in caplog.messages] == [
        *("calibrator.json", "evaluation_results.json")
    ]


@pytest.mark.parametrize("content", ['{"peft_type": "LO', "[" * 10**5])
@pytest.mark.parametrize("name", ["adapter_config.json", "calibrator.json", "evaluation_results.json"])
def test_a_broken_file_of_a_model_is_named(
    name: str, content: str, adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "model")
    (tmp_path / "model" / name).write_text(content)
    with pytest.raises(OdinError, match=name):
        resolve_model("model", root=tmp_path, base_model=str(tiny_base))


def test_an_operating_point_of_a_later_version_is_refused_at_the_start(
    adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "model")
    (tmp_path / "model/calibrator.json").write_text(json.dumps({"records": 9, "operating_point": {"version": 99}}))
    with pytest.raises(OdinError, match="operating point has version 99"):
        resolve_model("model", root=tmp_path, base_model=str(tiny_base))


def test_weights_in_shards_have_a_hash(tiny_base: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(tiny_base, tmp_path / "whole")
    one = weights_sha256(whole)
    assert one == sha256_of(whole / "model.safetensors")
    (whole / "model.safetensors").rename(whole / "model-00001-of-00001.safetensors")
    assert weights_sha256(whole) not in (None, one)
    assert weights_sha256(tmp_path) is None


def test_results_of_another_form_are_no_scores(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "model")
    for others in ({"accuracy": 0.9}, [0.9], {"entity_metrics": 0.9}):
        (tmp_path / "model/evaluation_results.json").write_text(json.dumps(others))
        found = resolve_model("model", root=tmp_path, base_model=str(tiny_base))
        assert (found.metrics, "test_set" in found.card) == ({}, False)


def test_a_release_carries_its_base(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "model")
    shutil.copytree(tiny_base, tmp_path / "model/base")
    found = resolve_model("model", root=tmp_path)
    assert found.base.path == tmp_path / "model/base"
    assert found.digest == resolve_model(str(adapter), root=tmp_path, base_model=str(tiny_base)).digest


def test_a_packaged_model_reads_one_text_and_names_what_it_cannot_read(tiny_base: Path) -> None:
    instructions = {"ade": instruction_for(SCHEMAS["ade"])}
    base = BaseModel("tiny", tiny_base)
    model = PackagedModel(ServedModel("tiny", base, None, "", 0.0, TASK, instructions=instructions, schema="ade"))
    text = "Aspirin caused a rash."
    assert model.predict(text, {"max_new_tokens": 8}).equals(model.predict([text], {"max_new_tokens": 8}))
    for texts, options, where in (
        (text, {}, "texts"),
        ([text], {"max_new_tokens": "8"}, "max_new_tokens"),
        ([text], {"batch_size": None}, "batch_size"),
        ([text], {"window_tokens": 99.5}, "window_tokens"),
    ):
        with pytest.raises(ExtractionError, match=where):
            model.extract(texts, **options)
    with pytest.raises(ExtractionError, match="column `text`"):
        model.predict(pandas.DataFrame())


def test_one_bad_text_costs_its_own_row(tiny_base: Path) -> None:
    instructions = {"ade": instruction_for(SCHEMAS["ade"])}
    base = BaseModel("tiny", tiny_base)
    model = PackagedModel(ServedModel("tiny", base, None, "", 0.0, TASK, instructions=instructions, schema="ade"))
    good = "Cough developed after enalapril."
    bad = [None, "   ", float("nan"), pandas.NA, pandas.NaT, 5, b"Rash", ["Rash"], "half \ud800", "\u200b\n", {}]
    asked = {"max_new_tokens": 8}
    alone = model.predict([good], asked).to_dict("records")[0]
    given = [good, *bad, good, f"{good} " * 200]
    for table in (pandas.DataFrame({"text": given}), pandas.DataFrame({"id": range(len(given)), "text": given}), given):
        first, *rows, again, long = model.predict(table, asked).to_dict("records")
        assert first == again == alone
        assert (alone["error"], long["error"]) == (None, None)
        assert [(row["entities"], row["relations"], row["finished"]) for row in rows] == [([], [], False)] * len(bad)
        reasons = [row["error"] for row in rows]
        assert all("missing" in reasons[n] for n in (0, 2, 3, 4))
        assert all("blank" in reasons[n] for n in (1, 9))
        assert "int" in reasons[5]
        assert "surrogate" in reasons[8]
    for empty in ([], pandas.DataFrame({"text": []})):
        assert model.predict(empty).columns.tolist() == ["entities", "relations", "finished", "error"]
    assert model.predict([None, ""])["error"].notna().all()


def test_a_model_judges_pairs_as_its_calibrator_says(talkative_base: Path, tmp_path: Path) -> None:
    """With thresholds that accept everything: then all legal pairs of what is listed are related."""
    folder = shutil.copytree(talkative_base, tmp_path / "model")
    calibrator = {"pairs": {"mode": "pairs", "thresholds": dict.fromkeys(TASK.types.relations, -99.0)}}
    calibrator |= {kind: {"method": "none"} for kind in ("entity", "relation")}
    (folder / "calibrator.json").write_text(json.dumps(calibrator))
    model = resolve_model(str(folder), root=tmp_path)
    reader = Reader(
        model.base,
        None,
        task=model.task,
        source="biored",
        constrained=True,
        calibrator=model.calibrator,
        **{**DEFAULTS, "max_new_tokens": 160},
    )
    texts = ["Aspirin caused nausea.", "Enalapril and aspirin, then fever.", "Codeine with aspirin: rash, fever."]
    related = 0
    for found in reader.extract(texts):
        assert not isinstance(found, OdinError)
        entities = found.reading.to_dict()["entities"]
        legal = {
            (head["text"].casefold(), name, tail["text"].casefold())
            for name, signatures in TASK.types.signatures
            for head, tail in itertools.product(entities, entities)
            if (head["type"], tail["type"]) in signatures and head["text"].casefold() != tail["text"].casefold()
        }
        relations = found.reading.to_dict()["relations"]
        assert {(r["head"]["text"].casefold(), r["type"], r["tail"]["text"].casefold()) for r in relations} == legal
        assert all(0 <= relation["confidence"] <= 1 for relation in relations)
        related += len(relations)
    assert related


def test_the_digest_pins_the_model(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    digest = resolve_model(str(tiny_base), root=tmp_path).digest
    assert resolve_model(str(tiny_base), root=tmp_path, digest=digest).digest == digest
    with pytest.raises(ServingError, match="expected sha256:0"):
        resolve_model(str(tiny_base), root=tmp_path, digest=f"sha256:{'0' * 64}")
    for name in ("special_tokens_map.json", "generation_config.json"):  # either may name another end
        changed = shutil.copytree(tiny_base, tmp_path / name)
        (changed / name).write_text('{"eos_token": "<|pad|>", "eos_token_id": 3}')
        assert resolve_model(str(changed), root=tmp_path).digest != digest


def test_the_champion_comes_from_the_registry(
    adapter: Path, tiny_base: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    champion = f"models:/{NAME}@champion"
    with pytest.raises(ServingError, match="Register a model first"):
        resolve_model(champion, root=tmp_path)

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("x", artifact_location=str(tmp_path / "artifacts"))
    run = client.create_run(experiment).info.run_id
    client.log_metric(run, "entity_f1_micro", 0.75)
    client.log_artifacts(run, str(adapter), "model")
    client.create_registered_model(NAME)
    version = client.create_model_version(NAME, f"runs:/{run}/model", run_id=run).version
    client.set_registered_model_alias(NAME, "champion", version)

    found = resolve_model(champion, root=tmp_path, base_model=str(tiny_base))
    assert found.digest == resolve_model(str(adapter), root=tmp_path, base_model=str(tiny_base)).digest
    assert found.metrics == {"entity_f1_micro": 0.75}
    assert found.card["registry"]["version"] == version
    assert found.created == client.get_model_version(NAME, version).creation_timestamp / 1000
    for other in (f"models:/{NAME}/{version}", f"runs:/{run}/model"):
        assert resolve_model(other, root=tmp_path, base_model=str(tiny_base)).digest == found.digest
    client.log_text(run, "nothing", "notes/a.txt")
    with pytest.raises(ServingError, match="found 0"):
        resolve_model(f"runs:/{run}/notes", root=tmp_path)


@pytest.mark.parametrize("source", ["data/nowhere", "models:/", "no such thing", "models:/a/b/c"])
def test_what_is_not_there_is_named(source: str, tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with pytest.raises(OdinError):
        resolve_model(source, root=tmp_path)


def test_a_model_that_was_registered_before_tasks_were_values_loads_and_is_served(
    adapter: Path, tiny_base: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loader is at its old place, and its folder names no task."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    packaged = tmp_path / "packaged"
    shutil.copytree(adapter, packaged)
    shutil.copytree(tiny_base, packaged / "base")
    settings = {
        "base": {"id": "owner/tiny", "revision": None, "included": True},
        "instructions": {"ade": instruction_for(SCHEMAS["ade"])},
        "schema": "ade",
    }
    (packaged / "extraction.json").write_text(json.dumps(settings))
    mlflow.pyfunc.save_model(
        str(tmp_path / "saved"), loader_module="odin_slm.engines.extractor", data_path=str(packaged)
    )
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = mlflow.MlflowClient()
    run = client.create_run(client.create_experiment("x", artifact_location=str(tmp_path / "artifacts"))).info.run_id
    client.log_artifacts(run, str(tmp_path / "saved"), "model")
    client.create_registered_model(NAME)
    client.create_model_version(NAME, f"runs:/{run}/model", run_id=run)

    model = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    answers = model.predict(pandas.DataFrame({"text": ["Aspirin caused a rash."]}))
    assert list(answers.columns) == ["entities", "relations", "finished", "error"]
    found = resolve_model(f"models:/{NAME}/1", root=tmp_path)
    assert (found.task, found.schema, found.default_source) == (TASK, "ade", "ade")
    assert found.adapter
    assert found.base.path == found.adapter / "base"
